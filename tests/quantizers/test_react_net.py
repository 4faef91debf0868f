"""ReActNet's RSign and RPReLU: their equations, and the files that they end in."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.native.library import library_path
from keras_compress.tflite.flatbuffer import Graph, read_model

SHAPE = (6, 6, 4)
X = np.random.default_rng(0).normal(size=(48, *SHAPE)).astype(np.float32)


def test_rsign_literal() -> None:
    """Thresholds 0.5 and -1; at a threshold it is 1. Slopes 2 - 2|x - alpha|, thresholds' minus their sums."""
    made = kc.RSign()
    x = tf.constant([[0.4, -1.5], [0.5, -1.0], [0.75, 0.5]])
    layer = kc.QuantizeActivation(made)
    layer(x)
    made.alpha.assign([0.5, -1.0])
    for training in (False, True):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
        to_x, to_alpha = tape.gradient(y, [x, made.alpha.value], tf.constant([[1.0, 10.0], [1.0, 10.0], [1.0, 10.0]]))
        assert y.numpy().tolist() == [[-1, -1], [1, 1], [1, 1]]
        np.testing.assert_allclose(to_x, [[1.8, 10.0], [2.0, 20.0], [1.5, 0.0]], rtol=1e-5)
        np.testing.assert_allclose(to_alpha, [-5.3, -30.0], rtol=1e-5)


def test_rsign_finds_the_number_of_channels() -> None:
    made = kc.RSign()
    kc.QuantizeActivation(made)(keras.Input((5, 3)))
    assert made.channels == 3
    assert made.get_config()["channels"] == 3
    with pytest.raises(ValueError, match=r"Expected values with 3 channels. Received: shape \(2, 5\)"):
        kc.QuantizeActivation(made).build((2, 5))
    with pytest.raises(ValueError, match="Expected a known number of channels"):
        kc.QuantizeActivation(kc.RSign())(keras.Input((5, None)))


def test_rprelu_literal() -> None:
    layer = kc.RPReLU()
    x = tf.constant([[3.0, 3.0], [1.0, -1.0], [-1.0, -3.0]])
    np.testing.assert_array_equal(layer(x), [[3, 3], [1, -0.25], [-0.25, -0.75]])
    layer.gamma.assign([1.0, -1.0])
    layer.beta.assign([0.5, 2.0])
    layer.zeta.assign([10.0, 20.0])
    # 3 > 1: 3 - 1 + 10; 1: 0.5 * 0 + 10; -1: 0.5 * -2 + 10. 3 + 1 + 20; 0 + 20; 2 * -2 + 20.
    assert layer(x).numpy().tolist() == [[12, 24], [10, 20], [9, 16]]
    above, slope, below = layer.lines()
    assert (above.tolist(), slope.tolist(), below.tolist()) == ([9, 21], [0.5, 2], [9.5, 22])


def test_the_distributional_loss_is_soft_targets_at_temperature_1() -> None:
    """Of the paper, written out: -1/n sum p_R log(p_B / p_R)."""
    teacher, student = np.array([[1.0, -0.5, 0.0], [0.2, 0.1, 2.0]]), np.array([[0.3, 0.4, -1.0], [1.0, 0.0, 0.5]])
    expected = 0.0
    for real, binary in zip(teacher, student, strict=True):
        p_r, p_b = (np.exp(z) / np.exp(z).sum() for z in (real, binary))
        expected -= float(sum(r * math.log(b / r) for r, b in zip(p_r, p_b, strict=True))) / len(teacher)
    found = kc.SoftTargets(1.0).compute_loss(tf.constant(teacher, tf.float32), tf.constant(student, tf.float32))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def react_net() -> keras.Model:
    """A convolution of 8 bits, and two binary ones, each with a shortcut: ReActNet's order of layers."""
    x = inputs = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(4, 3, padding="same", name="stem")(x)
    x = layers.BatchNormalization(name="stem_norm")(x)
    for block in (1, 2):
        y = kc.QuantizeActivation(kc.RSign(), name=f"sign{block}")(x)
        conv = {"padding": "same", "use_bias": False, "name": f"conv{block}"}
        y = kc.BinaryConv2D(4, 3, kernel_quantizer="xnor_plus_plus", **conv)(y)
        y = layers.BatchNormalization(name=f"norm{block}")(y)
        x = kc.RPReLU(name=f"prelu{block}")(layers.Add(name=f"add{block}")([x, y]))
    # A sign that nothing stands in front of but a convolution.
    x = layers.BatchNormalization(name="norm3")(layers.Conv2D(4, 1, name="conv3")(x))
    x = kc.QuantizeActivation(kc.RSign(), name="sign3")(x)
    x = kc.BinaryDense(8, name="dense1")(layers.Flatten(name="flat")(x))
    return randomised(keras.Model(inputs, layers.Dense(5, name="dense2")(x)))


