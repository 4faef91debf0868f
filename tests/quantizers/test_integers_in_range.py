"""A user's quantizer whose integers the file cannot hold is refused before anything is written."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_compress as kc
from keras_compress.quantizers.weight_quantizer import IntegerGrid


@functools.cache
def grid(highest: float, rounded: bool = True) -> IntegerGrid:
    def to_integers(weight):
        scale = ops.max(ops.abs(weight), axis=tuple(range(len(weight.shape))), keepdims=True) / highest
        steps = weight / scale
        return ops.round(steps) if rounded else steps, scale

    return IntegerGrid(to_integers)


class Own(kc.WeightQuantizer):
    """With a storage and a grid of its own."""

    def __init__(self, storage_bits: int, highest: float, rounded: bool = True, **kwargs) -> None:
        super().__init__(8, per_channel=False, **kwargs)
        self._bits, self._highest, self._rounded = storage_bits, highest, rounded

    @property
    def storage_bits(self) -> int:
        return self._bits

    def grid(self):
        return grid(self._highest, self._rounded), ()

    def get_config(self):
        config = super().get_config()
        own = {"storage_bits": self._bits, "highest": self._highest, "rounded": self._rounded}
        return {"name": config["name"], **own}


def quantized(quantizer: kc.WeightQuantizer) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((16,)), layers.Dense(4, name="wide")])
    model.layers[0].kernel.assign(np.linspace(-1, 1, 64).reshape(16, 4))
    return kc.graph.model.add_transforms(model, lambda *_: [quantizer], {})


@pytest.mark.parametrize(
    ("bits", "highest", "rounded", "message"),
    [
        (8, 200, True, r"Expected integers from -128 to 127, .*`storage_bits=8` holds. Received: -200 to 200 from Own"),
        (4, 8, True, r"Expected integers from -8 to 7, .*Received: -8 to 8 from Own 'mine', in layer 'wide'"),
        (8, 100, False, r"Expected `to_integers` to give whole numbers. Received: .*from Own 'mine', in layer 'wide'"),
    ],
)
def test_refused_by_the_name_of_layer_and_quantizer(bits: int, highest: float, rounded: bool, message: str) -> None:
    model = quantized(Own(bits, highest, rounded, name="mine"))
    with pytest.raises(ValueError, match=message):
        kc.freeze(model, np.eye(2, 16, dtype=np.float32))


@pytest.mark.parametrize(("bits", "highest"), [(8, 127), (4, 7), (8, 3)])
def test_what_fits_is_kept(bits: int, highest: int) -> None:
    wrapper = quantized(Own(bits, highest, name="mine")).layers[0]
    found = wrapper.transform_list[0].integer_weight(wrapper.latent("kernel").value)
    assert found.integers.dtype == np.int8
    assert (found.integers.min(), found.integers.max()) == (-highest, highest)
