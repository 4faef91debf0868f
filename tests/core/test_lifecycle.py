"""Every kind of compressible layer: pruned, clustered and quantized in one training step, saved, loaded, stripped."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.graph.model import compressed_layers
from tests.core.test_slots import SAMPLES

HALF = kc.ConstantSparsity(0.5, 0, end_step=0)
# Of each family one: `test_slots` goes through them all.
SAME_AS_2D = ("Conv1D", "Conv3D", "Conv1DTranspose", "Conv3DTranspose", "DepthwiseConv1D", "SeparableConv1D")
LEFT_OUT = (*SAME_AS_2D, "ConvLSTM1D", "ConvLSTM3D")
CASES = {
    **{name: (make, shape) for name, (make, shape, _) in SAMPLES.items() if name not in LEFT_OUT},
    "TimeDistributed model": (
        lambda: layers.TimeDistributed(keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dense(2)])),
        (2, 4, 3),
    ),
    "RNN of one cell": (lambda: layers.RNN(layers.GRUCell(3), return_sequences=True), (2, 4, 3)),
    "Bidirectional RNN": (lambda: layers.Bidirectional(layers.RNN(layers.LSTMCell(2))), (2, 4, 3)),
    "attention with a gate": (lambda: layers.MultiHeadAttention(2, 3, value_dim=2, use_gate=True), (2, 4, 5)),
}
if "use_gate" not in inspect.signature(layers.MultiHeadAttention.__init__).parameters:
    del CASES["attention with a gate"]  # before Keras 3.12


def model_of(make, shape: tuple[int, ...]) -> keras.Model:
    keras.utils.set_random_seed(0)
    layer = make()
    inputs = keras.Input(shape[1:], dtype="int32" if isinstance(layer, layers.Embedding) else "float32")
    twice = "Attention" in type(layer).__name__
    return keras.Model(inputs, layer(inputs, inputs) if twice else layer(inputs))


@pytest.mark.parametrize("name", CASES)
def test_layer(name: str, tmp_path) -> None:
    make, shape = CASES[name]
    model = model_of(make, shape)
    x = np.random.default_rng(1).integers(0, 7, shape).astype("int32" if name == "Embedding" else "float32") / 1
    made = kc.quantize_model(kc.cluster_weights(kc.prune_low_magnitude(model, HALF), 4), activations=None)
    _, wrapper = next(compressed_layers(made))
    before = {slot.name: np.array(wrapper.latent(slot.name)) for slot, _ in wrapper.items()}
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(made(x, training=True) - 1.0))
    gradients = tape.gradient(loss, made.trainable_variables)
    keras.optimizers.SGD(0.1).apply(gradients, made.trainable_variables)
    for slot, transforms in wrapper.items():
        weight = np.array(wrapper.weight(slot.name))
        assert len(transforms) == 3
        assert (weight == 0).mean() >= 0.4
        assert len(np.unique(weight)) <= 4
        assert np.abs(np.array(wrapper.latent(slot.name)) - before[slot.name]).max() > 0
    expected = np.array(made(x))
    np.testing.assert_allclose(np.array(kc.strip(made)(x)), expected, atol=1e-6)
    made.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(np.array(keras.models.load_model(tmp_path / "m.keras")(x)), expected)
    assert np.abs(expected).max() > 0