def randomised(model: keras.Model, slopes: tuple[float, float] = (0.0, 0.9)) -> keras.Model:
    rng = np.random.default_rng(4)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(rng.normal(size=layer.gamma.shape) + 0.3)
            layer.beta.assign(rng.normal(size=layer.beta.shape) * 0.3)
            layer.moving_variance.assign(rng.uniform(0.3, 2.0, layer.beta.shape))
        if isinstance(layer, kc.RPReLU):
            layer.gamma.assign(rng.normal(size=layer.gamma.shape) * 0.5)
            layer.zeta.assign(rng.normal(size=layer.gamma.shape) * 0.5)
            layer.beta.assign(rng.uniform(*slopes, layer.gamma.shape))
        if isinstance(layer, kc.QuantizeActivation) and isinstance(layer.quantizer, kc.RSign):
            layer.quantizer.alpha.assign(rng.normal(size=layer.quantizer.alpha.shape) * 0.5)
    return model


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    quantized = kc.quantize_model(react_net())
    for _ in range(2):
        quantized(X, training=True)
    return randomised(quantized)


@pytest.fixture(scope="module")
def artifact(model) -> kc.Artifact:
    return kc.convert(model)


def values(model: keras.Model, name: str) -> np.ndarray:
    return np.array(keras.Model(model.input, model.get_layer(name).output)(X))


def test_the_file_has_the_signs_beyond_the_thresholds(model, artifact) -> None:
    """Every operator of the file gives the frozen model's integers, and those are the trained model's signs."""
    assert not artifact.float_ops
    rows = {row.name: row for row in kc.verify(artifact, model, X, kernels=["xnnpack"]).rows}
    for sign in ("sign1", "sign2", "sign3"):
        assert rows[sign].fraction_differing == 0.0
        trained, frozen = values(model, sign), values(artifact.frozen, sign)
        assert set(np.unique(frozen)) == {-1.0, 1.0}
        assert np.mean(trained != frozen) < 0.02  # within rounding of a threshold
    # Without its threshold a sign is another one.
    alpha = model.get_layer("sign1").quantizer.alpha
    before = alpha.numpy()
    alpha.assign(np.zeros(4))
    assert np.mean(values(model, "sign1") != values(artifact.frozen, "sign1")) > 0.05
    alpha.assign(before)


