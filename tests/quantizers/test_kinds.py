"""What a layer is to the kernels, as the tables of LiteRT and TFLite-Micro have it."""

from __future__ import annotations

import pytest
from keras import layers

from keras_compress.quantizers.kinds import Kind, activation_name, kind_of, may_follow, splits


@pytest.mark.parametrize(
    ("layer", "name", "kind"),
    [
        (layers.ReLU(), "relu", Kind.CLAMP),
        (layers.ReLU(max_value=6), "relu6", Kind.CLAMP),
        (layers.ReLU(max_value=1.0), "leaky_relu", Kind.FREE),
        (layers.ReLU(negative_slope=0.1), "leaky_relu", Kind.FREE),
        (layers.ReLU(threshold=0.5), "leaky_relu", Kind.FREE),
        (layers.ReLU(max_value=6, negative_slope=0.1), "leaky_relu", Kind.FREE),
        (layers.Activation("linear"), None, Kind.SAME),
        (layers.Activation("sigmoid"), "sigmoid", Kind.FIXED),
        (layers.Activation("swish"), "silu", Kind.FREE),
        (layers.Softmax(), "softmax", Kind.FIXED),
        (layers.Dense(2), None, Kind.LINEAR),
        (layers.Dense(2, activation="relu"), "relu", Kind.LINEAR),
        (layers.BatchNormalization(), None, Kind.NORM),
        (layers.AveragePooling2D(2), None, Kind.AVERAGE),
        (layers.MaxPooling2D(2), None, Kind.SAME),
        (layers.UpSampling2D(interpolation="nearest"), None, Kind.SAME),
        (layers.UpSampling2D(interpolation="bilinear"), None, Kind.AVERAGE),
        (layers.Concatenate(), None, Kind.JOIN),
        (layers.Add(), None, Kind.FREE),
    ],
)
def test_names_and_kinds(layer: layers.Layer, name: str | None, kind: Kind) -> None:
    assert activation_name(layer) == name
    assert kind_of(layer) is kind


def test_what_a_kernel_takes_along() -> None:
    plain, active = layers.Dense(2), layers.Dense(2, activation="relu")
    assert may_follow(Kind.LINEAR, plain, Kind.NORM)
    assert may_follow(Kind.LINEAR, plain, Kind.CLAMP)
    assert not may_follow(Kind.LINEAR, active, Kind.CLAMP)
    assert not may_follow(Kind.FREE, layers.Add(), Kind.NORM)
    assert may_follow(Kind.FREE, layers.Add(), Kind.CLAMP)
    assert not may_follow(Kind.SAME, layers.Flatten(), Kind.CLAMP)
    assert not may_follow(Kind.LINEAR, plain, Kind.FREE)


def test_activations_that_leave_their_layer() -> None:
    assert splits(layers.Dense(2, activation="tanh")) == "tanh"
    assert splits(layers.Dense(2, activation="relu")) is None
    assert splits(layers.Dense(2)) is None
    assert splits(layers.Activation("tanh")) is None
