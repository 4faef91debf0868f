"""Einsums and products with constant weights become Dense layers."""

import numpy as np
import pytest
from keras import layers, ops

from keras_compress.convert.expand.products import Equation
from keras_compress.convert.expand.weights import arranged, scaled
from keras_compress.core.transform import IntegerWeight


@pytest.mark.parametrize(
    ("equation", "output", "bias", "shape"),
    [
        ("ab,bc->ac", 3, "c", (4,)),
        ("abc,cde->abde", (2, 3, 5), "de", (2, 4)),
        ("abc,cde->abde", (2, 3, 5), "e", (2, 4)),
        ("abcd,cde->abe", (3, 5), None, (3, 4, 2)),
        ("abc,bd->acd", (2, 5), "d", (4, 2)),
        ("abc,cd->adb", (5, 3), None, (3, 2)),
        ("...b,bc->...c", (3, 5), "c", (3, 4)),
    ],
)
def test_einsum_dense(bench, equation, output, bias, shape):
    model = bench.model(lambda x: layers.EinsumDense(equation, output, bias_axes=bias, activation="relu")(x), shape)
    kinds = bench.kinds(bench.same(model))
    assert kinds.count("Dense") == 1
    assert "EinsumDense" not in kinds


def test_an_einsum_that_keeps_a_shared_axis_is_refused(bench):
    model = bench.model(lambda x: layers.EinsumDense("abc,bcd->abd", (3, 5))(x), (3, 4))
    with pytest.raises(ValueError, match=r"'abc,bcd->abd', which keeps \['b'\]"):
        bench.flatten(model)


def test_channel_axes_are_those_of_the_weight_that_stay():
    assert Equation("abc,dce->abed", 3).channel_axes() == (2, 0)


@pytest.mark.parametrize("subscripts", ["abc,adc->abd", "abcd,aecd->acbe", "abc,acd->adb"])
def test_products_of_two_tensors(bench, subscripts):
    shapes = {
        "abc,adc->abd": [(2, 3), (4, 3)],
        "abcd,aecd->acbe": [(2, 3, 4), (5, 3, 4)],
        "abc,acd->adb": [(2, 3), (3, 4)],
    }
    flat = bench.same(bench.model(lambda x, y: ops.einsum(subscripts, x, y), *shapes[subscripts]))
    assert bench.kinds(flat).count("BatchedMatmul") == 1


def test_matmul_with_a_constant_matrix_has_its_integers(bench):
    matrix = np.float32([[127.0, 2.0], [-1.0, -254.0]])
    flat = bench.same(bench.model(lambda x: ops.matmul(x, matrix), (3, 2)))
    weight = flat.layers[-1].transforms["kernel"][-1].integer_weight(None)
    assert weight.integers.tolist() == [[127, 1], [-1, -127]]
    np.testing.assert_allclose(weight.scale, [[1.0, 2.0]])


def test_integers_in_another_order():
    weight = IntegerWeight(np.int32([[[1, 2]], [[3, 4]]]), np.float32([[[0.5, 0.25]]]), 8)
    turned = arranged(weight, lambda w: w.reshape(2, 2))
    assert turned.integers.tolist() == [[1, 2], [3, 4]]
    assert turned.scale.tolist() == [[0.5, 0.25]]
    assert scaled(turned, 2.0).scale.tolist() == [[1.0, 0.5]]
    with pytest.raises(ValueError, match="one scale for each output channel"):
        arranged(weight, lambda w: w.reshape(2, 2).T)
