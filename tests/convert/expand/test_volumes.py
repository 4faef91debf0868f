"""Poolings, paddings and croppings of volumes as operations on images."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.runtime import deployed
from keras_compress.runtime.target import target


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.MaxPooling3D(2),
        lambda: layers.MaxPooling3D((1, 2, 3), strides=(2, 1, 2), padding="same"),
        lambda: layers.AveragePooling3D((2, 1, 3)),
        lambda: layers.AveragePooling3D(3, strides=2, padding="same"),
        layers.GlobalMaxPooling3D,
        layers.GlobalAveragePooling3D,
        lambda: layers.GlobalAveragePooling3D(keepdims=True),
        lambda: layers.ZeroPadding3D(((1, 0), (0, 2), (3, 1))),
        lambda: layers.Cropping3D(((1, 0), (0, 2), (2, 1))),
    ],
)
def test_the_same_function_without_a_volume_in_it(bench, layer):
    flat = bench.same(bench.model(lambda x: layer()(x), (3, 4, 5, 2)))
    assert not any(kind.endswith("3D") for kind in bench.kinds(flat))


def test_channels_first_is_refused(bench):
    model = bench.model(lambda x: layers.ZeroPadding3D(1, data_format="channels_first")(x), (2, 3, 4, 5))
    with pytest.raises(ValueError, match="channels_last"):
        bench.flatten(model)


def test_a_maximum_of_literal_numbers(bench):
    flat = bench.flatten(bench.model(lambda x: layers.MaxPooling3D(2)(x), (2, 2, 2, 1)))
    assert np.asarray(flat(np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2, 1))).item() == 7.0


@pytest.mark.parametrize(
    ("layer", "made"),
    [
        (lambda: layers.AveragePooling3D(2), ["AveragePooling2D", "DepthwiseConv2D"]),
        (lambda: layers.AveragePooling3D((3, 2, 2), strides=1), ["AveragePooling2D", "DepthwiseConv2D"]),
        (lambda: layers.AveragePooling3D((2, 2, 1)), ["DepthwiseConv2D"]),
        (lambda: layers.AveragePooling3D((1, 1, 2)), ["AveragePooling2D", "AveragePooling2D"]),
        # Means at an end are of fewer values, but for those along the width.
        (lambda: layers.AveragePooling3D(2, padding="same"), ["AveragePooling2D", "AveragePooling2D"]),
        (lambda: layers.AveragePooling3D((1, 2, 2), (1, 1, 2), "same"), ["AveragePooling2D", "AveragePooling2D"]),
        (lambda: layers.AveragePooling3D((3, 2, 2), padding="same"), ["AveragePooling2D", "AveragePooling2D"]),
        (lambda: layers.AveragePooling3D((3, 1, 2), (3, 3, 2), "same"), ["AveragePooling2D", "DepthwiseConv2D"]),
        # Keras has no depthwise convolution with two strides.
        (lambda: layers.AveragePooling3D(2, strides=(2, 1, 2)), ["AveragePooling2D", "AveragePooling2D"]),
    ],
)
def test_averages_by_weights_are_those_of_keras(bench, layer, made):
    flat = bench.same(bench.model(lambda x: layer()(x), (3, 4, 5, 2)), measures=True)
    assert [kind for kind in bench.kinds(flat) if "2D" in kind] == made


def test_an_average_of_a_volume_has_a_range_of_its_own():
    """8 values a window: on its input's grid, rounded twice, it has 29.2 dB."""
    x = np.random.default_rng(0).normal(size=(32, 4, 4, 4, 2)).astype(np.float32)
    inputs = keras.Input((4, 4, 4, 2))
    model = keras.Model(inputs, layers.AveragePooling3D(2)(inputs))
    for runtime in ("litert", "tflm"):
        artifact = kc.convert(model, target=runtime, representative_dataset=x)
        kc.verify(artifact, model, x)
        (found,) = deployed.run(target(runtime), artifact.content, [x], "volume")
        assert sqnr_db(model.predict(x, verbose=0), found) > 34


def test_a_trained_range_keeps_the_average_on_its_grid():
    inputs = keras.Input((4, 4, 4, 2))
    model = kc.quantize_model(keras.Model(inputs, layers.AveragePooling3D(2)(layers.Dense(2)(inputs))))
    x = np.random.default_rng(0).normal(size=(8, 4, 4, 4, 2)).astype(np.float32)
    model(x, training=True)
    kinds = [type(layer).__name__ for layer in kc.freeze(model, x).layers]
    assert kinds.count("AveragePooling2D") == 2
