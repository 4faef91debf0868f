from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.graph.as_matrix import as_matrix, hessian
from keras_compress.post_training import gptq as gptq_module
from keras_compress.post_training.gptq import gptq, rounded
from keras_compress.post_training.record import record_of
from keras_compress.post_training.steps import stepped_weights

LAYERS = {
    "dense": (lambda: keras.layers.Dense(3), (5,)),
    "dense on rows": (lambda: keras.layers.Dense(3), (4, 5)),
    "einsum": (lambda: keras.layers.EinsumDense("abc,cde->abde", output_shape=(4, 2, 3)), (4, 5)),
    "einsum ellipsis": (lambda: keras.layers.EinsumDense("...bc,bcd->...d", output_shape=(7,)), (4, 5)),
    "conv": (lambda: keras.layers.Conv2D(4, (3, 2), strides=2, padding="same"), (7, 6, 2)),
    "conv dilated": (lambda: keras.layers.Conv2D(4, 3, dilation_rate=2), (9, 8, 2)),
    "conv groups": (lambda: keras.layers.Conv2D(6, 3, groups=2), (5, 5, 4)),
    "conv1d causal": (lambda: keras.layers.Conv1D(3, 4, padding="causal", dilation_rate=2), (9, 2)),
    "depthwise": (lambda: keras.layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), (6, 5, 3)),
    "depthwise1d": (lambda: keras.layers.DepthwiseConv1D(3, strides=2), (9, 3)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_each_layer_is_the_product_that_keras_computes(kind: str) -> None:
    make, shape = LAYERS[kind]
    keras.utils.set_random_seed(0)
    layer = make()
    values = tf.constant(np.random.default_rng(0).normal(size=(3, *shape)), tf.float32)
    expected = np.asarray(layer(values))
    form = as_matrix(layer)
    kernel = np.asarray(layer.kernel)
    matrix = form.to_matrix(kernel)
    np.testing.assert_array_equal(form.from_matrix(matrix), kernel)
    product = np.asarray(form.rows(values)) @ matrix
    # Groups are next to each other in the channels.
    found = np.moveaxis(product, 0, 1).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    rows = np.asarray(form.rows(values), np.float64)
    np.testing.assert_allclose(hessian(form, values), 2 * np.swapaxes(rows, 1, 2) @ rows / rows.shape[1], atol=1e-5)


def step_by_step(weight: np.ndarray, second: np.ndarray, low: int, high: int) -> np.ndarray:
    """Each weight in turn to the nearest integer; of those left, the best by solving for them anew."""
    found, rest = [], weight.copy()
    for i in range(len(weight)):
        found.append(float(np.clip(np.rint(rest[i]), low, high)))
        error = np.array(found) - weight[: i + 1]
        left = second[i + 1 :, i + 1 :]
        # minimize (w - w0)^T H (w - w0) with the first ones given
        rest[i + 1 :] = weight[i + 1 :] - np.linalg.solve(left, second[i + 1 :, : i + 1] @ error) if left.size else []
    return np.array(found)


@pytest.mark.parametrize("seed", range(5))
def test_gptq_is_the_step_by_step_solution(seed: int) -> None:
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(40, 8)) @ draw.normal(size=(8, 8))
    second = 2 * inputs.T @ inputs
    weight = draw.normal(size=(8, 3)) * 3
    found = rounded(weight[np.newaxis], second[np.newaxis], np.ones((1, 1, 1)), (-8, 7), damping=0.0)[0]
    expected = np.stack([step_by_step(column, second, -8, 7) for column in weight.T], axis=1)
    np.testing.assert_array_equal(found, expected)


