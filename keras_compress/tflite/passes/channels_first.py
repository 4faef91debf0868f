"""Operators written so that XNNPACK's kernels for channels first take them; what the file computes stays the same.

See `keras_compress.tflite.sparse_clusters` for what those kernels want.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_compress.tflite.flatbuffer import Graph

_SAME, _VALID = 0, 1


def prefer_channels_first(graph: Graph) -> list[str]:
    """Rewrite paddings, means and sums or products with constants; returns a line for each.

    - padding "same" with a stride, where it is as wide on each side, becomes a PAD and padding "valid";
    - a 3x3 depthwise convolution with stride 2 whose padding "same" is wider at the end has a 5x5 kernel then, zeros in
      its first rows and columns;
    - a mean over height and width that keeps their axes for a dense layer, a reshape or the model's output drops them;
    - a constant along the channels becomes the first operand of an ADD or MUL.
    """
    notes: list[str] = []
    operators: list[Any] = []
    for op in graph.operators:
        kind = graph.kind(op)
        behind: list[Any] = []
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            notes += _pad_by_itself(graph, op, operators)
        elif kind == "MEAN":
            behind = _drop_axes(graph, op, notes)
        elif kind in ("ADD", "MUL"):
            notes += _constant_first(graph, op)
        operators += [op, *behind]
    graph.operators = operators
    return notes


def _pad_by_itself(graph: Graph, op: Any, operators: list[Any]) -> list[str]:
    options = op.builtinOptions
    _, height, width, channels = graph.shape(op.inputs[1])
    stride = options.strideH
    is_depthwise = graph.kind(op) == "DEPTHWISE_CONV_2D"
    fits = height == width == 3 and (is_depthwise or channels == 3) or (is_depthwise and height == width == 5)
    dilated = (options.dilationHFactor, options.dilationWFactor) != (1, 1)
    if options.padding != _SAME or not fits or dilated or (stride, options.strideW) != (2, 2):
        return []
    sizes = graph.shape(op.inputs[0])[1:3]
    even = [size % 2 == 0 for size in sizes]
    name = f"{graph.kind(op)} {graph.name(op.outputs[0])!r}"
    if not any(even):
        _pad(graph, op, height // 2, operators)
        return [f"{name}: padding by an operator of its own"]
    if all(even) and is_depthwise and height == 3:
        kernel = graph.constant(op.inputs[1])
        if kernel is None or graph.dtype(op.inputs[1]) != "float32":
            return []
        # Output o reads inputs 2 o to 2 o + 2; a kernel of 5 with padding 2 reads 2 o - 2 to 2 o + 2.
        wider = np.pad(kernel, [(0, 0), (2, 0), (2, 0), (0, 0)])
        op.inputs[1] = graph.add_constant(f"{graph.name(op.inputs[1])}/5x5", wider)
        _pad(graph, op, 2, operators)
        return [f"{name}: a 5x5 kernel with zeros around its 3x3"]
    return []


def _pad(graph: Graph, op: Any, width: int, operators: list[Any]) -> None:
    data = op.inputs[0]
    batch, rows, columns, channels = graph.shape(data)
    pads = graph.add_constant("", np.array([[0, 0], [width, width], [width, width], [0, 0]], np.int32))
    shape = (batch, rows + 2 * width, columns + 2 * width, channels)
    padded = graph.add_tensor(f"{graph.name(data)}/pad", shape, "float32")
    operators.append(graph.make_operator("PAD", [data, pads], [padded], schema.PadOptionsT()))
    op.inputs[0] = padded
    op.builtinOptions.padding = _VALID


def _drop_axes(graph: Graph, op: Any, notes: list[str]) -> list[Any]:
    """The mean without the axes; returns the RESHAPE that gives them back, where the model's output has them."""
    output, axes = op.outputs[0], graph.constant(op.inputs[1])
    shape = graph.shape(output)
    if (
        not op.builtinOptions.keepDims
        or len(shape) != 4
        or axes is None
        or {int(a) % 4 for a in axes.reshape(-1)} != {1, 2}
    ):
        return []
    readers = graph.consumers().get(output, [])
    flat = ("RESHAPE", "FULLY_CONNECTED")
    if any(graph.kind(r) not in flat or getattr(r.builtinOptions, "keepNumDims", False) for r in readers):
        return []
    op.builtinOptions.keepDims = False
    notes.append(f"MEAN {graph.name(output)!r}: without the axes of height and width")
    if output not in graph.outputs:
        graph.tensors[output].shape = [shape[0], shape[3]]
        return []
    mean = graph.add_tensor(f"{graph.name(output)}/mean", (shape[0], shape[3]), "float32")
    op.outputs = [mean]
    for reader in readers:
        reader.inputs = [mean if tensor == output else tensor for tensor in reader.inputs]
    options = schema.ReshapeOptionsT()
    options.newShape = list(shape)
    sizes = graph.add_constant("", np.array(shape, np.int32))
    return [graph.make_operator("RESHAPE", [mean, sizes], [output], options)]


def _constant_first(graph: Graph, op: Any) -> list[str]:
    data, other = op.inputs
    values = graph.constant(other)
    if values is None or graph.is_constant(data) or len(graph.shape(data)) != 4:
        return []
    if values.size not in (1, graph.shape(data)[3]) or values.shape[-1:] not in ((values.size,), ()):
        return []
    first = graph.add_constant(f"{graph.name(other)}/4d", values.reshape(1, 1, 1, -1))
    op.inputs = [first, data]
    return [f"{graph.kind(op)} {graph.name(op.outputs[0])!r}: its constant comes first"]
