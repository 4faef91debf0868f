"""Files that take any number of samples: what a runtime needs to resize a file that was made for a few.

At each operator the values of several samples must be those of the samples one by one, joined along the first axis.
Where that holds throughout, only the constants that tell a first axis have to change.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.tflite.flatbuffer import Graph

# Graph, operator, tensors that have samples along their first axis -> whether samples stay apart.
_Check = Callable[[Graph, Any, Set[int]], bool]


def free_batch(graph: Graph) -> str:
    """Let a file take any number of samples, where its operators treat each by itself; else leave it as it is.

    Inputs and outputs get a first axis of -1 in their signatures, the shape that a RESHAPE makes too, and slices take
    all of the first axis. Shapes stay those that the file has without being resized.

    Args:
        graph: Any model, in any mode.

    Returns:
        The first operator, input or output in the way, by name; nothing where the file takes any number now.
    """
    problem = _problem(graph)
    if problem:
        return problem
    shapes: dict[tuple[int, ...], int] = {}
    for op in graph.operators:
        kind = graph.kind(op)
        if kind == "RESHAPE":
            _free_reshape(graph, op, shapes)
        elif kind == "STRIDED_SLICE":
            op.builtinOptions.beginMask |= 1
            op.builtinOptions.endMask |= 1
        elif kind == "SLICE":
            _set_first(graph, op, 2, -1)
            # Its kernel takes the output's shape for final unless the signature leaves it open.
            output = graph.tensors[op.outputs[0]]
            output.shapeSignature = [-1, *graph.shape(op.outputs[0])[1:]]
    for tensor in (*graph.inputs, *graph.outputs):
        graph.tensors[tensor].shapeSignature = [-1, *graph.shape(tensor)[1:]]
    return ""


def _problem(graph: Graph) -> str:
    batches = {graph.shape(tensor)[:1] for tensor in graph.inputs}
    if len(batches) != 1 or () in batches:
        return f"inputs of shapes {[graph.shape(tensor) for tensor in graph.inputs]}, whose first axes differ"
    batched = set(graph.inputs)
    for op in graph.operators:
        read = {tensor for tensor in op.inputs if tensor in batched}
        states = [tensor for tensor in op.inputs if tensor >= 0 and graph.tensors[tensor].isVariable]
        if not read and not states:
            continue
        kind = graph.kind(op)
        place = f"{kind} at {graph.name(op.outputs[0]) if op.outputs else '?'!r}"
        if states:
            return f"{place}, which keeps states for a fixed number of samples"
        if kind not in _CHECKS or not _CHECKS[kind](graph, op, batched):
            return f"{place}, which fixes the number of samples"
        batched.update(op.outputs)
    given = [graph.name(tensor) for tensor in graph.outputs if tensor not in batched]
    return f"output {given[0]!r}, which is no function of the inputs" if given else ""


def _free_reshape(graph: Graph, op: Any, shapes: dict[tuple[int, ...], int]) -> None:
    shape = (-1, *graph.shape(op.outputs[0])[1:])
    if shape not in shapes:
        shapes[shape] = graph.add_constant(graph.name(op.inputs[1]), np.array(shape, np.int32))
    op.inputs = [op.inputs[0], shapes[shape]]
    if op.builtinOptions is not None:
        op.builtinOptions.newShape = list(shape)


def _set_first(graph: Graph, op: Any, operand: int, value: int) -> None:
    values = _constant(graph, op, operand).copy()
    values[0] = value
    op.inputs[operand] = graph.add_constant(graph.name(op.inputs[operand]), values)


def _constant(graph: Graph, op: Any, operand: int) -> NDArray[Any]:
    """The values of a constant operand; none of one that is computed, or left out."""
    found = graph.constant(op.inputs[operand]) if operand < len(op.inputs) and op.inputs[operand] >= 0 else None
    return np.empty(0, np.int32) if found is None else found.reshape(-1)


def _only_first(graph: Graph, op: Any, batched: Set[int]) -> bool:
    """One tensor of samples, and constants: weights, paddings, sizes."""
    return op.inputs[0] in batched and not any(tensor in batched for tensor in op.inputs[1:])


def _broadcast(graph: Graph, op: Any, batched: Set[int]) -> bool:
    """Tensors of samples are not repeated along the first axis, and constants are the same for each sample."""
    shape = graph.shape(op.outputs[0])
    return all(
        graph.shape(tensor)[:1] == shape[:1] and len(graph.shape(tensor)) == len(shape)
        if tensor in batched
        else len(graph.shape(tensor)) < len(shape) or graph.shape(tensor)[0] == 1
        for tensor in op.inputs
    )


def _product(graph: Graph, op: Any, batched: Set[int]) -> bool:
    """Matrices of samples; rows of samples times one matrix."""
    if len(graph.shape(op.outputs[0])) > 2:
        return _broadcast(graph, op, batched)
    return _only_first(graph, op, batched) and not op.builtinOptions.adjX


def _reshape(graph: Graph, op: Any, batched: Set[int]) -> bool:
    """Values stay in their order, and so each sample's together."""
    return _constant(graph, op, 1).size > 0 and len(graph.shape(op.outputs[0])) > 0


def _axis(place: Callable[[Graph, Any], Any], added: int = 0) -> _Check:
    """Data of samples only, along one axis, or some, that are not the first."""

    def check(graph: Graph, op: Any, batched: Set[int]) -> bool:
        data = [tensor for tensor in op.inputs if tensor >= 0 and not _is_index(graph, tensor, op)]
        rank = len(graph.shape(data[0])) + added
        axes = [int(axis) % rank for axis in np.ravel(place(graph, op))] if rank else []
        return bool(axes) and 0 not in axes and all(tensor in batched for tensor in data)

    return check


