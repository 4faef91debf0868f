"""FULLY_CONNECTED as a 1x1 CONV_2D, which TFLite-Micro computes with a packed weight and a scale for each channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.storage import runs_as_convolution


def dense_as_convolution(graph: Graph, bits_of: Mapping[int, int], target: str) -> list[str]:
    """Rewrite each FULLY_CONNECTED that the target takes in no other way, between two RESHAPEs.

    The sums are the same, and so is the rounding. The tensors at both ends stay what they are.

    Args:
        graph: Integer graph.
        bits_of: Weight that will be packed -> bits of one value.
        target: `"litert"` or `"tflm"`.

    Returns:
        A note for each operator.
    """
    notes: list[str] = []
    operators: list[Any] = []
    for op in graph.operators:
        kind = graph.kind(op)
        weight = op.inputs[1] if kind == "FULLY_CONNECTED" else -1
        scales = graph.quantization(weight) if weight in bits_of else None
        if scales is None or not runs_as_convolution(target, kind, bits_of[weight], scales[0].size):
            operators.append(op)
            continue
        notes.append(
            f"CONV_2D at {graph.name(op.outputs[0])!r}: a dense layer, whose own kernel takes no packed weights"
        )
        operators += _rewritten(graph, op)
    graph.operators = operators
    return notes


def _rewritten(graph: Graph, op: Any) -> list[Any]:
    data, weight, output = op.inputs[0], op.inputs[1], op.outputs[0]
    # Two layers with the same weight share the tensor; the second finds its shape changed.
    channels, inputs = graph.shape(weight)[0], graph.shape(weight)[-1]
    graph.tensors[weight].shape = [channels, 1, 1, inputs]
    rows = int(np.prod(graph.shape(output))) // channels
    image = _alike(graph, data, f"{graph.name(output)}/image", (1, rows, 1, inputs))
    product = _alike(graph, output, f"{graph.name(output)}/product", (1, rows, 1, channels))
    options = schema.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = schema.Padding.VALID, 1, 1
    options.fusedActivationFunction = op.builtinOptions.fusedActivationFunction
    bias = op.inputs[2] if len(op.inputs) > 2 and op.inputs[2] >= 0 else _no_bias(graph, data, weight)
    return [
        _reshape(graph, data, image),
        graph.make_operator("CONV_2D", [image, weight, bias], [product], options),
        _reshape(graph, product, output),
    ]


def _alike(graph: Graph, tensor: int, name: str, shape: tuple[int, ...]) -> int:
    """A new tensor of another shape on the grid of `tensor`."""
    made = graph.add_tensor(name, shape, graph.dtype(tensor))
    found = graph.quantization(tensor)
    if found is not None:
        graph.set_quantization(made, *found)
    return made


def _reshape(graph: Graph, tensor: int, output: int) -> Any:
    shape = np.array(graph.shape(output), np.int32)
    options = schema.ReshapeOptionsT()
    options.newShape = shape.tolist()
    return graph.make_operator(
        "RESHAPE", [tensor, graph.add_constant(f"{graph.name(output)}/shape", shape)], [output], options
    )


def _no_bias(graph: Graph, data: int, weight: int) -> int:
    """Zeros, which TFLite-Micro's CONV_2D is given where a dense layer has no bias."""
    found, scales = graph.quantization(data), graph.quantization(weight)
    bias = graph.add_constant(f"{graph.name(weight)}/no_bias", np.zeros(graph.shape(weight)[0], np.int32))
    if found is not None and scales is not None:
        graph.set_quantization(bias, (found[0][0] * scales[0]).astype(np.float32))
    return bias
