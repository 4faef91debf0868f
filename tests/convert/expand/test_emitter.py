"""Layers of users are traced, and what they call is put in their place."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import keras_compress as kc


class Gated(layers.Layer):
    """Weights of its own, read through a mapping."""

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], 2), name="matrix")
        self.shift = self.add_weight(shape=(2,), name="shift")

    def get_compressible_weights(self):
        return {"matrix": (-1,)}

    def call(self, inputs):
        moved = ops.matmul(inputs, self.matrix) + self.shift
        return ops.silu(moved) + 0.5 * moved


class Stranger(layers.Layer):
    """Computes with TensorFlow, which symbolic tensors do not run through."""

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], 2), name="matrix")

    def call(self, inputs):
        return tf.linalg.matmul(inputs, tf.identity(self.matrix))


def test_a_user_layer_is_what_it_calls(bench):
    flat = bench.same(bench.model(lambda x: Gated(name="own")(x), (3,)))
    assert bench.kinds(flat) == ["Dense", "BatchNormalization", "Activation", "Multiply", "BatchNormalization", "Add"]
    assert all(each.name.startswith("own") for each in flat.operations[1:])


def test_a_pruned_user_layer_keeps_its_zeros(bench):
    model = bench.model(lambda x: Gated(name="own")(x), (8,))
    pruned = kc.prune_low_magnitude(model, kc.ConstantSparsity(0.5, begin_step=0))
    pruned.compile("sgd", "mse", run_eagerly=True)
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    pruned.train_on_batch(x, np.zeros((4, 2)))
    (dense,) = [each for each in bench.flatten(pruned).layers if isinstance(each, kc.Compressed)]
    assert (dense.transforms["kernel"][-1].integer_weight(None).integers == 0).sum() == 8


def test_tensorflow_in_a_layer_with_weights_is_refused_with_the_cure(bench):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, Stranger(name="odd")(inputs))
    with pytest.raises(ValueError, match=r"Stranger at 'odd'.*Use `keras.ops` in place of `tf`"):
        bench.flatten(model)


def test_layers_that_do_nothing_in_inference_are_left_out(bench):
    model = bench.model(lambda x: layers.Dropout(0.5)(layers.GaussianNoise(1.0)(layers.ReLU()(x))), (3,))
    assert bench.kinds(bench.same(model)) == ["ReLU"]


def test_a_lambda_is_what_it_calls(bench):
    flat = bench.same(bench.model(lambda x: layers.Lambda(lambda t: ops.tanh(t) * 2.0)(x), (3,)))
    assert bench.kinds(flat) == ["Tanh", "BatchNormalization"]
