"""Operator versions: the lowest that LiteRT documents for the types in use (TFLM does not look at them)."""

from __future__ import annotations

from typing import Any

from keras_compress.tflite.flatbuffer import Graph

_INT8 = {
    "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "TRANSPOSE_CONV": 3, "DEQUANTIZE": 2,
    "L2_NORMALIZATION": 2, "ABS": 2, "RELU": 2, "RELU6": 2, "REVERSE_V2": 3, "RESIZE_BILINEAR": 2,
    "RESIZE_NEAREST_NEIGHBOR": 2, "MAXIMUM": 2, "MINIMUM": 2, "PACK": 2, "UNPACK": 2, "TILE": 2,
    "SPACE_TO_BATCH_ND": 2, "BATCH_TO_SPACE_ND": 2, "ADD": 2, "SUB": 2, "MUL": 2, "TANH": 2, "LOGISTIC": 2,
    "BATCH_MATMUL": 2, "PAD": 2, "PADV2": 2, "CONCATENATION": 2, "SOFTMAX": 2, "MEAN": 2, "MIRROR_PAD": 2,
    "REDUCE_MAX": 2, "REDUCE_MIN": 2, "RSQRT": 2, "ARG_MAX": 2, "ARG_MIN": 2, "SELECT": 2,
    "SPACE_TO_DEPTH": 2, "SPLIT_V": 2, "SUM": 2, "LOG_SOFTMAX": 2, "SQUARED_DIFFERENCE": 2,
    "DEPTH_TO_SPACE": 2, "EXP": 2, "LOG": 2, "GELU": 2, "GATHER": 2, "SLICE": 2, "STRIDED_SLICE": 2,
    "TRANSPOSE": 2, "SPLIT": 2, "MAX_POOL_2D": 2, "AVERAGE_POOL_2D": 2, "BROADCAST_TO": 3,
}  # fmt: skip
_INT16 = {
    "CONV_2D": 4, "DEPTHWISE_CONV_2D": 5, "FULLY_CONNECTED": 7, "TRANSPOSE_CONV": 3, "DEQUANTIZE": 3,
    "QUANTIZE": 2, "ABS": 3, "RELU": 3, "RELU6": 3, "RESIZE_BILINEAR": 4, "RESIZE_NEAREST_NEIGHBOR": 4,
    "MAXIMUM": 4, "MINIMUM": 4, "PACK": 3, "UNPACK": 4, "SPACE_TO_BATCH_ND": 4, "BATCH_TO_SPACE_ND": 4,
    "ADD": 3, "SUB": 5, "MUL": 4, "TANH": 3, "LOGISTIC": 3, "BATCH_MATMUL": 3, "PAD": 3, "PADV2": 3,
    "CONCATENATION": 3, "SOFTMAX": 3, "MEAN": 3, "MIRROR_PAD": 3, "REDUCE_MAX": 3, "REDUCE_MIN": 3,
    "RSQRT": 3, "LEAKY_RELU": 2, "EXP": 2, "LOG": 2, "GATHER": 4, "GATHER_ND": 3, "SLICE": 4,
    "TRANSPOSE": 5, "SPLIT": 4, "MAX_POOL_2D": 3, "AVERAGE_POOL_2D": 3, "BROADCAST_TO": 3,
    "STRIDED_SLICE": 4,
}  # fmt: skip
# LiteRT's table has 7 for DEPTHWISE_CONV_2D, but its reference kernels, which take INT4 too, are registered up to 6 and
# would not load the file. INT2 is newer than the table: the one version of LiteRT 2.3 that goes beyond it.
_PACKED = {
    "int4": {"CONV_2D": 7, "DEPTHWISE_CONV_2D": 6, "FULLY_CONNECTED": 10},
    "int2": {"FULLY_CONNECTED": 14},
}
_HYBRID = {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "FULLY_CONNECTED": 12, "BATCH_MATMUL": 4, "DEQUANTIZE": 5}


def set_versions(graph: Graph) -> None:
    """Raise each operator's version to what its tensors' types need; the converter's own never sinks."""
    for op in graph.operators:
        graph.raise_version(op, _version(graph, op))


def _version(graph: Graph, op: Any) -> int:
    kind = graph.kind(op)
    tensors = [t for t in (*op.inputs, *op.outputs) if t >= 0]
    types = {graph.dtype(t) for t in tensors}
    if "int16" in types:
        return max(_INT16.get(kind, 1), _shape_version(graph, op, kind))
    packed = next((dtype for dtype in _PACKED if dtype in types), None)
    if packed is not None:
        return _PACKED[packed].get(kind, 1)
    if "int8" in types:
        scales = [graph.quantization(t) for t in tensors]
        per_channel = any(found is not None and found[0].size > 1 for found in scales)
        if "float32" in types and (kind != "DEQUANTIZE" or per_channel):
            return _HYBRID.get(kind, 1)
        return max(_INT8.get(kind, 1), _shape_version(graph, op, kind), 3 if _grows(graph, op, kind) else 1)
    return 3 if kind == "DEQUANTIZE" and "float16" in types else 1


def _shape_version(graph: Graph, op: Any, kind: str) -> int:
    options = op.builtinOptions
    if kind == "FULLY_CONNECTED":
        no_bias = len(op.inputs) < 3
        return 6 if no_bias else 5 if options is not None and options.keepNumDims else 1
    if kind in ("CONV_2D",):
        data, weight = graph.shape(op.inputs[0]), graph.shape(op.inputs[1])
        return 6 if data[-1] != weight[-1] else 1  # a grouped convolution
    if kind == "TRANSPOSE_CONV":
        return 4 if options is not None and options.fusedActivationFunction else 1
    return 1


def _grows(graph: Graph, op: Any, kind: str) -> bool:
    """MUL whose factors' scales multiply to more than the output's."""
    if kind != "MUL":
        return False
    first, second, out = (graph.quantization(t) for t in (*op.inputs[:2], op.outputs[0]))
    if first is None or second is None or out is None:
        return False
    return bool(first[0][0] * second[0][0] >= out[0][0])
