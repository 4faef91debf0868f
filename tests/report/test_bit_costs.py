"""Bit operations and average bits beside products worked out by hand."""

import keras
import pytest

import keras_compress as kc
from keras_compress.report.bit_costs import input_points


def net() -> keras.Model:
    image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(image)  # 64 * 108 = 6,912 MACs
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)  # 16 * 36 = 576
    x = keras.layers.Flatten()(x)
    return keras.Model(image, keras.layers.Dense(10, name="dense")(x))  # 640


def test_bit_operations() -> None:
    model = net()
    assert kc.Bops().of(model) == (6912 + 576 + 640) * 32 * 32
    assert kc.Bops().of(kc.quantize_model(model)) == (6912 + 576 + 640) * 8 * 8
    rules = [{"layers": "depthwise", "weights": "int2"}, {"layers": "conv", "activations": "int4"}]
    mixed = kc.quantize_model(model, "int4", "int8", rules=rules)
    # What the pooling moves to the depthwise layer are the convolution's 4 bits.
    assert kc.Bops().of(mixed) == 6912 * 4 * 8 + 576 * 2 * 4 + 640 * 4 * 8
    assert {path: point.name for path, point in input_points(mixed).items()} == {
        "conv": "image_quantized",
        "depthwise": "re_lu_quantized",
        "dense": "depthwise_quantized",
    }


def test_average_bits() -> None:
    model = net()
    assert kc.AverageBits().of(model) == 32
    mixed = kc.quantize_model(model, "int4", None, rules=[{"layers": "dense", "weights": "int8"}])
    assert kc.AverageBits().of(mixed) == pytest.approx((108 * 4 + 36 * 4 + 640 * 8) / 784)
    assert [limit.is_fraction for limit in kc.Budget(bits=0.5, average_bits=0.5)] == [True, False]
    assert repr(kc.Budget(average_bits=0.9, bops=0.1)) == (
        "Budget\n  average_bits  0.9 bits of a weight\n  bops          0.1 of the bit operations"
    )


def test_a_layer_whose_multiplications_nobody_knows() -> None:
    image = keras.Input((4, 6))
    model = keras.Model(image, keras.layers.MultiHeadAttention(2, 3, name="attention")(image, image))
    with pytest.raises(ValueError, match="Received: 'attention' of MultiHeadAttention"):
        kc.Bops().of(model)
