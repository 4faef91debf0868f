"""Energy of a training: by hand, by a country, and by a callback."""

from __future__ import annotations

import time

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.report.page.render import energy_saved


def test_by_hand() -> None:
    found = kc.training_energy(1800, watts=250, grams_per_kwh=380)
    assert found.kwh == 0.125
    assert found.co2e_grams == 47.5
    # 0.125 kWh are 450,000 J: 9e10 inferences that save 5 uJ each.
    assert found.pays_back_after(5.0) == pytest.approx(9e10)
    assert kc.training_energy(1, watts=1).co2e_grams is None
    assert "not measured" in repr(found)


def test_a_country_needs_codecarbon(monkeypatch: pytest.MonkeyPatch) -> None:
    codecarbon = pytest.importorskip("codecarbon")
    found = kc.training_energy(3600, watts=1000, country="FRA")
    assert found.kwh == 1
    # France's electricity is mostly nuclear, Poland's mostly coal.
    assert found.co2e_grams < 150 < 500 < kc.training_energy(3600, watts=1000, country="POL").co2e_grams
    assert codecarbon.__name__ in found.source
    with pytest.raises(ValueError, match="ISO code of three letters. Received: country='France'"):
        kc.training_energy(1, watts=1, country="France")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="keras-compress\\[carbon\\]"):
        kc.training_energy(1, watts=1, country="FRA")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seconds": -1, "watts": 1}, "`seconds` >= 0"),
        ({"seconds": 1, "watts": 0}, "`watts` > 0"),
        ({"seconds": 1, "watts": 1, "grams_per_kwh": -1}, "`grams_per_kwh` >= 0"),
        ({"seconds": 1, "watts": 1, "grams_per_kwh": 1, "country": "FRA"}, "Received: both"),
    ],
)
def test_refusals(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kc.training_energy(**arguments)
    with pytest.raises(ValueError, match="saved_uj"):
        kc.training_energy(1, watts=1).pays_back_after(0)


def test_the_callback_adds_up_what_fit_takes() -> None:
    class Slow(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            time.sleep(0.05)

    meter = kc.EnergyMeter(watts=100, grams_per_kwh=400)
    assert meter.energy.kwh == 0
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.zeros((4, 2), np.float32)
    before = time.perf_counter()
    for _ in range(2):
        model.fit(x, x[:, :1], verbose=0, callbacks=[meter, Slow()])
    seconds = time.perf_counter() - before
    assert 0.1 <= meter.energy.seconds <= seconds
    assert meter.energy.co2e_grams == pytest.approx(meter.energy.seconds * 100 / 3.6e6 * 400)


def test_what_is_saved_is_said_of_all_stages() -> None:
    rows = [
        {"name": "float", "energy_uj": 12.0},
        {"name": "int8", "energy_uj": 3.0},
        {"name": "pcqat", "energy_uj": 1.0},
    ]
    (line,) = energy_saved(rows)
    assert "12 uJ (float), 3 uJ (int8), 1 uJ (pcqat): 12.0 times less than float" in line
    assert energy_saved(rows[:1]) == []
    assert energy_saved([{"name": "old report"}, {"name": "of another version"}]) == []
