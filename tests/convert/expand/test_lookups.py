"""Embeddings and repetitions."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_compress as kc


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


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_a_resize_by_keras_ops_is_the_layer(bench, interpolation):
    model = bench.model(lambda x: ops.image.resize(x, (5, 7), interpolation=interpolation), (3, 3, 2))
    assert bench.kinds(bench.same(model)) == ["Resizing"]


def test_a_resize_by_keras_ops_raises_no_alarm():
    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, ops.image.resize(inputs, (6, 9)))
    x = np.random.default_rng(0).normal(size=(32, 4, 4, 2)).astype(np.float32)
    artifact = kc.convert(model, representative_dataset=x)
    assert kc.verify(artifact, model, x, kernels=("xnnpack", "reference", "tflm")).ok
    # A 255th of the range, which is 7.4, at most, from Keras's.
    assert np.abs(np.asarray(model(x)) - np.asarray(artifact.frozen(x))).max() < 0.03


def test_a_resize_with_antialiasing_stays(bench):
    model = bench.model(lambda x: ops.image.resize(x, (2, 2), antialias=True), (4, 4, 2))
    assert bench.kinds(bench.same(model)) == ["Resize"]
