"""Models and layers that users wrote, on their way to integers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import keras_compress as kc
from keras_compress.convert.flatten import flatten
from keras_compress.runtime.verify import verify


class Residual(layers.Layer):
    """Sub-layers, and `x + y` in `call`."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.conv = layers.Conv2D(filters, 3, padding="same", use_bias=False, name="conv")
        self.norm = layers.BatchNormalization(name="norm")

    def build(self, shape):
        self.conv.build(shape)
        self.norm.build((*shape[:-1], self.filters))

    def call(self, x, training=False):
        return ops.relu(x + self.norm(self.conv(x), training=training))

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


class Net(keras.Model):
    """Layers in attributes and in a list; two of them have a sub-layer of the same name."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stem = layers.Conv2D(4, 3, activation="relu")
        self.blocks = [Residual(4), Residual(4)]
        self.pool = layers.GlobalAveragePooling2D()
        self.head = layers.Dense(3)

    def call(self, x, training=False):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(self.pool(x))


class Projection(layers.Layer):
    """A layer with a weight of its own, transposed before it is used."""

    def build(self, shape):
        self.table = self.add_weight(name="table", shape=(4, shape[-1]), initializer="glorot_uniform")

    def get_compressible_weights(self):
        return {"table": (0,)}

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.table)) + 0.5


class Raw(keras.Model):
    """`tf` functions, which do not work on symbolic tensors."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.head = layers.Dense(3)

    def call(self, x):
        return self.head(tf.nn.relu(x))


@pytest.fixture
def images():
    return np.random.default_rng(5).normal(size=(48, 8, 8, 3)).astype(np.float32)


@pytest.fixture
def net(images):
    keras.utils.set_random_seed(7)
    model = Net()
    model(images[:2])
    return model


def test_a_subclassed_model_becomes_a_flat_graph_with_the_same_outputs(net, images):
    flat = flatten(net, images).model
    names = [layer.name for layer in flat.layers]
    assert len(names) == len(set(names))
    assert sum("conv" in name for name in names) == 3  # the stem and one in each block, whatever they are called
    np.testing.assert_allclose(flat(images), net(images), atol=0.02)  # convolutions' weights are floats here


def test_a_subclassed_model_runs_in_integers_as_simulated(net, images):
    artifact = kc.convert(net, representative_dataset=images)
    assert artifact.float_ops == ()
    assert verify(artifact, net, images, kernels=("reference",)).ok


def test_a_compressed_subclassed_model_keeps_its_zeros_in_the_file(net, images):
    pruned = kc.prune_low_magnitude(net, pruning_schedule=kc.ConstantSparsity(0.5, begin_step=0))
    pruned.compile("sgd", "mse", run_eagerly=True)
    pruned.fit(images, np.zeros((48, 3), np.float32), verbose=0)
    stats = kc.inspect_tflite(kc.convert(pruned, representative_dataset=images).content)
    assert stats.sparsity >= 0.5


def test_a_weight_that_is_transposed_in_call_is_the_transformed_one():
    inputs = keras.Input((6,))
    keras.utils.set_random_seed(3)
    model = keras.Model(inputs, Projection()(inputs))
    pruned = kc.prune_low_magnitude(model, pruning_schedule=kc.ConstantSparsity(0.5, begin_step=0))
    x = np.random.default_rng(1).normal(size=(32, 6)).astype(np.float32)
    pruned.compile("sgd", "mse", run_eagerly=True)
    pruned.fit(x, np.zeros((32, 4), np.float32), verbose=0)
    flat = flatten(pruned).model
    np.testing.assert_allclose(flat(x), pruned(x), atol=0.02)
    assert np.abs(np.asarray(flat(x)) - np.asarray(model(x))).max() > 0.1  # pruning changed what is computed


def test_tf_functions_are_refused_with_the_cure_and_convert_to_float(images):
    model = Raw(name="raw")
    model(images[:2])
    with pytest.raises(ValueError, match=r"Raw at 'raw'.*Use `keras.ops` in place of `tf`"):
        kc.convert(model, representative_dataset=images)
    assert kc.convert(model, mode="float32").content[4:8] == b"TFL3"


def test_a_model_trained_in_half_precision_is_lowered_from_its_float32_weights():
    keras.utils.set_random_seed(2)
    half = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, activation="relu", dtype="mixed_float16"),
            layers.Dense(3, dtype="mixed_float16"),
        ]
    )
    x = np.random.default_rng(1).normal(size=(32, 6)).astype(np.float32)
    artifact = kc.convert(half, representative_dataset=x)
    assert artifact.float_ops == ()
    result = verify(artifact, half, x, kernels=("reference",))
    assert result.ok
    np.testing.assert_allclose(artifact.frozen(x), half(x), atol=0.05)
