"""What a training takes: kilowatt hours and grams of CO2, from measured time and a power that is given."""

from __future__ import annotations

import importlib.util
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from keras_compress.core.shown import Shown
from keras_compress.core.suggest import did_you_mean

_JOULES_PER_KWH = 3.6e6
# Where codecarbon keeps its countries, inside the package.
_COUNTRIES = Path("data/private_infra/global_energy_mix.json")


@dataclass(frozen=True, repr=False)
class TrainingEnergy(Shown):
    """Energy of a computation, by its time and a power. A model: no meter was read.

    Attributes:
        seconds: How long it took.
        watts: Power of the machine, as it was given.
        grams_per_kwh: CO2 equivalent of a kilowatt hour; `None`: not known.
        source: Where `grams_per_kwh` comes from.
    """

    seconds: float
    watts: float
    grams_per_kwh: float | None = None
    source: str = ""

    @property
    def kwh(self) -> float:
        """Kilowatt hours."""
        return self.seconds * self.watts / _JOULES_PER_KWH

    @property
    def co2e_grams(self) -> float | None:
        """Grams of CO2 equivalent; `None` where the mix of the electricity is not known."""
        return None if self.grams_per_kwh is None else self.kwh * self.grams_per_kwh

    def pays_back_after(self, saved_uj: float) -> float:
        """How many inferences save what the computation took.

        Args:
            saved_uj: Microjoules that one inference takes less than before, > 0.

        Raises:
            ValueError: Where nothing is saved.
        """
        if not 0 < saved_uj < math.inf:
            raise ValueError(f"Expected `saved_uj` > 0. Received: saved_uj={saved_uj}")
        return self.kwh * _JOULES_PER_KWH / (1e-6 * saved_uj)

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines."""
        co2 = "" if self.co2e_grams is None else f"{self.co2e_grams:.4g} g ({self.grams_per_kwh:g} g/kWh {self.source})"
        return "TrainingEnergy, by time and a given power, not measured", [
            ("time", f"{self.seconds:.4g} s at {self.watts:g} W"),
            ("energy", f"{self.kwh:.4g} kWh"),
            ("CO2e", co2),
        ]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {**vars(self), "kwh": self.kwh, "co2e_grams": self.co2e_grams}


def training_energy(
    seconds: float, *, watts: float, grams_per_kwh: float | None = None, country: str | None = None
) -> TrainingEnergy:
    """Kilowatt hours and CO2 equivalent of a computation.

    Args:
        seconds: Its time, >= 0.
        watts: Power of the whole machine meanwhile, > 0: from a plug's meter, or the data sheets of its parts.
        grams_per_kwh: CO2 equivalent of a kilowatt hour, >= 0, from the supplier.
        country: In its place a country's ISO code, such as `"DEU"`: the yearly mean of codecarbon's table, which the
            extra `carbon` brings (no network is asked).

    Raises:
        ValueError: For figures out of range, both `grams_per_kwh` and `country`, or an unknown country.
        ImportError: For a country without codecarbon.

    >>> run = training_energy(3600, watts=100, grams_per_kwh=300)
    >>> run.kwh, run.co2e_grams
    (0.1, 30.0)
    """
    if not 0 <= seconds < math.inf:
        raise ValueError(f"Expected `seconds` >= 0. Received: seconds={seconds}")
    if not 0 < watts < math.inf:
        raise ValueError(f"Expected `watts` > 0. Received: watts={watts}")
    if grams_per_kwh is not None and not 0 <= grams_per_kwh < math.inf:
        raise ValueError(f"Expected `grams_per_kwh` >= 0. Received: grams_per_kwh={grams_per_kwh}")
    if country is not None and grams_per_kwh is not None:
        raise ValueError("Expected `grams_per_kwh` or `country`. Received: both")
    if country is None:
        return TrainingEnergy(seconds, watts, grams_per_kwh, "given" if grams_per_kwh is not None else "")
    grams, year = _of_country(country)
    return TrainingEnergy(seconds, watts, grams, f"mean of {country}, {year}, codecarbon")


def _of_country(country: str) -> tuple[float, int]:
    """Grams of a kilowatt hour, and the year. The file is read without importing codecarbon, which takes seconds."""
    found = importlib.util.find_spec("codecarbon")
    if found is None or found.origin is None:
        raise ImportError("Expected codecarbon for `country`: `pip install 'keras-compress[carbon]'`. Received: none")
    table = json.loads((Path(found.origin).parent / _COUNTRIES).read_text(encoding="utf-8"))
    if country not in table:
        raise ValueError(
            f"Expected `country` as an ISO code of three letters. Received: country={country!r}"
            f"{did_you_mean(country, table)}"
        )
    return float(table[country]["carbon_intensity"]), int(table[country]["year"])


class EnergyMeter(keras.callbacks.Callback):
    """A callback that adds up the time that `fit` takes; `energy` is what that took.

    One callback may be given to several trainings (`kc.Training(callbacks=[meter])`): their times add up.

    Args:
        watts, grams_per_kwh, country: As for `kc.training_energy`.

    Raises:
        ValueError: See `kc.training_energy`.
    """

    def __init__(self, watts: float, grams_per_kwh: float | None = None, country: str | None = None) -> None:
        super().__init__()
        self._rate = training_energy(0.0, watts=watts, grams_per_kwh=grams_per_kwh, country=country)
        self._seconds = 0.0
        self._began: float | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        self._began = time.perf_counter()

    def on_train_end(self, logs: Any = None) -> None:
        if self._began is not None:
            self._seconds += time.perf_counter() - self._began
            self._began = None

    @property
    def energy(self) -> TrainingEnergy:
        """What all trainings until now took, one that is running not counted."""
        rate = self._rate
        return TrainingEnergy(self._seconds, rate.watts, rate.grams_per_kwh, rate.source)
