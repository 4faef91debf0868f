"""Embeddings and repetitions."""

import numpy as np
import pytest
from keras import layers


def test_an_embedding_is_rows_of_int8_numbers(bench):
    model = bench.model(lambda x: layers.Embedding(3, 2)(x), (2,), dtype="int32")
    model.layers[-1].embeddings.assign([[127.0, -127.0], [1.0, 2.0], [0.0, 64.0]])
    rows = np.int32([[2, 0], [1, 1]])
    flat = bench.same(model, rows)
    assert bench.kinds(flat) == ["Rows"]
    np.testing.assert_allclose(flat(rows), [[[0, 64], [127, -127]], [[1, 2], [1, 2]]], rtol=1e-6)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: layers.UpSampling1D(3), (2, 4)),
        (lambda: layers.UpSampling2D((2, 3)), (2, 3, 4)),
        (lambda: layers.RepeatVector(3), (4,)),
        (layers.GlobalAveragePooling1D, (5, 3)),
        (lambda: layers.GlobalAveragePooling1D(keepdims=True), (5, 3)),
    ],
)
def test_the_same_function(bench, layer, shape):
    kinds = bench.kinds(bench.same(bench.model(lambda x: layer()(x), shape)))
    assert set(kinds) <= {"Reshape", "Resizing", "GlobalAveragePooling2D"}


def test_bilinear_upsampling_stays(bench):
    model = bench.model(lambda x: layers.UpSampling2D(interpolation="bilinear")(x), (3, 3, 2))
    assert bench.kinds(bench.same(model)) == ["UpSampling2D"]
