"""Sensitivity to ranks: each point is what the factorized model gives, and rules come of it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.report.page.charts import sensitivity_figures
from keras_compress.structured.sensitivity import Scan

X = np.random.default_rng(0).normal(size=(80, 6, 8)).astype("float32")


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(1)
    steps = keras.Input((6, 8))
    x = layers.Conv1D(12, 3, padding="same", activation="relu", name="conv")(steps)
    x = layers.Bidirectional(layers.LSTM(6), name="cell")(x)
    x = layers.Dense(24, activation="relu", name="hidden")(x)
    return keras.Model(steps, layers.Dense(3, name="head")(x))


def answers(model: keras.Model) -> Any:
    return np.asarray(model(X))


def test_each_point_is_that_of_the_factorized_model(model: keras.Model) -> None:
    before = [np.array(each) for each in model.get_weights()]
    found = kc.sensitivity(model, of="ranks", data=X, ratios=(0.5, 0.75), filters="re:conv|cell|hidden")
    assert (found.criterion, found.unpruned, found.measured) == ("svd", 120.0, "signal to noise, dB")
    assert [(each.name, each.width) for each in found.groups] == [("conv", 12), ("cell", 12), ("hidden", 12)]
    for group in found.groups:
        for ratio, value in zip(found.tried, group.values, strict=True):
            rank = round(group.width * (1 - ratio))
            made = kc.factorize(model, "svd", data=X, rank=rank, filters=group.name)
            if kc.factorization_of(made).layers:  # type: ignore[union-attr]
                assert value == pytest.approx(sqnr_db(answers(model), answers(made)), abs=0.02)
        assert group.values[0] > group.values[1] + 1
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_accuracy_with_labels_and_rules(model: keras.Model) -> None:
    labels = answers(model).argmax(-1)
    found = kc.sensitivity(model, of="ranks", data=(X, labels), ratios=(0.3, 0.9))
    assert (found.unpruned, found.measured) == (1.0, "accuracy")
    hidden = next(each for each in found.groups if each.name == "hidden")
    low = kc.factorize(model, "svd", data=X, rank=1, filters="hidden")
    assert hidden.values[1] == pytest.approx(float((answers(low).argmax(-1) == labels).mean()))
    drop = 1.0 - hidden.values[1]
    assert drop > 0
    rules = found.ranks(drop)  # type: ignore[attr-defined]
    assert {"layers": "hidden", "rank": 1} in rules
    assert {"layers": "hidden", "rank": 1} not in found.ranks(drop - 0.01)  # type: ignore[attr-defined]
    # Every layer has a rank or is skipped: no target is needed.
    record = kc.factorization_of(kc.factorize(model, "svd", rules=rules))
    assert ("hidden", (1,)) in [(each.path, each.rank) for each in record.layers]  # type: ignore[union-attr]


def test_it_is_shown_saved_and_drawn(model: keras.Model, tmp_path: Any) -> None:
    found = kc.sensitivity(model, lambda made: float(-abs(answers(made)).mean()), of="ranks", filters="re:conv|hidden")
    assert "at full rank" in str(found)
    assert "conv" in str(found)
    again = type(found).from_json(found.to_json())
    assert again == found
    assert isinstance(again, Scan)
    axes = found.plot(tmp_path / "ranks.png").axes[0]
    assert axes.get_xlabel() == "share of the group's rank removed"
    assert sensitivity_figures(found)["unit"] == "rank"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "auto", "data": X}, "one method"),
        ({"method": "cp", "data": X}, "layer that can be factorized"),
        ({"ratios": (1.0,), "data": X}, "ratios"),
        ({}, "Expected `evaluate`"),
        ({"bits": (4,), "data": X}, "Expected options out of"),
    ],
)
def test_refusals(model: keras.Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kc.sensitivity(model, of="ranks", **options)
