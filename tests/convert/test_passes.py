"""Float modes: dynamic range, float16, float32."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from tests_integer_nets import IntegerNet

from keras_compress.convert.expand.lookups import Rows
from keras_compress.tflite.flatbuffer import Graph, read_model
from keras_compress.tflite.passes.dense_as_convolution import dense_as_convolution


def net(q):
    x = keras.Input((8, 8, 3), name="x")
    y = layers.Conv2D(8, 3, padding="same", activation="relu", name="c")(q(x, 0.03, 3, "in"))
    y = layers.DepthwiseConv2D(3, name="dw")(q(y, 0.02, -128, "conv"))
    y = layers.Conv2DTranspose(4, 3, strides=2, name="t")(q(y, 0.02, 3, "depthwise"))
    return keras.Model(x, layers.Dense(10, name="d", bias_initializer="normal")(layers.Flatten(name="f")(y)))


@pytest.fixture(scope="module")
def bench(lab):
    return lab.bench(net)


@pytest.fixture(scope="module")
def plain(bench, lab):
    """Outputs of the float32 file, where points are gone."""
    inputs = lab.samples(bench.marked)
    content = bench.lower(mode="float32").content
    assert not {"QUANTIZE", "DEQUANTIZE"} & set(lab.operators(content))
    return inputs, lab.run(content, inputs, "reference")["d"]


def test_float32_computes_what_keras_computes_without_ranges(bench, plain):
    inputs, expected = plain
    x = inputs["x"]
    for name in ("c", "dw", "t", "f", "d"):
        x = bench.marked.get_layer(name)(x)
    np.testing.assert_allclose(expected, keras.ops.convert_to_numpy(x), atol=1e-5)
    assert expected.std() > 0.1


@pytest.mark.parametrize("runtime", ["xnnpack", "reference"])
def test_dynamic_range(bench, plain, lab, runtime):
    inputs, expected = plain
    lowered = bench.lower(mode="dynamic")
    assert [f.op for f in lowered.float_ops] == ["TRANSPOSE_CONV"]
    for name in ("c", "dw", "t", "d"):
        values, scale, _, dtype = lab.tensor(lowered.content, f"{name}/kernel")
        grid = bench.weights[f"{name}/kernel"]
        assert dtype == "int8"
        np.testing.assert_array_equal(values, grid.values)
        np.testing.assert_array_equal(scale, grid.scale)
    got = lab.run(lowered.content, inputs, runtime)["d"]
    assert 0 < np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


def test_dynamic_range_lists_weights_that_the_plan_does_not_have(bench):
    left = bench.lower(mode="dynamic", weights={}).float_ops
    assert [f.op for f in left] == ["CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"]
    assert {f.reason for f in left} == {"no integers are known for its weights"}


@pytest.mark.parametrize("runtime", ["xnnpack", "reference"])
def test_float16(bench, plain, lab, runtime):
    inputs, expected = plain
    lowered = bench.lower(mode="float16")
    assert len(lowered.content) < 0.6 * len(bench.lower(mode="float32").content)
    got = lab.run(lowered.content, inputs, runtime)["d"]
    assert 0 < np.abs(got - expected).max() < 2e-3 * np.abs(expected).max()


def test_float16_leaves_what_it_cannot_hold(lab):
    def big(q):
        x = keras.Input((4,), name="x")
        return keras.Model(x, layers.Dense(3, name="d", kernel_initializer=keras.initializers.Constant(1e6))(x))

    bench = lab.bench(big)
    lowered = bench.lower(mode="float16")
    assert len(lowered.notes) == 1
    assert "beyond float16's range" in lowered.notes[0]
    x = {"x": np.ones((1, 4), np.float32)}
    np.testing.assert_allclose(lab.run(lowered.content, x, "xnnpack")["d"], np.full((1, 3), 4e6))


def test_dynamic_range_looks_embeddings_up_as_integers(lab):
    def net(q):
        x = keras.Input((4,), dtype="int32", name="ids")
        layer = Rows(50, 8, name="e")
        layer.kernel.assign(np.random.default_rng(0).normal(size=(50, 8)))
        return keras.Model(x, layer(x))

    bench = lab.bench(net, per_channel=False)
    content = bench.lower(mode="dynamic").content
    assert lab.operators(content)[-2:] == ["GATHER", "DEQUANTIZE"]
    assert lab.tensor(content, "e/kernel")[3] == "int8"
    ids = {"ids": np.array([[3, 49, 0, 7]], np.int32)}
    for runtime in ("xnnpack", "reference"):
        got = lab.run(content, ids, runtime)["e"]
        np.testing.assert_array_equal(got[0], bench.weights["e/kernel"].floats()[ids["ids"][0]])


@pytest.mark.parametrize(
    ("target", "scales", "rewritten"), [("tflm", 3, True), ("tflm", 1, False), ("litert", 3, False)]
)
def test_a_dense_layer_becomes_a_convolution_where_its_kernel_takes_no_packed_weight(target, scales, rewritten):
    net = IntegerNet(1, 8)
    out = net.dense(net.input, np.ones((3, 8)), np.zeros(3), scales=[0.01] * scales)
    graph = Graph(read_model(net.file(out)))
    (op,) = graph.operators
    notes = dense_as_convolution(graph, {op.inputs[1]: 4}, target)
    kinds = [graph.kind(each) for each in graph.operators]
    assert kinds == (["RESHAPE", "CONV_2D", "RESHAPE"] if rewritten else ["FULLY_CONNECTED"])
    assert len(notes) == rewritten
    # A weight that stays as it is needs nothing.
    assert dense_as_convolution(Graph(read_model(net.file(out))), {}, target) == []
