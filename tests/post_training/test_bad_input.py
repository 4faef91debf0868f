"""What each level makes of data and models that are not what they should be: an error that says so, or a note."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.post_training import quantize
from keras_compress.post_training.fine_tune import fine_tune
from keras_compress.post_training.opened import SAMPLES
from keras_compress.post_training.record import record_of

LEVELS = (1, 2, 3)
QUICK: dict[str, Any] = {"fine_tune": {"steps": 5}, "synthetic_data": {"steps": 5, "samples": 16}}


@cache
def net(norm: bool = True, activation: str = "relu") -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((6,), name="image")
    x = layers.Dense(5, name="a")(image)
    x = layers.BatchNormalization(name="norm")(x) if norm else x
    x = layers.Activation(activation, name="activation")(x)
    return keras.Model(image, layers.Dense(3, name="b")(x), name="net")


def data(count: int = 32) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32)


def quantized(model: keras.Model, level: int, x: Any, **settings: Any) -> keras.Model:
    x = None if level == 1 else x
    made = kc.quantize_post_training(model, x, level=level, options=QUICK, report=False, **settings)
    assert np.isfinite(np.asarray(made(data()))).all()
    return made


@pytest.mark.parametrize("level", LEVELS[1:])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.full((32, 6), np.nan, np.float32), "Expected finite representative data. Received: NaN or inf"),
        (np.full((32, 6), np.inf, np.float32), "Expected finite representative data"),
        (np.zeros((0, 6), np.float32), "Expected at least one sample"),
        (np.zeros((32, 7), np.float32), "'image'"),
        (np.zeros((32, 6), np.uint8), "dtype float32, prepared as for inference"),
        (None, "Expected `data` for level"),
    ],
    ids=["NaN", "infinite", "none", "another shape", "bytes", "missing"],
)
def test_data_that_are_none_are_refused(level: int, x: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantized(net(), level, x)


@pytest.mark.parametrize("level", LEVELS[1:])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_data_of_one_value_are_said(level: int, value: float) -> None:
    with pytest.warns(UserWarning, match=rf"all values are equal in input 'image' \(all {value:g}"):
        quantized(net(), level, np.full((32, 6), value, np.float32))


@pytest.mark.parametrize("level", LEVELS[1:])
def test_one_sample_is_said(level: int) -> None:
    with pytest.warns(UserWarning, match="Expected 16 samples or more for .*better some hundreds. Received: 1"):
        made = quantized(net(), level, data(1))
    left = [note for note in record_of(made).notes if note.startswith("Left out: fine_tune: Expected 16 samples")]
    assert len(left) == (level == 3)


@pytest.mark.parametrize("level", LEVELS)
def test_without_normalizations_there_are_no_statistics(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "ENOUGH", np.inf)
    settings: dict[str, Any] = {"weights": "int8", "activations": None, "other_activations": None}
    notes = record_of(quantized(net(norm=False), level, data(), **settings)).notes
    # Whether or not channels are then better left on their scales.
    assert len([note for note in notes if note.startswith("Left out: absorb_bias: Expected a model with Batch")]) == 1


@pytest.mark.parametrize("level", LEVELS)
def test_where_nothing_can_be_equalized_the_reason_is_noted(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "ENOUGH", np.inf)
    notes = record_of(quantized(net(activation="tanh"), level, data())).notes
    (said,) = [note for note in notes if note.startswith("Left out: equalize:")]
    assert "has an activation that they do not pass unchanged" in said


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("made", ["quantized", "pruned"])
def test_a_model_that_is_compressed_already_is_refused(level: int, made: str) -> None:
    model = kc.quantize_model(net()) if made == "quantized" else kc.prune_low_magnitude(net())
    with pytest.raises(ValueError, match="Expected a plain model.*quantized or compressed at"):
        quantized(model, level, data())


def test_of_an_iterator_what_is_left_unread_is_said() -> None:
    def stream(count: int) -> Iterator[np.ndarray]:
        yield from (data(64) for _ in range(count))

    batches = SAMPLES // 64
    with pytest.warns(UserWarning, match=f"an iterator, of which the first {SAMPLES} samples are used"):
        quantized(net(), 2, stream(batches + 1))
    quantized(net(), 2, stream(batches))


@pytest.mark.parametrize("settings", [{}, {"data": data(), "weights": "int4"}])
def test_a_budget_without_data_or_beside_weights_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Expected `data` beside `budget`.*no `weights`"):
        kc.quantize_post_training(net(), budget={"average_bits": 4}, **settings)


def test_a_teacher_that_gives_nan_is_refused() -> None:
    teacher = keras.models.clone_model(net())
    teacher.set_weights([np.full(each.shape, np.nan) for each in teacher.get_weights()])
    with pytest.raises(ValueError, match="Expected a teacher whose outputs are finite"):
        fine_tune(kc.quantize_model(net()), data(), teacher=teacher)


@pytest.mark.parametrize("level", LEVELS[1:])
def test_a_generator_of_many_samples_is_not_held(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is taken from a function that gives generators: never more than the samples of one method."""
    taken: list[int] = []
    concatenate = np.concatenate

    def watched(arrays: Any, *args: Any, **kwargs: Any) -> Any:
        made = concatenate(arrays, *args, **kwargs)
        taken.append(made.nbytes)
        return made

    monkeypatch.setattr(np, "concatenate", watched)
    quantized(net(), level, lambda: (data(500) for _ in range(20)))
    # All of them together take 240,000 bytes; counts of values take some 33,000.
    assert 0 < max(taken) < 120_000
