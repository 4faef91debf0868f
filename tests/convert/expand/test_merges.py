"""Merging layers of many tensors, and those that are several steps."""

import numpy as np
import pytest
from keras import layers

A, B, C = (np.float32([[[1.0, 2.0], [3.0, 4.0]]]) * n for n in (1, -2, 3))


@pytest.mark.parametrize(
    ("layer", "kinds", "expected"),
    [
        (layers.Add, ["Add", "Add"], [[2.0, 4.0], [6.0, 8.0]]),
        (layers.Multiply, ["Multiply", "Multiply"], [[-6.0, -48.0], [-162.0, -384.0]]),
        (layers.Maximum, ["Maximum", "Maximum"], [[3.0, 6.0], [9.0, 12.0]]),
        (layers.Minimum, ["Minimum", "Minimum"], [[-2.0, -4.0], [-6.0, -8.0]]),
        (layers.Average, ["Add", "Add", "BatchNormalization"], [[2 / 3, 4 / 3], [2.0, 8 / 3]]),
    ],
)
def test_three_tensors_go_by_pairs(bench, layer, kinds, expected):
    flat = bench.same(bench.model(lambda *x: layer()(list(x)), (2, 2), (2, 2), (2, 2)), A, B, C)
    assert bench.kinds(flat) == kinds
    np.testing.assert_allclose(flat([A, B, C])[0], expected, rtol=1e-6)


@pytest.mark.parametrize("layer", [layers.Add, layers.Multiply, layers.Maximum, layers.Concatenate])
def test_two_tensors_stay_one_layer(bench, layer):
    assert len(bench.kinds(bench.same(bench.model(lambda *x: layer()(list(x)), (2, 2), (2, 2))))) == 1


@pytest.mark.parametrize(
    ("axes", "one", "two"), [(2, (3, 4), (5, 4)), (1, (3, 4), (3, 5)), ((2, 1), (3, 4), (4, 5)), (1, (4,), (4,))]
)
@pytest.mark.parametrize("normalize", [False, True])
def test_dot(bench, axes, one, two, normalize):
    last = axes in (2, -1) or len(one) == 1
    model = bench.model(lambda x, y: layers.Dot(axes, normalize=normalize)([x, y]), one, two)
    if normalize and not last:
        with pytest.raises(ValueError, match="normalize=True over the last axes"):
            bench.flatten(model)
        return
    assert "BatchedMatmul" in bench.kinds(bench.same(model))
