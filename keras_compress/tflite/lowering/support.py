"""Which operators TFLite-Micro has: a file with another one would not even load there."""

from __future__ import annotations

from typing import Any

from keras_compress.tflite.flatbuffer import Graph

# Found by loading a file with one operator of each kind in the wheel's runtime. Its Python resolver has all that
# TFLite-Micro has kernels for, but for operators of one vendor.
_TFLM = """
    ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND BROADCAST_ARGS
    BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS CUMSUM CUSTOM DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE
    DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED
    GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG
    LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG
    NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX REDUCE_MIN RELU RELU6 RESHAPE
    RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND
    SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE
    TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE ZEROS_LIKE
    """.split()  # noqa: SIM905
# Kernels that are there but not for integers of this width.
_WITHOUT: dict[str, frozenset[str]] = {
    "int8": frozenset({"EXP", "LOG"}),
    "int16": frozenset({"EXP", "LOG", "REDUCE_MAX", "REDUCE_MIN", "RESIZE_BILINEAR"}),
}
_LARGEST_RANK_OF_TRANSPOSE = 5
# What CAST does not read there, and what to do about it.
_NOT_CAST = {
    "uint8": "make the input float32, `keras.Input(..., dtype='float32')`, and convert with io='uint8'",
    "int64": "make the input int32, `keras.Input(..., dtype='int32')`",
}


def has_kernel(kind: str) -> bool:
    """Whether TFLite-Micro has a kernel for the operator, such as `"CONV_2D"`, in some type."""
    return kind in _TFLM


def check_support(graph: Graph, target: str) -> None:
    """Raise where a file for TFLite-Micro has an operator without a kernel there.

    Raises:
        ValueError: The message names the operators, and the tensors that they make.
    """
    if target != "tflm":
        return
    problems = dict.fromkeys(filter(None, (_problem(graph, op) for op in graph.operators)))
    if problems:
        raise ValueError(
            f"Expected operators that TFLite-Micro has. Received: {'; '.join(list(problems)[:5])}. "
            "Use target='litert', or another layer."
        )


def _problem(graph: Graph, op: Any) -> str | None:
    kind = graph.kind(op)
    place = f"at {graph.name(op.outputs[0])!r}" if op.outputs else "without outputs"
    if kind not in _TFLM:
        return f"{kind} {place}, which has no kernel"
    if kind == "TRANSPOSE" and len(graph.shape(op.inputs[0])) > _LARGEST_RANK_OF_TRANSPOSE:
        return f"{kind} {place}, of {len(graph.shape(op.inputs[0]))} dimensions, which has none for more than 5"
    if kind == "CAST" and (cure := _NOT_CAST.get(graph.dtype(op.inputs[0]))) is not None:
        return f"{kind} {place}, which reads no {graph.dtype(op.inputs[0])}: {cure}"
    types = {graph.dtype(t) for t in (*op.inputs, *op.outputs) if t >= 0}
    lacking = sorted(dtype for dtype in types if kind in _WITHOUT.get(dtype, ()))
    return f"{kind} {place}, which has no {lacking[0]} kernel" if lacking else None
