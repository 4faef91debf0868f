"""Poolings, paddings and croppings of volumes as operations on images."""

import numpy as np
import pytest
from keras import layers


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
