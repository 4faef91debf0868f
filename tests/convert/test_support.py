"""A file that TFLite-Micro cannot load is not made."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_compress as kc
from keras_compress.tflite.lowering.support import check_support

X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)


class FakeGraph:
    """Operators by name, all on tensors of one type."""

    def __init__(self, *kinds, dtype="int8"):
        self._dtype = dtype
        self.operators = [type("Op", (), {"inputs": [0], "outputs": [1], "made": kind})() for kind in kinds]

    def kind(self, op):
        return op.made

    def name(self, tensor):
        return f"t{tensor}"

    def dtype(self, tensor):
        return self._dtype


def test_the_operator_is_named():
    with pytest.raises(ValueError, match=r"TFLite-Micro has\. Received: TILE at 't1', which has no kernel"):
        check_support(FakeGraph("ADD", "TILE", "TILE"), "tflm")


def test_a_kernel_for_other_widths_does_not_count():
    check_support(FakeGraph("REDUCE_MAX"), "tflm")
    with pytest.raises(ValueError, match=r"REDUCE_MAX at 't1', which has no int16 kernel"):
        check_support(FakeGraph("REDUCE_MAX", dtype="int16"), "tflm")


def test_litert_has_them():
    check_support(FakeGraph("ADD", "TILE"), "litert")


def test_a_conversion_for_tflm_refuses_what_it_lacks():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, ops.where(inputs > 0, inputs, layers.Dense(4)(inputs)))
    with pytest.raises(ValueError, match=r"SELECT at .*Use target='litert'"):
        kc.convert(model, "tflm", representative_dataset=X)


def test_a_transpose_of_six_dimensions_is_refused_for_tflite_micro():
    image = keras.Input((4, 4, 3))
    blocks = keras.layers.Permute((3, 1, 4, 2, 5))(keras.layers.Reshape((2, 2, 2, 2, 3))(image))
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(blocks)))
    data = np.random.default_rng(0).normal(size=(8, 4, 4, 3)).astype(np.float32)
    assert kc.convert(model, representative_dataset=data).content
    with pytest.raises(ValueError, match="TRANSPOSE at .* of 6 dimensions"):
        kc.convert(model, "tflm", representative_dataset=data)
