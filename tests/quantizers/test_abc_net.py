"""ABC-Net against its equations: bases and alphas by NumPy's least squares, activations by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.convert.stairs import around


def of_the_paper(weight: np.ndarray, bases: int) -> tuple[np.ndarray, np.ndarray]:
    """`B alpha` and alpha: B_i = sign(W - mean + u_i std), alpha = argmin |W - B alpha|^2."""
    flat = weight.astype(np.float64).ravel()
    shifts = [-1 + 2 * i / (bases - 1) for i in range(bases)] if bases > 1 else [0.0]
    b = np.stack([np.where(flat - flat.mean() + u * flat.std() >= 0, 1.0, -1.0) for u in shifts], axis=1)
    alpha = np.linalg.lstsq(b, flat, rcond=None)[0]
    return (b @ alpha).reshape(weight.shape), alpha


@pytest.mark.parametrize("bases", [1, 2, 3, 5, 8])
def test_weights_are_those_of_least_squares(bases: int, prepare, gradients) -> None:
    kernel = np.random.default_rng(bases).normal(0.1, 1.0, size=(40, 3)).astype(np.float32)
    quantizer = kc.ABCNet(bases)
    weight = prepare(quantizer, kernel)
    expected, alpha = of_the_paper(kernel, bases)
    np.testing.assert_allclose(quantizer(weight).numpy(), expected, rtol=1e-4, atol=1e-5)
    assert len(np.unique(quantizer(weight).numpy())) == bases + 1 == quantizer.number_of_clusters
    # dL/dW = sum of alpha_m dL/dB_m.
    upstream = np.random.default_rng(9).normal(size=kernel.shape)
    np.testing.assert_allclose(gradients(quantizer, weight, upstream)[0], upstream * alpha.sum(), rtol=1e-4)


def test_weights_literal(prepare) -> None:
    """Mean 0, deviation sqrt(5): of three bases the thresholds are -2.236, 0 and 2.236."""
    quantizer = kc.ABCNet(3)
    weight = prepare(quantizer, [[-3.0], [-1.0], [1.0], [3.0]])
    # A level for each region: alphas 1, 1 and 1, as -3 = -1 - 1 - 1 and -1 = -1 - 1 + 1.
    np.testing.assert_allclose(quantizer(weight).numpy().ravel(), [-3, -1, 1, 3], rtol=1e-6)
    weight = prepare(one := kc.ABCNet(1), [[-3.0], [-1.0], [1.0], [3.0]])
    assert one(weight).numpy().ravel().tolist() == [-2, -2, 2, 2]


def test_each_channel_by_itself(prepare) -> None:
    kernel = np.random.default_rng(3).normal([0.5, -1.0, 0.0], [1.0, 0.1, 3.0], size=(50, 3)).astype(np.float32)
    quantizer = kc.ABCNet(4, per_channel=True)
    found = quantizer(prepare(quantizer, kernel)).numpy()
    for channel in range(3):
        expected, _ = of_the_paper(kernel[:, channel], 4)
        np.testing.assert_allclose(found[:, channel], expected, rtol=1e-4, atol=1e-5)


def test_equal_weights_and_equal_bases(prepare) -> None:
    """All of a channel equal: no deviation, all bases +1. Nothing between two thresholds: two bases are the same."""
    quantizer = kc.ABCNet(5, per_channel=True)
    kernel = np.array([[0.25, 0.0, -1.0], [0.25, 0.0, 1.0], [0.25, 0.0, 1.0]])
    found = quantizer(prepare(quantizer, kernel)).numpy()
    np.testing.assert_allclose(found[:, 0], 0.25)
    assert found[:, 1].tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_allclose(found[:, 2], of_the_paper(kernel[:, 2], 5)[0], rtol=1e-5)


def set_to(shift: list[float], beta: list[float]) -> kc.ABCNetActivation:
    made = kc.ABCNetActivation(len(shift))
    made.shift.assign(shift)
    made.beta.assign(beta)
    return made


def test_activations_literal() -> None:
    """Thresholds 0.5 - v: -0.5 and 1. Levels -3, -1 (0.5 * 2 more) .. 3, in steps of 3 / 126."""
    made = set_to([1.0, -0.5], [1.0, 2.0])
    x = tf.constant([[-2.0, -0.5, 0.0, 0.999, 1.0, 5.0]])
    found = kc.QuantizeActivation(made)(x)
    np.testing.assert_allclose(found, [[-3, -1, -1, -1, 3, 3]], rtol=1e-6)
    assert float(made.parameters()[0]) == pytest.approx(3 / 126)


def test_gradients_of_activations_literal() -> None:
    """v = 1 lets -1 <= x <= 0 pass, v = -0.5 lets 0.5 <= x <= 1.5."""
    made = set_to([1.0, -0.5], [1.0, 2.0])
    x = tf.constant([[-2.0, -0.5, 0.25, 1.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = kc.QuantizeActivation(made)(x, training=True)
    to_x, to_shift, to_beta = tape.gradient(
        y, [x, made.shift.value, made.beta.value], tf.constant([[1.0, 10.0, 100.0, 1000.0]])
    )
    assert to_x.numpy().tolist() == [[0.0, 10.0, 0.0, 2000.0]]
    assert to_shift.numpy().tolist() == [10.0, 2000.0]
    # A_1 = -1, 1, 1, 1; A_2 = -1, -1, -1, 1.
    assert to_beta.numpy().tolist() == [1109.0, 889.0]


@pytest.mark.parametrize("bases", range(1, 9))
def test_they_begin_as_evenly_spaced_levels(bases: int) -> None:
    x = np.linspace(-1.5, 1.5, 2001, dtype=np.float32)[:, None]
    found = np.unique(kc.QuantizeActivation(kc.ABCNetActivation(bases))(x))
    np.testing.assert_allclose(found, np.linspace(-1, 1, bases + 1), atol=1e-6)


def test_betas_below_zero_and_orders() -> None:
    """A staircase that goes down: the same in training, inference and the table of a file."""
    made = set_to([-0.5, 1.0, 0.2], [-1.0, 0.5, 0.25])
    x = np.linspace(-3, 3, 401, dtype=np.float32)[:, None]
    signs = [np.where(x + v >= 0.5, 1.0, -1.0) for v in (-0.5, 1.0, 0.2)]
    step = 1.75 / 126
    expected = np.round((-signs[0] + 0.5 * signs[1] + 0.25 * signs[2]) / step) * step
    for found in (made(x, training=True), made(x), made.staircase()(x), made.plain(x)):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    stairs = made.staircase()
    assert stairs.thresholds == sorted(stairs.thresholds)


@pytest.mark.parametrize("thresholds", [[0.1], [-2 / 3, 0.0, 2 / 3], [2.0, 3.1], [-0.9, -0.21, 0.4, 0.66, 1.3]])
def test_a_grid_around_thresholds_keeps_them(thresholds: list[float]) -> None:
    """The integers on both sides of a threshold are those on both sides of it in what the grid is made of."""
    grid, offset = around(thresholds)
    error = 0.1 if len(thresholds) > 3 else 1e-4  # steps
    for at in thresholds:
        below, above = (np.round((at + offset + way * error * grid.scale) / grid.scale) for way in (-1, 1))
        assert above == below + 1
        assert -128 <= below + grid.zero_point < above + grid.zero_point <= 127


def test_files_keep_the_thresholds() -> None:
    """Evenly spaced thresholds lie in the middle between two integers: sums on either side stay there."""
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(64, 6, 6, 2)).astype(np.float32)
    y = inputs = keras.Input((6, 6, 2))
    y = keras.layers.BatchNormalization()(keras.layers.Conv2D(6, 3, name="a")(y))
    y = keras.layers.Flatten()(keras.layers.ReLU(name="relu")(y))
    net = keras.Model(inputs, keras.layers.Dense(4, name="b")(y))
    rules = [{"layers": "b", "weights": "int8"}]
    model = kc.quantize_model(net, "abc_net", "abc_net", rules=rules)
    model(x, training=True)
    artifact = kc.convert(model)
    points = [keras.Model(m.input, m.get_layer("relu_quantized").output)(x) for m in (model, artifact.frozen)]
    assert len(np.unique(points[0])) == 4
    assert np.mean(np.array(points[0]) != np.array(points[1])) < 2e-3  # 17 of 6,144 on a grid that does not mind them
    assert all(row.ok for row in kc.verify(artifact, None, x, kernels=["xnnpack"]).rows)
    with pytest.raises(ValueError, match="Expected mode='int8' for a model with sign activations"):
        kc.convert(model, mode="16x8")
