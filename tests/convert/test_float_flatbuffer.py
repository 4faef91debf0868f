"""Float conversion: order, names, determinism, captured logs, refusals."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from keras_compress.convert.float_flatbuffer import (
    float_flatbuffer,
    input_names,
    output_names,
)
from keras_compress.quantizers.activation import FixedGrid, QuantizeActivation
from keras_compress.tflite.flatbuffer import Graph, read_model

MODEL = """
import keras
keras.utils.set_random_seed(5)
x = keras.Input((6, 6, 2), name="x")
y = keras.layers.Conv2D(3, 3, name="c")(x)
y = keras.layers.BatchNormalization(name="b")(y)
z = keras.layers.Dense(4, name="d")(keras.layers.Flatten(name="f")(y))
model = keras.Model(x, [z, keras.layers.Softmax(name="s")(z)])
"""


@pytest.fixture(scope="module")
def classifier():
    names = {}
    exec(MODEL, names)  # noqa: S102 (the same text runs in another process below)
    return names["model"]


@pytest.fixture(scope="module")
def content(classifier):
    return float_flatbuffer(classifier)


def test_computes_the_model_and_names_the_outputs_by_layer(classifier, content, lab):
    inputs = lab.samples(classifier)
    got = lab.run(content, inputs, "reference")
    assert lab.signature_order(content) == (["x"], ["d", "s"])
    for name, wanted in zip(["d", "s"], classifier(inputs["x"])):
        np.testing.assert_allclose(got[name], keras.ops.convert_to_numpy(wanted), atol=1e-5)


def test_same_bytes_twice_in_a_process_and_in_another_one(classifier, content):
    assert float_flatbuffer(classifier) == content
    script = MODEL + (
        "import hashlib\n"
        "for i in range(3): keras.layers.Dense(1)  # another history of automatic names\n"
        "from keras_compress.convert.float_flatbuffer import float_flatbuffer\n"
        "print(hashlib.sha1(float_flatbuffer(model)).hexdigest())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=os.getcwd())
    assert done.stdout.split()[-1] == hashlib.sha1(content).hexdigest()


def test_nothing_of_the_converter_is_left_in_the_file(content):
    model = read_model(content)
    assert not model.metadata
    assert model.description == b"keras_compress"
    assert b"StatefulPartitionedCall" not in content
    assert b"MLIR" not in content


def test_tensors_are_named_after_layers(content):
    graph = Graph(read_model(content))
    names = {graph.name(i) for i in range(len(graph.tensors))}
    assert {"serving_default_x:0", "c/conv_2d/operand1", "d/fully_connected", "s/softmax"} <= names


def test_batch_is_one(content):
    graph = Graph(read_model(content))
    assert [graph.shape(i)[0] for i in (*graph.inputs, *graph.outputs)] == [1, 1, 1]


def test_sequential_models(lab):
    model = keras.Sequential([keras.Input((5,), name="in"), layers.Dense(3, name="out")])
    x = {"in": np.ones((2, 5), np.float32)}
    got = lab.run(float_flatbuffer(model), x, "xnnpack")["out"]
    np.testing.assert_allclose(got, keras.ops.convert_to_numpy(model(x["in"])), atol=1e-6)


def test_one_tensor_twice_and_an_input_as_output(lab):
    x = keras.Input((3,), name="x")
    y = layers.Dense(3, name="d")(x)
    model = keras.Model(x, [y, y, x])
    assert output_names(model) == ["d", "d_1", "x"]
    inputs = lab.samples(model, count=2)
    got = lab.run(float_flatbuffer(model), inputs, "xnnpack")
    np.testing.assert_array_equal(got["d"], got["d_1"])
    np.testing.assert_array_equal(got["x"], inputs["x"])


def point(scale):
    return QuantizeActivation(FixedGrid(scale, 0), stands_for="r")


def test_names_look_through_points():
    x = keras.Input((3,), name="x")
    model = keras.Model({"x": x}, [point(2.0)(point(1.0)(layers.ReLU(name="r")(x)))])
    assert input_names(model) == ["x"]
    assert output_names(model) == ["r"]


def test_integer_inputs_stay_integers(lab):
    x = keras.Input((4,), dtype="int32", name="ids")
    model = keras.Model(x, layers.Embedding(10, 3, name="e")(x))
    ids = {"ids": np.array([[1, 2, 9, 0]], np.int32)}
    got = lab.run(float_flatbuffer(model), ids, "xnnpack")["e"]
    np.testing.assert_allclose(got, keras.ops.convert_to_numpy(model(ids["ids"])), atol=1e-7)


def test_dynamic_shapes_are_refused():
    x = keras.Input((None, 3), name="sequence")
    model = keras.Model(x, layers.Dense(2)(x))
    with pytest.raises(ValueError, match=r"static shapes .* input 'sequence' of shape \(None, None, 3\)"):
        float_flatbuffer(model)


def test_a_conversion_prints_nothing(classifier, capfd):
    float_flatbuffer(classifier)
    assert capfd.readouterr() == ("", "")
