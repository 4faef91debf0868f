"""Models that TensorFlow's converter stumbles over: integer files do not go through it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_compress as kc
from keras_compress.runtime import deployed
from keras_compress.runtime.target import target

SHAPE = (6, 1)


def one_channel(layer):
    x = keras.Input(SHAPE, name="x")
    return keras.Model(x, layer(layers.Add()([x, x])))


def equal_kernels():
    """(outputs, inputs) of the one are those of the other, in another shape."""
    x = keras.Input(SHAPE, name="x")
    conv = layers.Conv1D(4, 1, name="conv", bias_initializer="ones")
    dense = layers.Dense(4, name="dense", bias_initializer="ones")
    y = layers.Flatten()(conv(x))[:, :1]
    model = keras.Model(x, dense(y))
    conv.kernel.assign(np.asarray(dense.kernel)[None])
    return model


MODELS = {
    "one channel, Dense": lambda: one_channel(layers.Dense(3, bias_initializer="ones")),
    "one channel, PReLU": lambda: one_channel(layers.PReLU(alpha_initializer="uniform")),
    "one channel, EinsumDense": lambda: one_channel(layers.EinsumDense("abc,cd->abd", (None, 2), bias_axes="d")),
    "one channel, DepthwiseConv1D": lambda: one_channel(layers.DepthwiseConv1D(3, bias_initializer="ones")),
    "one channel, Conv1DTranspose": lambda: one_channel(layers.Conv1DTranspose(2, 3, bias_initializer="ones")),
    "one filter": lambda: one_channel(layers.Conv1D(1, 3, bias_initializer="ones")),
    "equal kernels": equal_kernels,
}


@pytest.mark.parametrize("name", MODELS)
def test_it_converts_and_computes(name, lab):
    keras.utils.set_random_seed(1)
    model = MODELS[name]()
    x = np.random.default_rng(0).normal(size=(64, *SHAPE)).astype(np.float32)
    artifact = kc.convert(model, representative_dataset=x)
    assert artifact.float_ops == ()
    (got,) = lab.run(artifact.content, {model.inputs[0].name: x[:8]}, "reference").values()
    wanted = np.asarray(model(x[:8]))
    assert np.abs(got - wanted).max() < 0.04 * np.abs(wanted).max()


def test_an_input_that_nothing_reads(lab):
    keras.utils.set_random_seed(1)
    used, unused = keras.Input((4,), name="used"), keras.Input((3,), name="unused")
    model = keras.Model([used, unused], layers.Dense(2)(used))
    data = [np.random.default_rng(n).normal(size=(32, size)).astype(np.float32) for n, size in enumerate((4, 3))]
    artifact = kc.convert(model, representative_dataset=data)
    (got,) = lab.run(artifact.content, {"used": data[0], "unused": data[1]}, "reference").values()
    wanted = np.asarray(model(data))
    assert np.abs(got - wanted).max() < 0.04 * np.abs(wanted).max()


def test_a_batch_that_the_model_fixes():
    from keras_compress.tflite.flatbuffer import Graph, read_model

    x = keras.Input((6,), batch_size=4, name="x")
    model = keras.Model(x, layers.Dense(2)(x))
    data = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
    graph = Graph(read_model(kc.convert(model, representative_dataset=data).content))
    assert [graph.shape(t) for t in (*graph.inputs, *graph.outputs)] == [(4, 6), (4, 2)]


def test_a_float_island_between_integers(lab):
    """What a user's `call` does with operations that no integer kernel has stays float, and is listed."""
    x = keras.Input((5,), name="x")
    y = layers.Lambda(lambda t: ops.cumsum(t, axis=1), name="sums")(layers.Dense(5, name="d")(x))
    model = keras.Model(x, layers.Dense(2, name="last")(y))
    data = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
    artifact = kc.convert(model, representative_dataset=data)
    assert [op.op for op in artifact.float_ops] == ["CUMSUM"]
    (got,) = lab.run(artifact.content, {"x": data[:8]}, "reference").values()
    wanted = np.asarray(model(data[:8]))
    assert np.abs(got - wanted).max() < 0.05 * np.abs(wanted).max()


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_the_class_as_an_integer(target):
    """Of integers that differ, the largest is where the largest real value is, but for ties of the device."""
    keras.utils.set_random_seed(1)
    x = keras.Input((4,), name="x")
    model = keras.Model(x, ops.argmax(layers.Dense(5)(x), axis=-1))
    data = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    artifact = kc.convert(model, target, representative_dataset=data)
    assert artifact.float_ops == ()
    result = kc.verify(artifact, model, data)
    assert result.ok
    assert artifact.frozen(data).numpy().dtype == np.int32
    assert np.mean(np.asarray(artifact.frozen(data)) == np.asarray(model(data))) > 0.95


@pytest.mark.parametrize("mode", ["int8", "16x8"])
def test_whole_numbers_are_of_real_numbers_not_of_stored_integers(mode):
    x = keras.Input((4,), name="x")
    numbers = ops.cast(ops.relu(x), "int32")
    model = keras.Model(x, [numbers, layers.Embedding(8, 2)(numbers), ops.cast(numbers, "float32")])
    # Halves, which no rounding to the input's integers takes to the next whole number.
    data = np.random.default_rng(0).integers(-7, 7, size=(32, 4)).astype(np.float32) + 0.5
    artifact = kc.convert(model, mode=mode, representative_dataset=data)
    found = deployed.run(target("litert"), artifact.content, data, "net")
    assert found[0].tolist() == np.trunc(np.maximum(data, 0)).tolist()
    np.testing.assert_allclose(found[1], np.asarray(model(data)[1]), atol=0.001)
    np.testing.assert_allclose(found[2], found[0], atol=7 / 255)
    assert kc.verify(artifact, model, data).ok


def test_an_input_whose_name_is_no_scope():
    keras.utils.set_random_seed(1)
    image = keras.Input((4, 4, 2), name="mein größtes Bild")
    model = keras.Model(image, layers.Conv2D(2, 3)(image))
    x = np.random.default_rng(0).normal(size=(32, 4, 4, 2)).astype(np.float32)
    trained = kc.quantize_model(model)
    trained(x, training=True)
    assert trained.predict(x, verbose=0).shape == (32, 2, 2, 2)
    for each, data in ((model, x), (trained, None)):
        artifact = kc.convert(each, representative_dataset=data)
        assert kc.verify(artifact, each, x).ok
