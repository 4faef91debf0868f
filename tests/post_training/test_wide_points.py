from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.post_training.passes import Situation, chosen
from keras_compress.post_training.record import record_of
from keras_compress.post_training.wide_points import wide_points
from keras_compress.quantizers.activation import QuantizeActivation


def bits_of(model: keras.Model) -> dict[str, int]:
    points = [layer for layer in model.layers if isinstance(layer, QuantizeActivation)]
    return {point.name.removesuffix("_quantized"): point.quantizer.bits for point in points}


def net() -> keras.Model:
    """An image, a dense block of normalization and convolutions, pooled values that are read, a gelu, a sum."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="stem")(image)
    made = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    made = layers.Conv2D(4, 1, activation="relu", name="first")(layers.MaxPooling2D(1, name="pool")(made))
    made = layers.Conv2D(4, 1, name="second")(made)
    x = layers.Concatenate(name="joined")([x, made])
    x = layers.Flatten(name="flat")(layers.LayerNormalization(name="layer_norm")(x))
    made = layers.Dense(8, activation="gelu", name="wide")(x)
    made = layers.Dense(8, name="narrow")(made)
    x = layers.Add(name="sum")([made, layers.Dense(8, name="side")(x)])
    return keras.Model(image, layers.Dense(3, name="logits")(layers.LayerNormalization(name="last_norm")(x)))


def test_few_bits_are_for_what_weights_multiply() -> None:
    quantized = kc.quantize_model(net(), weights="int4", activations="int4")
    assert set(bits_of(quantized).values()) == {4}
    made = wide_points(quantized)
    assert set(bits_of(quantized).values()) == {4}, "the model that was given stays as it was"
    found = bits_of(made)
    assert {name for name, bits in found.items() if bits == 4} == {"relu", "first", "layer_norm", "wide", "last_norm"}
    assert {name for name, bits in found.items() if bits == 8} == {
        *("image", "stem", "joined", "wide_linear", "narrow", "side", "sum", "logits"),
    }
    assert record_of(made).notes == ("8 bits at 8 points, fewer at 5 that weights multiply",)


def test_what_the_first_layer_gives_has_8_bits_where_weights_read_it_too() -> None:
    one, other = keras.Input((4,), name="one"), keras.Input((4,), name="other")
    x = layers.Dense(4, activation="relu", name="first")(one)
    x = layers.Add(name="sum")([layers.Dense(4, name="second")(x), other])
    x = layers.Dense(4, activation="relu", name="third")(x)
    model = keras.Model([one, other], layers.Dense(2, name="logits")(x))
    found = bits_of(wide_points(kc.quantize_model(model, weights="int4", activations="int4")))
    assert {name for name, bits in found.items() if bits == 4} == {"sum", "third"}, "a sum with an input is no input"
    assert found["first"] == found["second"] == found["one"] == found["other"] == found["logits"] == 8


def test_points_of_8_bits_are_not_for_it() -> None:
    with pytest.raises(ValueError, match="fewer than 8 bits that no weights multiply"):
        wide_points(kc.quantize_model(net(), weights="int4", activations="int8"))


def test_it_comes_before_ranges_where_activations_have_few_bits() -> None:
    def names(level: int, **known: int) -> list[str]:
        return [each.name for each in chosen(level, Situation(net(), None, {}, None, None, 0, **known))]

    for level in (1, 2, 3):
        found = names(level, activation_bits=4)
        ranges = "ranges_from_statistics" if level == 1 else "with_ranges"
        assert found.index("wide_points") < found.index(ranges)
        assert "wide_points" not in names(level)


def test_named_passes_leave_it_out(tiny: tuple[keras.Model, np.ndarray]) -> None:
    model, values = tiny
    settings = {"activations": "int4", "report": False, "options": {"with_ranges": {"observer": "min_max"}}}
    made = kc.quantize_post_training(model, values[:32], passes=["wide_points", "with_ranges"], **settings)
    assert bits_of(made)["logits"] == bits_of(made)["image"] == 8
    assert bits_of(made)["depthwise_relu"] == 4
    every = kc.quantize_post_training(model, values[:32], passes=["with_ranges"], **settings)
    assert bits_of(every)["logits"] == 4