def test_errors_are_handed_on_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 inputs are three blocks of 8."""
    monkeypatch.setattr(gptq_module, "_BLOCK", 8)
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(60, 20)) @ draw.normal(size=(20, 20))
    second = 2 * inputs.T @ inputs
    weight = draw.normal(size=20) * 2
    found = rounded(weight[np.newaxis, :, np.newaxis], second[np.newaxis], np.ones((1, 1, 1)), (-8, 7), 0.0)
    np.testing.assert_array_equal(found[0, :, 0], step_by_step(weight, second, -8, 7))


def test_gptq_is_never_far_from_the_best_of_all() -> None:
    """Of 4 weights of 2 levels each all 16 roundings are tried: GPTQ's is within twice the best loss, and better in the
    mean than the nearest."""
    draw = np.random.default_rng(0)
    losses = []
    for _ in range(30):
        inputs = draw.normal(size=(20, 4)) @ draw.normal(size=(4, 4))
        second, weight = 2 * inputs.T @ inputs, draw.uniform(0, 1, 4)

        def loss(integers: object, weight: np.ndarray = weight, second: np.ndarray = second) -> float:
            difference = np.array(integers) - weight
            return float(difference @ second @ difference)

        found = rounded(weight[np.newaxis, :, np.newaxis], second[np.newaxis], np.ones((1, 1, 1)), (0, 1), 0.0)
        best = min(map(loss, itertools.product((0, 1), repeat=4)))
        losses.append((loss(found.ravel()) / best, loss(np.rint(weight)) / best))
    means = np.median(losses, axis=0)
    assert 1.0 <= means[0] < 1.5
    assert means[0] < means[1]


def test_inputs_that_are_always_zero_do_not_matter() -> None:
    second = np.diag([2.0, 0.0, 2.0])[np.newaxis]
    found = rounded(np.array([[[0.4], [1.6], [2.4]]]), second, np.ones((1, 1, 1)), (-8, 7))
    assert found.ravel().tolist() == [0, 2, 2]
    assert rounded(np.full((1, 2, 1), 1.7), np.zeros((1, 2, 2)), np.ones((1, 1, 1)), (-8, 7)).ravel().tolist() == [2, 2]


def correlated(count: int = 256) -> np.ndarray:
    draw = np.random.default_rng(0)
    return (draw.normal(size=(count, 4)) @ draw.normal(size=(4, 32))).astype(np.float32)


def test_a_dense_net_is_closer_and_its_integers_are_whole() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32,))
    x = keras.layers.Dense(24, activation="relu", name="first")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(8, name="second")(x))
    quantized = kc.quantize_model(model, weights="int4", activations="int8")
    better = gptq(quantized, correlated())
    effects = record_of(better).effects
    values = correlated()
    nearest = kc.quantize_model(model, weights="int4", activations=None)
    errors = [float(np.square(m(values) - model(values)).mean()) for m in (nearest, better)]
    assert errors[1] < 0.5 * errors[0]
    for each in stepped_weights(better):
        np.testing.assert_allclose(each.weight / each.step, np.rint(each.weight / each.step), atol=1e-5)
    assert [each.layer for each in effects] == ["first", "second"]
    assert all(each.after_db > each.before_db for each in effects)


def test_layers_without_a_form_are_said() -> None:
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, keras.layers.LSTM(3, name="lstm")(inputs))
    quantized = kc.quantize_model(model, weights="int4", activations=None)
    with pytest.warns(UserWarning, match="'lstm': GPTQ has no form of a LSTM"):
        gptq(quantized, np.random.default_rng(0).normal(size=(32, 5, 4)).astype(np.float32))


def test_a_layer_whose_matrices_need_too_much_memory_is_rounded_to_the_nearest() -> None:
    inputs = keras.Input((32,))
    x = keras.layers.Dense(24, activation="relu", name="wide")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(8, name="narrow")(x))
    quantized = kc.quantize_model(model, weights="int4", activations=None)
    # 48 bytes for each pair of 32 inputs are more, of 24 inputs less.
    with pytest.warns(UserWarning, match=r"'wide': its inputs' products take 49,152 bytes, more than max_bytes=40,000"):
        better = gptq(quantized, correlated(), max_bytes=40_000)
    assert [each.layer for each in record_of(better).effects] == ["narrow"]
    with pytest.raises(ValueError, match="Expected `max_bytes` of 1 or more"):
        gptq(quantized, correlated(), max_bytes=0)
