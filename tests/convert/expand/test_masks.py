"""Masks of padded steps: the same function as Keras's, for every padding, and rows that are nothing else."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

STEPS, INPUTS = 4, 3


def padded() -> np.ndarray:
    """Rows padded behind, in front, in the middle, not at all, and everywhere."""
    x = np.random.default_rng(0).normal(size=(5, STEPS, INPUTS)).astype(np.float32)
    x[0, 2:] = x[1, :2] = x[2, 1] = x[4] = 0
    x[3, 0, 0] = 0  # one number of a step that counts
    return x


def stack() -> Any:
    return layers.RNN(layers.StackedRNNCells([layers.LSTMCell(3), layers.GRUCell(2)]), return_sequences=True)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.LSTM(3),
        lambda: layers.LSTM(3, return_sequences=True, go_backwards=True),
        lambda: layers.GRU(3, return_sequences=True),
        lambda: layers.SimpleRNN(3, return_sequences=True, return_state=True),
        lambda: layers.SimpleRNN(3, return_sequences=True, zero_output_for_mask=True),
        lambda: layers.Bidirectional(layers.GRU(2, return_sequences=True)),
        lambda: layers.Bidirectional(layers.SimpleRNN(2)),
        stack,
    ],
)
def test_masked_steps_change_nothing(bench, layer):
    flat = bench.same(bench.model(lambda x: layer()(layers.Masking()(x)), (STEPS, INPUTS)), padded())
    assert not {"NotEqual", "Any", "Masking"} & set(bench.kinds(flat))


def test_a_mask_goes_through_layers_that_keep_it(bench):
    def build(x: Any) -> Any:
        x = layers.TimeDistributed(layers.Dense(3))(layers.Masking()(x))
        return layers.GRU(2)(layers.Dropout(0.5)(layers.LSTM(3, return_sequences=True)(x)))

    bench.same(bench.model(build, (STEPS, INPUTS)), padded())


def test_tokens_of_zero_are_padding(bench):
    model = bench.model(lambda x: layers.GRU(3)(layers.Embedding(6, 4, mask_zero=True)(x)), (STEPS,), dtype="int32")
    bench.same(model, np.array([[3, 1, 0, 0], [0, 0, 5, 2], [1, 0, 0, 4], [2, 3, 4, 5], [0, 0, 0, 0]], np.int32))


def test_first_states_are_no_outputs_of_steps_before_them(bench):
    def build(x: Any, h: Any, c: Any) -> Any:
        return layers.LSTM(3, return_sequences=True, return_state=True)(layers.Masking()(x), initial_state=[h, c])

    states = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
    bench.same(bench.model(build, (STEPS, INPUTS), (3,), (3,)), padded(), *states)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: layers.GRU(2)(layers.Masking(mask_value=-1.0)(x)), "another mask at 'gru.*'; give padded"),
        (lambda x: layers.GRU(2)(x, mask=x[:, :, 0] > 0), "another mask at 'gru"),
        (
            lambda x: layers.TimeDistributed(layers.GRU(2))(
                keras.ops.expand_dims(x, -1), mask=keras.ops.any(keras.ops.not_equal(x, 0), axis=-1)
            ),
            "a layer that takes no mask in TimeDistributed, in int8. Received: GRU",
        ),
        (lambda x: layers.GlobalAveragePooling1D()(layers.Masking()(x)), "GlobalAveragePooling1D without a mask"),
    ],
)
def test_refused_by_name(bench, build, message):
    inputs = keras.Input((STEPS, INPUTS))
    with pytest.raises(ValueError, match=message):
        bench.flatten(keras.Model(inputs, build(inputs)))
