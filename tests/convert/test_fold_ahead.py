"""Normalizations that go into the layers behind them."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc


def normalized(tensor, gamma, beta=0.0):
    layer = layers.BatchNormalization(epsilon=0.0, name="norm")
    outputs = layer(tensor)
    layer.gamma.assign(gamma)
    layer.beta.assign(np.broadcast_to(beta, np.shape(gamma)))
    return outputs


def db(model, artifact, x):
    reference, values = (np.asarray(each(x), np.float64) for each in (model, artifact.frozen))
    return 10 * np.log10(np.square(reference - reference.mean(axis=0)).mean() / np.square(reference - values).mean())


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def has_norm(model, x):
    """Whether the file has an operator for the normalization; the file is as `verify` wants it, and near Keras's."""
    artifact = kc.convert(model, representative_dataset=x)
    assert kc.verify(artifact, model, x).ok
    assert db(model, artifact, x) > 30
    return "norm_quantized" in [layer.name for layer in artifact.frozen.layers]


def test_weights_and_bias_of_both():
    inputs = keras.Input((2,))
    dense = layers.Dense(1, name="dense")
    model = keras.Model(inputs, dense(normalized(inputs, [2.0, -0.5], [1.0, 3.0])))
    dense.set_weights([np.float32([[1.5], [4.0]]), np.float32([0.25])])
    frozen = kc.freeze(model, normal(64, 2))
    # 2 * 1.5 and -0.5 * 4; 1 * 1.5 + 3 * 4 + 0.25. Steps of the weights are 3 / 127.
    np.testing.assert_allclose(frozen.get_layer("dense").layer.kernel, [[3.0], [-2.0]], atol=0.012)
    np.testing.assert_allclose(frozen.get_layer("dense").layer.bias, [13.75], atol=0.001)


@pytest.mark.parametrize(
    "behind",
    [
        lambda: layers.Dense(5, activation="relu"),
        lambda: layers.Dense(5, use_bias=False),
        lambda: layers.Conv2D(5, 3),
        lambda: layers.Conv2D(5, 1, padding="same"),
    ],
)
def test_one_rounding_less(behind):
    inputs = keras.Input((6, 6, 4))
    made = normalized(layers.MaxPooling2D()(inputs), [0.5, -1.0, 1.5, 1.0], [0.2, 0.0, -0.3, 0.1])
    assert not has_norm(keras.Model(inputs, behind()(made)), normal(64, 6, 6, 4))


def test_nearer_to_the_float_model():
    rng = np.random.default_rng(0)
    inputs = keras.Input((8,))
    dense = layers.Dense(8, name="dense")
    model = keras.Model(inputs, dense(normalized(inputs, rng.uniform(0.5, 1.5, 8))))
    dense.kernel.assign(rng.normal(size=(8, 8)))
    x = normal(512, 8)
    # With a normalization of its own it was 36.5 dB.
    assert db(model, kc.convert(model, representative_dataset=x), x) > 37.5


def test_what_is_padded_stays_for_its_offset():
    inputs = keras.Input((6, 6, 4))
    for beta, stays in ((0.3, True), (0.0, False)):
        norm = normalized(layers.MaxPooling2D()(inputs), [0.5, -1.0, 1.5, 1.0], beta)
        model = keras.Model(inputs, layers.Conv2D(5, 3, padding="same")(norm))
        assert has_norm(model, normal(64, 6, 6, 4)) is stays


def test_what_something_else_reads_stays():
    inputs = keras.Input((4,))
    made = normalized(inputs, [0.5, 1.0, 1.5, 1.0], 0.3)
    both = keras.Model(inputs, [layers.Dense(3)(made), layers.Dense(2)(made)])
    assert "norm_quantized" not in [layer.name for layer in kc.freeze(both, normal(64, 4)).layers]
    sums = keras.Model(inputs, layers.Add()([layers.Dense(4)(made), made]))
    assert has_norm(sums, normal(64, 4))


def test_factors_of_many_sizes_would_make_weights_coarse():
    inputs = keras.Input((400,))
    gamma = np.full(400, 1.0)
    gamma[0] = 100.0
    model = keras.Model(inputs, layers.Dense(3)(normalized(inputs, gamma, 0.1)))
    x = normal(64, 400)
    x[:, 0] /= 100
    assert "norm_quantized" in [layer.name for layer in kc.freeze(model, x).layers]


def test_a_codebook_stays():
    inputs = keras.Input((32,))
    dense = layers.Dense(16, name="dense")
    made = dense(normalized(inputs, np.linspace(0.5, 1.5, 32), 0.1))
    model = keras.Model(inputs, made)
    dense.kernel.assign(np.random.default_rng(0).choice([-0.5, 0.0, 0.25, 0.5], (32, 16)))
    kernel = kc.freeze(model, normal(64, 32)).get_layer("dense").layer.kernel
    assert len(np.unique(kernel)) == 4
