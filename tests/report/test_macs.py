from __future__ import annotations

import math

import keras
import pytest
from keras import layers

from keras_compress.core.slots import slots_of
from keras_compress.report.macs import positions_by_layer


def macs(layer: layers.Layer, *input_shape: int | None, dtype: str = "float32") -> int | None:
    """Multiplications of a one-layer model: positions times the elements of the weight in question."""
    inputs = keras.Input(input_shape, dtype=dtype)
    model = keras.Model(inputs, layer(inputs))
    positions = positions_by_layer(model)[id(layer)]
    return None if positions is None else positions * sum(math.prod(s.variable(layer).shape) for s in slots_of(layer))


@pytest.mark.parametrize(
    ("layer", "input_shape", "expected"),
    [
        (layers.Dense(7), (5,), 5 * 7),
        (layers.Dense(7), (3, 5), 3 * 5 * 7),
        (layers.Conv2D(4, 3, padding="same"), (8, 6, 2), 8 * 6 * 3 * 3 * 2 * 4),
        (layers.Conv2D(4, 3, strides=2), (9, 9, 2), 4 * 4 * 3 * 3 * 2 * 4),
        (layers.Conv2D(4, 3, groups=2, padding="same"), (8, 8, 6), 8 * 8 * 3 * 3 * 3 * 4),
        (layers.Conv2D(4, 3, dilation_rate=2), (8, 8, 1), 4 * 4 * 3 * 3 * 4),
        (layers.Conv1D(4, 3), (10, 2), 8 * 3 * 2 * 4),
        (layers.Conv3D(2, 2), (3, 3, 3, 1), 8 * 8 * 2),
        (layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2), (8, 8, 5), 8 * 8 * 3 * 3 * 5 * 2),
        (layers.SeparableConv2D(4, 3, padding="same"), (8, 8, 5), 8 * 8 * (3 * 3 * 5 + 5 * 4)),
        (layers.Conv2DTranspose(4, 3, strides=2, padding="same"), (8, 8, 5), 8 * 8 * 3 * 3 * 5 * 4),
        (layers.LSTM(6), (10, 3), 10 * (3 * 24 + 6 * 24)),
        (layers.GRU(6), (10, 3), 10 * (3 * 18 + 6 * 18)),
    ],
)
def test_multiplications_counted_by_hand(layer: layers.Layer, input_shape: tuple[int, ...], expected: int) -> None:
    assert macs(layer, *input_shape) == expected


def test_embedding_multiplies_nothing() -> None:
    assert macs(layers.Embedding(10, 4), 6, dtype="int32") == 0


def test_unknown_shapes_and_layers_are_none() -> None:
    assert macs(layers.Conv2D(4, 3), None, 8, 1) is None
    assert macs(layers.EinsumDense("ab,bc->ac", 4), 5) is None


def test_a_subclass_counts_as_its_keras_class() -> None:
    class Special(layers.Dense):
        pass

    assert macs(Special(7), 5) == 35


def test_a_layer_used_twice_multiplies_twice_in_nested_models_too() -> None:
    dense = layers.Dense(4, name="dense")
    inside = keras.Input((4,))
    nested = keras.Model(inside, dense(inside), name="nested")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, dense(nested(nested(inputs))))
    # Twice inside the nested model and once outside.
    assert positions_by_layer(model)[id(dense)] == 3
    # The nested model on its own calls it once.
    assert positions_by_layer(nested)[id(dense)] == 1
