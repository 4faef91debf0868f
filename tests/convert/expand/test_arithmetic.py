"""Arithmetic with constants, in the cheapest exact form."""

import numpy as np
import pytest
from keras import layers, ops

X = np.float32([[[1.0, -2.0], [0.5, 4.0]]])


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x * 0.5 + 1.0, [[[1.5, 0.0], [1.25, 3.0]]]),
        (lambda x: x / 2.0, [[[0.5, -1.0], [0.25, 2.0]]]),
        (lambda x: x**2, [[[1.0, 4.0], [0.25, 16.0]]]),
        (lambda x: ops.square(x), [[[1.0, 4.0], [0.25, 16.0]]]),
        (lambda x: 1.0 - x, [[[0.0, 3.0], [0.5, -3.0]]]),
        (lambda x: -x, [[[-1.0, 2.0], [-0.5, -4.0]]]),
        (lambda x: 2.0 / x, [[[2.0, -1.0], [4.0, 0.5]]]),
        (lambda x: x - np.float32([1.0, 2.0]), [[[0.0, -4.0], [-0.5, 2.0]]]),
        (lambda x: x / ops.abs(x), [[[1.0, -1.0], [1.0, 1.0]]]),
    ],
)
def test_values(bench, function, expected):
    flat = bench.same(bench.model(function, (2, 2)), X)
    np.testing.assert_allclose(flat(X), expected, rtol=1e-6)


def test_a_factor_for_each_channel_is_a_batch_normalization_that_folds(bench):
    model = bench.model(lambda x: layers.Dense(2)(x) * np.float32([2.0, -1.0]) + 0.5, (2, 2))
    assert bench.kinds(bench.same(model)) == ["Dense", "BatchNormalization", "BatchNormalization"]


def test_a_constant_of_another_shape_is_an_int8_operand(bench):
    table = np.float32([[127.0, -127.0], [64.0, 0.0]]) / 127
    flat = bench.same(bench.model(lambda x: x + table, (2, 2)))
    assert bench.kinds(flat) == ["Operand"]
    (operand,) = [layer for layer in flat.layers if layer.name.endswith("add")]
    integers = operand.transforms["kernel"][-1].integer_weight(None)
    assert integers.integers.tolist() == [[127, -127], [64, 0]]
    assert integers.scale.item() == pytest.approx(1 / 127)


def test_a_factor_for_each_step_is_not_one_for_each_channel(bench):
    flat = bench.same(bench.model(lambda x: x * np.float32([[2.0], [-1.0]]), (2, 2)), X, atol=0.05)
    assert bench.kinds(flat) == ["Operand"]


def test_a_constant_less_a_tensor_is_one_step(bench):
    assert bench.kinds(bench.same(bench.model(lambda x: 1.0 - x, (2, 2)))) == ["BatchNormalization"]


def test_neutral_constants_disappear(bench):
    assert bench.kinds(bench.same(bench.model(lambda x: (x + 0.0) * 1.0 / 2.0, (2, 2)))) == ["BatchNormalization"]
