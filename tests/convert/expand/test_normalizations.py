"""Normalizations as sums with one weight, a table and products."""

import numpy as np
import pytest
from keras import layers, ops


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.LayerNormalization, (3, 8)),
        (lambda: layers.LayerNormalization(center=False), (3, 8)),
        (lambda: layers.LayerNormalization(epsilon=0.5), (4, 4, 6)),
        (layers.RMSNormalization, (3, 8)),
        (layers.UnitNormalization, (3, 8)),
        (lambda: layers.GroupNormalization(2), (4, 4, 6)),
        (lambda: layers.GroupNormalization(-1, scale=False), (4, 4, 3)),
        (lambda: layers.GroupNormalization(1, epsilon=0.5), (5, 4)),
        (lambda: layers.GroupNormalization(2, center=False, scale=False), (8,)),
    ],
)
def test_the_same_function(bench, layer, shape):
    flat = bench.same(bench.model(lambda x: layer()(x), shape), atol=2e-4)
    assert {"Dense", "Multiply", "PointwiseFunction"} <= set(bench.kinds(flat))


def test_a_unit_vector(bench):
    flat = bench.flatten(bench.model(lambda x: layers.UnitNormalization()(x), (2,)))
    np.testing.assert_allclose(flat(np.float32([[3.0, -4.0]])), [[0.6, -0.8]], rtol=1e-5)


@pytest.mark.parametrize("layer", [layers.LayerNormalization, layers.UnitNormalization, layers.RMSNormalization])
def test_other_axes_are_refused_by_name(bench, layer):
    model = bench.model(lambda x: layer(axis=1, name="here")(x), (3, 8))
    with pytest.raises(ValueError, match=r"over the last axis\. Received: axis=.*'here"):
        bench.flatten(model)


def test_rescaling_and_normalization_are_one_affine_step(bench):
    def build(x):
        x = layers.Rescaling(2.0, -1.0)(x)
        return layers.Normalization(mean=[1.0, 2.0], variance=[4.0, 0.25])(x)

    flat = bench.same(bench.model(build, (2,)))
    assert bench.kinds(flat) == ["BatchNormalization", "BatchNormalization"]
    np.testing.assert_allclose(flat(np.float32([[1.0, 2.0]])), [[0.0, 2.0]], atol=1e-6)


@pytest.mark.parametrize(("name", "expected"), [("mean", [[2.0, 3.0]]), ("sum", [[4.0, 6.0]])])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions_over_the_last_axis_are_dense(bench, name, expected, keepdims):
    flat = bench.same(bench.model(lambda x: getattr(ops, name)(x, axis=-1, keepdims=keepdims), (2, 2)))
    assert bench.kinds(flat)[0] == "Dense"
    got = np.asarray(flat(np.float32([[[1.0, 3.0], [2.0, 4.0]]])))
    np.testing.assert_allclose(got.reshape(1, 2), expected, rtol=1e-6)
    assert got.ndim == (3 if keepdims else 2)


def test_reductions_over_other_axes_stay(bench):
    assert bench.kinds(bench.same(bench.model(lambda x: ops.mean(x, axis=1), (2, 2)))) == ["Mean"]
