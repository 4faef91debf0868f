"""From the graph to a float file that the runtime runs."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_compress.convert.export import export
from keras_compress.convert.islands import Islands
from keras_compress.ir.emit import emit
from keras_compress.tflite.flatbuffer import Graph, write_model


def run(content, *inputs):
    from ai_edge_litert import interpreter as litert

    model = litert.Interpreter(model_content=content)
    runner = model.get_signature_runner("serving_default")
    names = list(model.get_signature_list()["serving_default"]["inputs"])
    return runner(**dict(zip(sorted(names), inputs)))


def float_file(model):
    return write_model(emit(export(model).graph).model)


IMAGE, SEQUENCE = (6, 8, 3), (6, 4)
LAYERS = {
    "conv": (IMAGE, lambda: layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", bias_initializer="ones")),
    "groups": (IMAGE[:2] + (4,), lambda: layers.Conv2D(4, 3, groups=2)),
    "dilated": (IMAGE, lambda: layers.Conv2D(4, (2, 3), dilation_rate=(2, 1), padding="same")),
    "depthwise": (IMAGE, lambda: layers.DepthwiseConv2D((3, 2), depth_multiplier=2, bias_initializer="normal")),
    "depthwise 1d": (SEQUENCE, lambda: layers.DepthwiseConv1D(3, strides=2, padding="same")),
    "transposed": (IMAGE, lambda: layers.Conv2DTranspose(2, 3, strides=2, padding="same", bias_initializer="ones")),
    "transposed, valid": (IMAGE, lambda: layers.Conv2DTranspose(2, 3, strides=(2, 1), output_padding=(1, 0))),
    "conv 1d": (SEQUENCE, lambda: layers.Conv1D(5, 3, padding="causal", dilation_rate=2, bias_initializer="normal")),
    "one filter": (SEQUENCE, lambda: layers.Conv1D(1, 3, bias_initializer="ones")),
    "dense": (SEQUENCE, lambda: layers.Dense(3, activation="relu6", bias_initializer="ones")),
    "dense on five": ((2, 3, 4, 5), lambda: layers.Dense(3)),
    "average": (IMAGE, lambda: layers.AveragePooling2D(3, 2, padding="same")),
    "maximum 1d": (SEQUENCE, lambda: layers.MaxPooling1D(3, 2, padding="same")),
    "mean": (IMAGE, lambda: layers.GlobalAveragePooling2D(keepdims=True)),
    "padding": (IMAGE, lambda: layers.ZeroPadding2D(((1, 2), (3, 0)))),
    "cropping": (IMAGE, lambda: layers.Cropping2D(((1, 2), (3, 0)))),
    "cropping 1d": (SEQUENCE, lambda: layers.Cropping1D((1, 2))),
    "permute": (IMAGE, lambda: layers.Permute((3, 1, 2))),
    "nearest": (IMAGE, lambda: layers.UpSampling2D((2, 3))),
    "bilinear": (IMAGE, lambda: layers.Resizing(9, 5)),
    "softmax": (SEQUENCE, lambda: layers.Softmax()),
    "log softmax": (SEQUENCE, lambda: layers.Activation("log_softmax")),
    "flatten": (IMAGE, lambda: layers.Flatten()),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_compute_what_keras_does(name):
    keras.utils.set_random_seed(4)
    shape, make = LAYERS[name]
    inputs = keras.Input(shape, name="x")
    model = keras.Model(inputs, make()(inputs))
    x = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    (got,) = run(float_file(model), x).values()
    wanted = np.asarray(model(x))
    assert got.shape == wanted.shape
    assert wanted.std() > 0.01
    np.testing.assert_allclose(got, wanted, atol=2e-5)


OPERATIONS = {
    "slices": lambda x, y: x[:, 1:4, ::2] - y[:, 2:5, 1::2],
    "backwards": lambda x, y: x[:, ::-1],
    "numbers and new axes": lambda x, y: x[:, -1, None, 1:],
    "product": lambda x, y: ops.matmul(x, ops.transpose(y, (0, 2, 1))),
    "both transposed": lambda x, y: ops.matmul(ops.transpose(x, (0, 2, 1)), y),
    "split": lambda x, y: ops.concatenate(list(ops.split(x, [1, 3], axis=2))[::-1], axis=2),
    "stack": lambda x, y: ops.stack(ops.unstack(x, axis=1) + ops.unstack(y, axis=1), axis=2),
    "extremes": lambda x, y: ops.maximum(x, 0.5) * ops.minimum(x, y) / (ops.exp(y) + 1.0),
    "reductions": lambda x, y: ops.max(x, axis=1) + ops.min(y, axis=1) + ops.mean(x, axis=1) - ops.sum(y, axis=1),
    "clip": lambda x, y: ops.clip(x, -1.0, 1.0) + ops.clip(y, 0.0, 6.0),
    "squeezed": lambda x, y: ops.squeeze(ops.expand_dims(x, 1) + ops.expand_dims(y, 1), 1),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_compute_what_keras_does(name):
    tensors = [keras.Input(SEQUENCE, name=n) for n in "xy"]
    model = keras.Model(tensors, [OPERATIONS[name](*tensors), tensors[0] * 2.0, tensors[1] * 2.0])
    values = [np.random.default_rng(n).normal(size=(1, *SEQUENCE)).astype(np.float32) for n in range(2)]
    (wanted, *_), got = model(values), run(float_file(model), *values)
    shaped = [v for v in got.values() if v.shape == wanted.shape]
    assert min(np.abs(v - np.asarray(wanted)).max() for v in shaped) < 1e-5


def test_interface_in_keras_order_with_the_callers_names():
    inputs = {"zebra": keras.Input((2,), name="zebra"), "ant": keras.Input((3,), name="ant")}
    outputs = {"two": layers.Dense(2, name="d")(inputs["zebra"]), "one": layers.ReLU(name="r")(inputs["ant"])}
    graph = Graph(emit(export(keras.Model(inputs, outputs)).graph).model)
    assert [graph.shape(t) for t in graph.inputs] == [(1, 3), (1, 2)]
    assert [graph.name(t) for t in graph.inputs] == ["serving_default_ant:0", "serving_default_zebra:0"]
    assert graph.interface_names() == (["ant", "zebra"], ["one", "two"])
    assert [graph.shape(t) for t in graph.outputs] == [(1, 3), (1, 2)]


def test_an_input_that_nothing_reads_is_still_fed():
    used, unused = keras.Input((2,), name="used"), keras.Input((3,), name="unused")
    model = keras.Model([used, unused], layers.ReLU()(used))
    got = run(float_file(model), np.zeros((1, 3), np.float32), np.array([[-1, 2]], np.float32))
    assert next(iter(got.values())).tolist() == [[0, 2]]


class Odd(layers.Layer):
    """Three outputs: one twice, one that is the input."""

    def call(self, x):
        sums = ops.cumsum(x, axis=1)
        return [sums, x, sums]

    def compute_output_spec(self, x):
        return [keras.KerasTensor(x.shape, x.dtype) for _ in range(3)]


def test_an_island_is_put_in_line():
    x = keras.Input((4,), name="x")
    sums, same, again = Odd(name="odd layer")(layers.ReLU()(x))
    model = keras.Model(x, [layers.ReLU(6.0)(sums), same * 2.0, again])
    exported = export(model).graph
    assert [n.operator for n in exported.nodes].count("ISLAND") == 1
    got = run(float_file(model), np.array([[1, -1, 2, 5]], np.float32))
    assert sorted(v.tolist() for v in got.values()) == [[[1, 1, 3, 6]], [[1, 1, 3, 8]], [[2, 0, 4, 10]]]


def test_equal_islands_are_converted_once(monkeypatch):
    made = []
    monkeypatch.setattr(Islands, "_converted", lambda self, *call: made.append(call) or (b"", [((1, 4), "float32")]))
    x = keras.Input((4,), name="x")
    export(keras.Model(x, ops.sinh(ops.sinh(ops.cosh(x)))))
    assert len(made) == 2