def _is_index(graph: Graph, tensor: int, op: Any) -> bool:
    """Whether a constant tells axes or sizes, and is no data beside other data."""
    joins = graph.kind(op) in ("CONCATENATION", "PACK")
    return not joins and graph.is_constant(tensor)


def _of_options(graph: Graph, op: Any) -> Any:
    return op.builtinOptions.axis


def _operand(number: int) -> Callable[[Graph, Any], Any]:
    return lambda graph, op: _constant(graph, op, number)


def _untouched(operand: int, value: int, width: int = 1) -> _Check:
    """Each of `width` numbers for the first axis is `value`: it is not padded, repeated or moved."""

    def check(graph: Graph, op: Any, batched: Set[int]) -> bool:
        first = _constant(graph, op, operand)[:width]
        return _only_first(graph, op, batched) and first.size > 0 and bool((first == value).all())

    return check


def _strided_slice(graph: Graph, op: Any, batched: Set[int]) -> bool:
    options, size = op.builtinOptions, graph.shape(op.inputs[0])[0]
    begin, end, stride = (_constant(graph, op, number)[:1] for number in (1, 2, 3))
    if options.ellipsisMask or (options.newAxisMask | options.shrinkAxisMask) & 1 or not stride.size or stride[0] != 1:
        return False
    from_start = options.beginMask & 1 or (begin.size > 0 and begin[0] in (0, -size))
    to_end = options.endMask & 1 or (end.size > 0 and end[0] >= size)
    return bool(from_start and to_end)


def _slice(graph: Graph, op: Any, batched: Set[int]) -> bool:
    begin, size = _constant(graph, op, 1)[:1], _constant(graph, op, 2)[:1]
    whole = size.size > 0 and size[0] in (-1, graph.shape(op.inputs[0])[0])
    return bool(whole and begin.size > 0 and begin[0] == 0)


def _gather(graph: Graph, op: Any, batched: Set[int]) -> bool:
    """Rows of a table for each sample, or places of each sample."""
    data, places = op.inputs[:2]
    if data not in batched:
        return op.builtinOptions.axis == 0 and len(graph.shape(places)) > 0
    own_places = op.builtinOptions.batchDims > 0 if places in batched else op.builtinOptions.batchDims == 0
    return bool(op.builtinOptions.axis % len(graph.shape(data)) and own_places)


def _squeeze(graph: Graph, op: Any, batched: Set[int]) -> bool:
    dropped = op.builtinOptions.squeezeDims
    return dropped is not None and len(dropped) > 0 and 0 not in np.asarray(dropped) % len(graph.shape(op.inputs[0]))


def _softmax(graph: Graph, op: Any, batched: Set[int]) -> bool:
    """Along the last axis."""
    return len(graph.shape(op.inputs[0])) > 1


_ELEMENTWISE = (
    "ABS CAST CEIL COS DEQUANTIZE ELU EXP FLOOR GELU HARD_SWISH LEAKY_RELU LOG LOGICAL_NOT LOGISTIC NEG QUANTIZE RELU "
    "RELU6 RELU_0_TO_1 RELU_N1_TO_1 ROUND RSQRT SIGN SIN SQRT SQUARE TANH ZEROS_LIKE"
)
_OF_TWO = (
    "ADD ADD_N DIV EQUAL FLOOR_DIV FLOOR_MOD GREATER GREATER_EQUAL LESS LESS_EQUAL LOGICAL_AND LOGICAL_OR MAXIMUM "
    "MINIMUM MUL NOT_EQUAL POW PRELU SELECT SELECT_V2 SQUARED_DIFFERENCE SUB"
)
_OF_IMAGES = (
    "AVERAGE_POOL_2D CONV_2D CONV_3D DEPTHWISE_CONV_2D DEPTH_TO_SPACE FULLY_CONNECTED L2_POOL_2D MAX_POOL_2D "
    "RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SPACE_TO_DEPTH"
)
_REDUCING = "MEAN SUM REDUCE_ALL REDUCE_ANY REDUCE_MAX REDUCE_MIN REDUCE_PROD ARG_MAX ARG_MIN CUMSUM REVERSE_V2"
_CHECKS: dict[str, _Check] = {
    **dict.fromkeys((*_ELEMENTWISE.split(), *_OF_IMAGES.split()), _only_first),
    **dict.fromkeys(_OF_TWO.split(), _broadcast),
    **dict.fromkeys(_REDUCING.split(), _axis(_operand(1))),
    **dict.fromkeys(("SOFTMAX", "LOG_SOFTMAX", "L2_NORMALIZATION"), _softmax),
    **dict.fromkeys(("CONCATENATION", "UNPACK"), _axis(_of_options)),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), _untouched(1, 0, width=2)),
    "PACK": _axis(_of_options, added=1),
    "EXPAND_DIMS": _axis(_operand(1), added=1),
    "SPLIT": _axis(_operand(0)),
    "SPLIT_V": _axis(_operand(2)),
    "TILE": _untouched(1, 1),
    "TRANSPOSE": _untouched(1, 0),
    "BATCH_MATMUL": _product,
    "RESHAPE": _reshape,
    "STRIDED_SLICE": _strided_slice,
    "SLICE": _slice,
    "GATHER": _gather,
    "SQUEEZE": _squeeze,
}
