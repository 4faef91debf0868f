"""Operators split along their outputs: the same integers on TFLite-Micro and on LiteRT."""

from __future__ import annotations

import numpy as np
import pytest
from tests_integer_nets import RELU, IntegerNet, run_everywhere, shapes

from keras_compress.tflite.flatbuffer import Graph, read_model, write_model
from keras_compress.tflite.passes.tile_outputs import most_parts, tile_outputs

KERNELS = ("tflm", "reference")


def constants(rng, bits, outputs, *others, per_channel, bias):
    """Weights, bias and scales of one layer."""
    scales = rng.uniform(0.004, 0.02, outputs) if per_channel else 0.01
    return (
        rng.integers(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1), (outputs, *others)),
        rng.integers(-900, 900, outputs) if bias else None,
        scales,
    )


def net(bits=8, **form):
    """3x3 convolution, 1x1 convolution, and two dense layers, of 7, 10, 22 and 5 outputs."""
    always = {**form, "bias": True}  # LiteRT's convolutions ask for one
    rng, built = np.random.default_rng(0), IntegerNet(1, 9, 9, 3, bits=bits)
    weights, bias, scales = constants(rng, 8, 7, 3, 3, 3, **always)
    y = built.conv(built.input, weights, bias, scales=scales, act=RELU, same=True, stride=2, out=(0.2, -20))
    weights, bias, scales = constants(rng, 8, 10, 1, 1, 7, **always)
    y = built.flatten(built.conv(y, weights, bias, scales=scales, out=(0.3, 5)))
    weights, bias, scales = constants(rng, 8, 22, 250, **form)
    y = built.dense(y, weights, bias, scales=scales, out=(1.0, 11), act=RELU)
    weights, bias, scales = constants(rng, 8, 5, 22, **form)
    return built.file(built.dense(y, weights, bias, scales=scales, out=(2.0, 3)))


def tiled(content, *counts):
    """The file with the weights, in the order of use, split into so many pieces each, and the notes."""
    graph = Graph(read_model(content))
    weights = [op.inputs[1] for op in graph.operators if graph.kind(op) in ("FULLY_CONNECTED", "CONV_2D")]
    notes = tile_outputs(graph, dict(zip(weights, counts, strict=True)))
    return write_model(graph.model), notes


@pytest.fixture(scope="module")
def inputs():
    return np.random.default_rng(1).integers(-128, 128, (10, 9, 9, 3)).astype(np.int8)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_outputs_are_the_same_integers(inputs, per_channel, bias):
    plain = net(per_channel=per_channel, bias=bias)
    split, notes = tiled(plain, 3, 2, 11, 2)
    assert len(notes) == 4
    expected, got = run_everywhere(plain, inputs, KERNELS), run_everywhere(split, inputs, KERNELS)
    for kernel in KERNELS:
        assert expected[kernel][0].std() > 10
        np.testing.assert_array_equal(got[kernel][0], expected[kernel][0])


def test_sixteen_bit_activations(inputs):
    plain = net(bits=16, per_channel=True, bias=True)
    split, _ = tiled(plain, 7, 10, 2, 1)
    wide = inputs.astype(np.int16) * 256
    expected, got = (run_everywhere(content, wide, ("tflm",))["tflm"][0] for content in (plain, split))
    assert expected.std() > 10
    np.testing.assert_array_equal(got, expected)


def test_pieces_are_as_equal_as_can_be_and_joined_ten_at_a_time():
    split, notes = tiled(net(per_channel=True, bias=True), 1, 1, 11, 1)
    graph = Graph(read_model(split))
    kinds = [graph.kind(op) for op in graph.operators]
    assert kinds[3:] == ["FULLY_CONNECTED"] * 10 + ["CONCATENATION"] + ["FULLY_CONNECTED", "CONCATENATION"] + [
        "FULLY_CONNECTED"
    ]
    assert [len(op.inputs) for op in graph.operators if graph.kind(op) == "CONCATENATION"] == [10, 2]
    split, _ = tiled(net(per_channel=True, bias=True), 3, 1, 1, 1)
    assert [shape[0] for name, shape in shapes(split).items() if name.startswith("w/part")] == [3, 2, 2]
    assert notes == ["FULLY_CONNECTED at 'fully_connected' is split into 11 along its outputs"]


def test_what_cannot_be_split_is_named():
    rng, built = np.random.default_rng(0), IntegerNet(1, 4, 4, 6)
    y = built.conv(built.input, rng.integers(-9, 9, (1, 3, 3, 6)), same=True, depthwise=True, scales=np.full(6, 0.01))
    y = built.conv(y, rng.integers(-9, 9, (6, 1, 1, 3)))  # 6 channels in, 3 read: two groups
    shared = built.weight(rng.integers(-9, 9, (96, 96)), 0.01)
    y = built.dense(built.dense(built.flatten(y), shared), shared)
    computed = built.dense(built.flatten(built.input), built.flatten(built.input))
    graph = Graph(read_model(built.file(y, computed)))
    weights = list(dict.fromkeys(op.inputs[1] for op in graph.operators if graph.kind(op) != "RESHAPE"))
    notes = tile_outputs(graph, dict.fromkeys(weights, 2))
    assert [note.split(": ", 1)[1] for note in notes] == [
        "DEPTHWISE_CONV_2D is none of FULLY_CONNECTED, CONV_2D",
        "it is a grouped convolution",
        "2 operators read it (FULLY_CONNECTED, FULLY_CONNECTED)",
        "its weight or bias is computed, not constant",
    ]


@pytest.mark.parametrize(("layer", "count", "most"), [(3, 3, 2), (0, 8, 7), (2, 0, 11)])
def test_too_many_pieces_are_refused(layer, count, most):
    graph = Graph(read_model(net(per_channel=True, bias=True)))
    weight = [op.inputs[1] for op in graph.operators if graph.kind(op) != "RESHAPE"][layer]
    assert most_parts(graph, weight) == most
    with pytest.raises(ValueError, match=f"Expected 1 to {most} pieces of 'w.*Received: {count}"):
        tile_outputs(graph, {weight: count})
