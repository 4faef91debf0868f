"""8-bit and 16-bit activations in one file."""

from collections import Counter

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.tflite.flatbuffer import Graph, read_model

X = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="first")(image)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    y = layers.Conv2D(4, 1, name="wide")(layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x))
    x = layers.MaxPooling2D(name="pool")(layers.Add(name="sum")([x, y]))
    x = layers.GlobalAveragePooling2D(name="mean")(layers.Conv2D(6, 3, activation="relu", name="final")(x))
    return keras.Model(image, layers.Dense(4, name="dense")(x))


def quantized(model, *wide, **options):
    return kc.quantize_model(model, rules=[{"layers": name, "activations": "int16"} for name in wide], **options)


def operators(artifact):
    """`(kind, types of what is read, type of what is made)` in their order."""
    graph = Graph(read_model(artifact.content))

    def of(op):
        read = [graph.dtype(t) for t in op.inputs if t >= 0 and not graph.is_constant(t)]
        return graph.kind(op), *read, graph.dtype(op.outputs[0])

    return list(map(of, graph.operators))


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_one_layer_of_16_bits_between_those_of_8(model, target):
    trained = quantized(model, "wide")
    artifact = kc.convert(trained, target, representative_dataset=X)
    assert (artifact.mode, artifact.float_ops) == ("int8", ())
    assert [op for op in operators(artifact) if "int16" in op] == [
        ("QUANTIZE", "int8", "int16"),  # what the residual sum reads beside it
        ("QUANTIZE", "int8", "int16"),
        ("CONV_2D", "int16", "int16"),
        ("MAXIMUM", "int16", "int16"),
        ("ADD", "int16", "int16", "int16"),
        ("QUANTIZE", "int16", "int8"),
    ]
    graph = Graph(read_model(artifact.content))
    wide = next(op for op in graph.operators if graph.kind(op) == "CONV_2D" and graph.dtype(op.outputs[0]) == "int16")
    assert [graph.dtype(tensor) for tensor in wide.inputs] == ["int16", "int8", "int64"]
    found = kc.verify(artifact, trained, 2 * X)
    assert found.ok
    assert np.ptp(artifact.frozen.predict(X, verbose=0)) > 0


def test_widening_loses_nothing(model):
    frozen = kc.freeze(quantized(model, "wide"), X)
    points = {name: frozen.get_layer(name).quantizer for name in ("relu_quantized", "relu_quantized.wide1")}
    narrow, wide = points.values()
    integers = np.arange(-128, 128, dtype=np.float32)
    values = (integers - narrow.zero_point) * np.float32(narrow.scale)
    assert (wide.scale, wide.zero_point, wide.bits) == (narrow.scale / 128, 0, 16)
    np.testing.assert_array_equal(np.asarray(wide(values)), values)


def test_a_sum_and_an_input_may_be_named(model):
    artifact = kc.convert(quantized(model, "image", "class:Add"), representative_dataset=X)
    kinds = Counter(op for op in operators(artifact) if "int16" in op)
    assert kinds["CONV_2D", "int16", "int16"] == 2  # the first reads 16 bits, the second those of the sum
    assert kinds["MAX_POOL_2D", "int16", "int16"] == kinds["ADD", "int16", "int16", "int16"] == 1
    assert operators(artifact)[0] == ("QUANTIZE", "float32", "int16")


def test_16_bits_keep_more_of_an_output(model):
    def distance(made):
        found = kc.freeze(made, X).predict(X, verbose=0)
        return np.square(found - model.predict(X, verbose=0)).mean()

    eight, sixteen = quantized(model), quantized(model, "final", "dense")
    assert distance(sixteen) < distance(eight)


def test_weights_between_16_bits_are_not_packed(model):
    rules = [{"layers": "wide", "weights": "int4", "activations": "int16"}, {"layers": "final", "weights": "int4"}]
    artifact = kc.convert(kc.quantize_model(model, rules=rules), representative_dataset=X, weights_storage="int4")
    stored = {each.name: each.dtype for each in kc.inspect_tflite(artifact.content).weights}
    assert (stored["wide/kernel"], stored["final/kernel"]) == ("INT8", "INT4")


def test_all_points_of_16_bits_are_16x8(model):
    assert kc.convert(kc.quantize_model(model, activations="int16"), representative_dataset=X).mode == "16x8"


def test_a_function_without_a_kernel_for_16_bits_is_named():
    image = keras.Input((8,))
    x = layers.Dense(4, name="first")(image)
    made = quantized(keras.Model(image, layers.Dense(4)(layers.Activation("gelu", name="gelu")(x))), "first")
    with pytest.raises(ValueError, match=r"GELU at gelu_quantized.*: GELU has no 16-bit kernel"):
        kc.convert(made, representative_dataset=X[:, 0, 0].repeat(3, -1)[:, :8], strict=True)


def test_a_rule_of_activations_that_matches_nothing(model):
    with pytest.raises(ValueError, match="Expected a rule that matches"):
        quantized(model, "absent")
