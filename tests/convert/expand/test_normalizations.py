"""Normalizations as sums with one weight, a table and products."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_compress as kc
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.runtime import deployed
from keras_compress.runtime.target import target


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


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.LayerNormalization, (3, 2)),
        (lambda: layers.LayerNormalization(axis=1, epsilon=0.5), (2, 3)),
        (lambda: layers.GroupNormalization(3), (6,)),
        (layers.RMSNormalization, (3, 1)),
        (layers.UnitNormalization, (3, 1)),
    ],
)
def test_values_that_tell_the_rest_of_their_row_are_read_from_a_table(bench, layer, shape):
    flat = bench.same(bench.model(lambda x: layer()(x), shape), atol=2e-4)
    assert "PointwiseFunction" in bench.kinds(flat)
    assert "Multiply" not in bench.kinds(flat)


def test_pairs_and_single_values_of_literal_numbers(bench):
    flat = bench.flatten(bench.model(lambda x: layers.UnitNormalization()(x), (2, 1)))
    np.testing.assert_allclose(flat(np.float32([[[3.0], [-0.25]]])), [[[1.0], [-1.0]]], rtol=1e-5)
    layer = layers.LayerNormalization(epsilon=1.0, center=False, scale=False)
    flat = bench.flatten(bench.model(lambda x: layer(x), (2,)))
    # 1 and 3 are 2 - 1 and 2 + 1, of the variance 1.
    np.testing.assert_allclose(flat(np.float32([[1.0, 3.0]])), np.float32([[-1.0, 1.0]]) / np.sqrt(2), rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "length", "least_db"),
    [
        # By squares of 8 bits: 11.0 dB, 12.4 and 12.2.
        (layers.LayerNormalization, 2, 19),
        (layers.RMSNormalization, 1, 40),
        (layers.UnitNormalization, 1, 40),
    ],
)
def test_small_rows_beside_large_ones_keep_their_values(layer, length, least_db):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4, length)) * (np.exp(rng.normal(size=(64, 4, 1))) if length > 1 else 1)
    x = x.astype(np.float32)
    inputs = keras.Input((4, length))
    model = keras.Model(inputs, layer()(inputs))
    artifact = kc.convert(model, representative_dataset=x)
    (found,) = deployed.run(target("litert"), artifact.content, [x], "rows")
    assert sqnr_db(model.predict(x, verbose=0), found) > least_db


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: layers.LayerNormalization(axis=1), (4, 4)),
        (lambda: layers.LayerNormalization(axis=(1, 2)), (3, 4, 5)),
        (lambda: layers.LayerNormalization(axis=(-1, 1)), (3, 4, 5)),
        (lambda: layers.LayerNormalization(axis=(1, 2, 3)), (3, 4, 5)),
        (lambda: layers.RMSNormalization(axis=(-2, -1)), (3, 4, 5)),
        # Keras multiplies the last axis with the scale, whatever it normalizes.
        (lambda: layers.RMSNormalization(axis=1), (4, 4)),
        (lambda: layers.UnitNormalization(axis=1), (4, 4)),
        (lambda: layers.UnitNormalization(axis=(1, 3)), (3, 4, 5)),
        (lambda: layers.GroupNormalization(2, axis=1), (4, 4, 4)),
        (lambda: layers.Softmax(axis=1), (4, 4)),
        (lambda: layers.Softmax(axis=(1, -1)), (3, 4, 5)),
        (lambda: lambda x: ops.log_softmax(x, axis=1), (4, 4)),
        (lambda: lambda x: ops.normalize(x, axis=1), (4, 4)),
        # Without an epsilon of its own: that of Keras.
        (lambda: lambda x: ops.rms_normalization(x * 1e-3), (3, 4)),
        (lambda: lambda x: ops.layer_normalization(x, np.float32([1, 2, 3, 4]), np.ones(4, "f"), axis=-1), (4, 4)),
    ],
)
def test_over_any_axis(bench, layer, shape):
    bench.same(bench.model(lambda x: layer()(x), shape), atol=2e-4)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Rescaling(np.linspace(1, 2, 4).reshape(4, 1), np.linspace(-1, 2, 4).reshape(4, 1)),
        lambda: layers.Normalization(axis=1, mean=[0, 1, 2, 3], variance=[1, 2, 3, 4]),
        lambda: lambda x: x - np.linspace(-1, 2, 4, dtype="float32").reshape(1, 4, 1),
        lambda: lambda x: x + np.linspace(-1, 2, 4, dtype="float32").reshape(1, 4, 1),
    ],
)
def test_constants_over_another_axis_that_is_as_long_as_the_last(bench, layer):
    # Constants are integers of 8 bits.
    bench.same(bench.model(lambda x: layer()(x), (4, 4)), atol=0.05)


@pytest.mark.filterwarnings("ignore:You passed `rms_scaling")
def test_division_by_the_deviation_alone(bench):
    """What Keras 3 calls `rms_scaling` takes no mean off, and yet divides by the deviation around it."""
    model = bench.model(lambda x: layers.LayerNormalization(rms_scaling=True, epsilon=1e-6)(x), (2,))
    gamma = np.asarray(model.layers[1].gamma)
    np.testing.assert_allclose(bench.flatten(model)(np.float32([[3.0, 5.0]])), gamma * [[3.0, 5.0]], rtol=1e-4)


def test_the_batch_is_no_axis_of_a_sample(bench):
    model = bench.model(lambda x: layers.UnitNormalization(axis=(0, 1), name="here")(x), (3,))
    with pytest.raises(ValueError, match=r"axes of a sample, .* Received: axis=.*'here"):
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