def test_binary_sums_are_compared_with_the_threshold() -> None:
    """Sums of signs are whole numbers, and what is in the file takes each to the side where training has it."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input(SHAPE)
    for name in ("a", "b", "c"):
        x = layers.BatchNormalization(name=f"{name}_norm")(layers.Conv2D(4, 3, padding="same", name=name)(x))
        x = layers.ReLU(name=name * 2)(x)
    net = randomised(keras.Model(inputs, layers.Dense(3, name="d")(layers.Flatten()(x))))
    rules = [{"layers": ["first", "last"], "weights": "int8"}]
    net = kc.quantize_model(net, "xnor_plus_plus", "rsign", rules=rules)
    net(X, training=True)
    net = randomised(net)
    artifact = kc.convert(net)
    for name in ("bb_quantized", "cc_quantized"):
        trained, frozen = values(net, name), values(artifact.frozen, name)
        assert 0.1 < np.mean(trained > 0) < 0.9
        assert np.mean(trained != frozen) < 0.005  # behind signs of 8-bit sums, of which a few are others
    kc.verify(artifact, net, X, kernels=["xnnpack"])
    kinds = [graph.kind(op) for graph in [Graph(read_model(artifact.content))] for op in graph.operators]
    assert kinds.count("DEPTHWISE_CONV_2D") == 1  # for the sums of 8-bit weights
    net.get_layer("bb_quantized").quantizer.alpha.assign([0.0, float("nan"), 0.0, 0.0])
    with pytest.raises(ValueError, match="Expected finite thresholds of activations. Received: nan at 'bb_quantized'"):
        kc.convert(net)


def test_a_threshold_costs_no_operator(artifact) -> None:
    graph = Graph(read_model(artifact.content))
    kinds = [graph.kind(op) for op in graph.operators]
    # Two signs of 8-bit tensors and one of the sums of 8-bit weights, and two lines for each RPReLU.
    assert kinds.count("DEPTHWISE_CONV_2D") == 3 + 4
    assert kinds.count("MAXIMUM") == 2
    assert "PRELU" not in kinds


def test_kc_binary_takes_the_layers_behind(artifact) -> None:
    library_path()
    measured = kc.measure(artifact, X[:8], np.zeros(8), delegate="kc_binary")
    # Two convolutions, with the depthwise ones that take signs for them, and a dense layer.
    assert "5 operators" in str(measured)
    kc.verify(artifact, None, X, kernels=("kc_binary",))


def test_tflm_and_float_files(model) -> None:
    tflm = kc.convert(model, "tflm")
    assert [row for row in kc.verify(tflm, None, X[:16]).rows if row.max_lsb] == []
    assert np.abs(np.array(kc.strip(model)(X)) - np.array(model(X))).max() == 0.0


@pytest.mark.parametrize("slopes", [(0.0, 0.9), (1.1, 2.0), (0.5, 1.5)])
@pytest.mark.parametrize("mode", ["int8", "16x8", "float32"])
def test_rprelu_in_files(slopes: tuple[float, float], mode: str) -> None:
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input(SHAPE)
    x = kc.RPReLU(name="prelu")(layers.Conv2D(6, 3, name="conv")(x))
    net = randomised(keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x))), slopes)
    artifact = kc.convert(net, mode=mode, representative_dataset=None if mode == "float32" else X)
    assert not artifact.float_ops or mode == "float32"
    if mode == "float32":
        graph = Graph(read_model(artifact.content))
        assert "PRELU" in [graph.kind(op) for op in graph.operators]
        assert kc.measure(artifact, X[:20], np.array(net(X[:20])).argmax(-1)).accuracy == 1.0
        return
    kc.verify(artifact, net, X, kernels=["xnnpack"])
    noise = values(artifact.frozen, "prelu_quantized") - values(net, "prelu")
    decibels = 10 * np.log10(np.mean(values(net, "prelu") ** 2) / np.mean(noise**2))
    assert decibels > (36 if mode == "int8" else 49)  # the weights have 8 bits


def test_channels_are_cut_with_their_numbers() -> None:
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input(SHAPE)
    x = kc.RPReLU(name="prelu")(layers.Conv2D(16, 3, name="conv")(x))
    net = randomised(keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x))))
    smaller = kc.prune_channels(net, 0.5)
    kept = smaller.get_layer("prelu")
    assert [len(np.array(v)) for v in (kept.gamma, kept.beta, kept.zeta)] == [8, 8, 8]
    assert set(np.array(kept.gamma)) < set(np.array(net.get_layer("prelu").gamma))
