"""What each operator lets through: channels that are constant, zero, or ignored behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tests_integer_nets import RELU, IntegerNet, run_everywhere

from keras_compress.tflite.flatbuffer import Graph, read_model, write_model
from keras_compress.tflite.passes.drop_dead_units import drop_dead_units

Build = Callable[[IntegerNet, int], int]


def numbers(net: IntegerNet, *values: Any) -> int:
    return net.graph.add_constant("numbers", np.array(values, np.int32))


def shaped(net: IntegerNet, x: int, kind: str, shape: tuple[int, ...], operand: tuple[Any, ...], options: Any) -> int:
    return net.same_grid(kind, [x, numbers(net, *operand)], shape, options)


def relu(kind: str) -> Build:
    return lambda net, x: net.same_grid(kind, [x], net.graph.shape(x), None)


def function(kind: str, options: str = "") -> Build:
    def build(net: IntegerNet, x: int) -> int:
        made = getattr(schema, options)() if options else None
        if kind == "LEAKY_RELU":
            made.alpha = 0.25
        grid = {"TANH": (1 / 128, 0), "LOGISTIC": (1 / 256, -128)}.get(kind, (0.15, 0))
        return net.add(kind, [x], net.activation("y", net.graph.shape(x), *grid), made)

    return build


def with_constant(kind: str, values: Any, **options: Any) -> Build:
    def build(net: IntegerNet, x: int) -> int:
        other = net.graph.add_constant("k", np.asarray(values, np.int8))
        grid = net.grid(x)
        net.graph.set_quantization(other, np.array([grid[0]], np.float32), grid[1])
        if kind in ("MAXIMUM", "MINIMUM"):
            return net.same_grid(kind, [x, other], net.graph.shape(x), schema.MaximumMinimumOptionsT())
        return net.binary(kind, x, other, **options)

    return build


def pad(kind: str, rows: int, channels: tuple[int, int] = (0, 0)) -> Build:
    def build(net: IntegerNet, x: int) -> int:
        _, height, width, depth = net.graph.shape(x)
        options = schema.MirrorPadOptionsT() if kind == "MIRROR_PAD" else schema.PadOptionsT()
        paddings = ([0, 0], [rows, rows], [0, 0], list(channels))
        return shaped(net, x, kind, (1, height + 2 * rows, width, depth + sum(channels)), paddings, options)

    return build


def mean(kind: str) -> Build:
    def build(net: IntegerNet, x: int) -> int:
        options = schema.ReducerOptionsT()
        options.keepDims = True
        out = net.activation("y", (1, 1, 1, 8), *((0.15, 4) if kind == "MEAN" else net.grid(x)))
        return net.add(kind, [x, numbers(net, 1, 2)], out, options)

    return build


def take(net: IntegerNet, x: int) -> int:
    return net.same_grid(
        "SLICE", [x, numbers(net, 0, 1, 0, 0), numbers(net, 1, 3, -1, 8)], (1, 3, 6, 8), schema.SliceOptionsT()
    )


def stride(net: IntegerNet, x: int) -> int:
    operands = [numbers(net, 0, 1, 0, 0), numbers(net, 1, 6, 6, 8), numbers(net, 1, 2, 1, 1)]
    options = schema.StridedSliceOptionsT()
    return net.same_grid("STRIDED_SLICE", [x, *operands], (1, 3, 6, 8), options, endMask=4)


def transpose(net: IntegerNet, x: int) -> int:
    return shaped(net, x, "TRANSPOSE", (1, 6, 6, 8), (0, 2, 1, 3), schema.TransposeOptionsT())


def grow(net: IntegerNet, x: int) -> int:
    return shaped(net, x, "RESIZE_NEAREST_NEIGHBOR", (1, 9, 9, 8), (9, 9), schema.ResizeNearestNeighborOptionsT())


def flat_and_back(net: IntegerNet, x: int) -> int:
    options = schema.ReshapeOptionsT()
    return net.same_grid("RESHAPE", [net.flatten(x), numbers(net, 1, 6, 6, 8)], (1, 6, 6, 8), options)


def beside(net: IntegerNet, x: int) -> int:
    options = schema.ConcatenationOptionsT()
    return net.same_grid("CONCATENATION", [x, relu("RELU")(net, x)], (1, 12, 6, 8), options, axis=1)


def transposed(net: IntegerNet, x: int, padding: int = schema.Padding.VALID) -> int:
    values = np.random.default_rng(5).integers(1, 50, (8, 2, 2, 8))
    values[..., 5] = 0
    weight, options = net.weight(values, 0.002), schema.TransposeConvOptionsT()
    bias = net.graph.add_constant("b", np.arange(8, dtype=np.int32) * 50)
    net.graph.set_quantization(bias, np.array([0.002 * net.grid(x)[0]], np.float32))
    options.padding, options.strideH, options.strideW = padding, 2, 2
    out = net.activation("y", (1, 12, 12, 8), 0.3, -3)
    return net.add("TRANSPOSE_CONV", [numbers(net, 1, 12, 12, 8), weight, x, bias], out, options)


# Channel 1 is 8 steps above zero, channel 2 is zero, channel 5 is read by nobody: which of them go.
ALL, ZERO, IGNORED = 5, 6, 7
OPERATORS: dict[str, tuple[Build, int]] = {
    "relu": (relu("RELU"), ALL),
    "relu6": (relu("RELU6"), ALL),
    "logistic": (function("LOGISTIC"), IGNORED),
    "tanh": (function("TANH"), ZERO),
    "hard swish": (function("HARD_SWISH", "HardSwishOptionsT"), ZERO),
    "leaky relu": (function("LEAKY_RELU", "LeakyReluOptionsT"), ZERO),
    "quantize": (function("QUANTIZE"), ALL),
    "add": (with_constant("ADD", np.arange(8), act=RELU), ALL),
    "add one": (with_constant("ADD", [7]), ALL),
    "sub": (with_constant("SUB", np.arange(8) * 3), ALL),
    "mul": (with_constant("MUL", np.arange(8) + 1, out=(0.05, 4)), ALL),
    "maximum": (with_constant("MAXIMUM", [-20]), ALL),
    "minimum": (with_constant("MINIMUM", np.arange(8) * 2), ALL),
    "add of an image": (with_constant("ADD", np.arange(36).reshape(6, 6, 1)), IGNORED),
    "pad": (pad("PAD", 2), ZERO),
    "pad of channels": (pad("PAD", 0, (2, 1)), ALL),
    "mirror pad": (pad("MIRROR_PAD", 2), ALL),
    "mean": (mean("MEAN"), ZERO),
    "largest": (mean("REDUCE_MAX"), ALL),
    "slice": (take, ALL),
    "strided slice": (stride, ALL),
    "transpose": (transpose, ALL),
    "resize": (grow, ALL),
    "reshape": (flat_and_back, ALL),
    "concatenation of rows": (beside, ALL),
    "transposed convolution": (transposed, ZERO),
    "padded transposed convolution": (lambda net, x: transposed(net, x, schema.Padding.SAME), ZERO),
}


def around(build: Build) -> tuple[bytes, int]:
    """A convolution, the operator, and a 1x1 convolution that ignores a channel; and the number of its columns."""
    rng = np.random.default_rng(3)
    net = IntegerNet(1, 8, 8, 2)
    first = rng.integers(1, 60, (8, 3, 3, 2)) * rng.choice([-1, 1], (8, 3, 3, 2))
    first[[1, 2]] = 0
    bias = np.array([-100, 3200, 0, 70, -300, 50, 400, 20])
    x = build(net, net.conv(net.input, first, bias, out=(0.2, -5)))
    columns = net.graph.shape(x)[-1]
    last = rng.integers(1, 60, (3, 1, 1, columns)) * rng.choice([-1, 1], (3, 1, 1, columns))
    if net.graph.kind(net.graph.operators[-1]) != "TRANSPOSE_CONV":
        last[..., 5 + 2 * (columns > 8)] = 0
    return net.file(net.conv(x, last, np.arange(3) * 100, out=(2 * net.grid(x)[0], 4))), columns


@pytest.mark.parametrize("name", list(OPERATORS))
def test_channels_behind(name):
    build, left = OPERATORS[name]
    content, columns = around(build)
    graph = Graph(read_model(content))
    drop_dead_units(graph)
    inputs = np.random.default_rng(0).integers(-128, 128, (50, 8, 8, 2)).astype(np.int8)
    before, after = run_everywhere(content, inputs), run_everywhere(write_model(graph.model), inputs)
    for kernels in before:
        np.testing.assert_array_equal(after[kernels][0], before[kernels][0], err_msg=kernels)
        assert np.ptp(before[kernels][0].astype(int), axis=0).max() > 5
    assert graph.shape(graph.operators[0].outputs[0])[-1] == left
    # Channels of padding are constant, so they go as well.
    last = 8 if "transposed" in name else left
    assert graph.shape(graph.operators[-1].inputs[1])[-1] == last
    assert columns in (8, 11)


def test_of_channels_of_padding_those_beside_live_ones_stay():
    """Two before and one after are added to what a convolution makes, of which channels 0 and 3 are constant."""
    rng = np.random.default_rng(5)
    net = IntegerNet(1, 8, 8, 2)
    first = rng.integers(1, 60, (8, 3, 3, 2)) * rng.choice([-1, 1], (8, 3, 3, 2))
    first[1] = 0
    x = net.conv(net.input, first, np.arange(8) * 50, out=(0.2, -5))
    beside = rng.integers(1, 60, (11, 1, 1, 8)) * rng.choice([-1, 1], (11, 1, 1, 8))
    beside[[0, 3]] = 0
    other = net.conv(x, beside, np.arange(11) * 30, out=(0.2, -5))
    x = net.binary("ADD", pad("PAD", 0, (2, 1))(net, x), other)
    last = rng.integers(1, 60, (3, 1, 1, 11)) * rng.choice([-1, 1], (3, 1, 1, 11))
    content = net.file(net.conv(x, last, np.arange(3) * 100, out=(2 * net.grid(x)[0], 4)))
    graph = Graph(read_model(content))
    drop_dead_units(graph)
    (padding,) = (op for op in graph.operators if graph.kind(op) == "PAD")
    assert graph.constant(padding.inputs[1]).tolist() == [[0, 0], [0, 0], [0, 0], [1, 1]]
    assert [graph.shape(t)[-1] for t in (padding.inputs[0], padding.outputs[0])] == [7, 9]
    inputs = rng.integers(-128, 128, (50, 8, 8, 2)).astype(np.int8)
    before, after = run_everywhere(content, inputs), run_everywhere(write_model(graph.model), inputs)
    for kernels in before:
        np.testing.assert_array_equal(after[kernels][0], before[kernels][0], err_msg=kernels)
