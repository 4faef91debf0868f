"""What a piece of a file must give, bit for bit, where its kernel interpolates in tables or counts in fixed point."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.runtime import kernel_functions
from keras_compress.tflite.flatbuffer import Graph

Array = NDArray[Any]
Function = Callable[[Array], Array]
FUNCTIONS_16 = {
    "SOFTMAX": kernel_functions.softmax_16,
    "LOGISTIC": kernel_functions.logistic_16,
    "TANH": kernel_functions.tanh_16,
}
_RESHAPES = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
_CLAMPS: dict[str, Callable[..., Array]] = {"MAXIMUM": np.maximum, "MINIMUM": np.minimum}


def computed(graph: Graph, kernel: str) -> Function | None:
    """From the integers of the input to those of the output, both with calls in front of the file's shape.

    Args:
        graph: A piece of one input, in which one operator is such a kernel and others move or clamp its values.
        kernel: `"xnnpack"`, `"reference"` or `"tflm"`.

    Returns:
        The function; `None` where no operator is such a kernel, or something else is in between.
    """
    steps: list[Function] = []
    tensor = graph.inputs[0] if len(graph.inputs) == 1 else -1
    read = {*graph.outputs, *(tensor for op in graph.operators for tensor in op.inputs)}
    for op in graph.operators:
        kept = [each for each in op.outputs if each in read]
        if len(kept) != 1 or op.inputs[graph.kind(op) == "SPLIT"] != tensor:
            return None
        tensor = kept[0]
        step = _kernel(graph, op) if is_computed(graph, op, kernel) else _mover(graph, op, tensor)
        if step is None:
            return None
        steps.append(step)
    if not any(is_computed(graph, op, kernel) for op in graph.operators):
        return None
    shape = graph.shape(graph.inputs[0])
    return lambda values: reduce(lambda array, step: step(array), steps, values.reshape(-1, *shape))


def is_computed(graph: Graph, op: Any, kernel: str) -> bool:
    """Whether an operator is run by one of the kernels in `keras_compress.runtime.kernel_functions`."""
    wide = graph.dtype(op.outputs[0]) == "int16"
    if graph.kind(op) == "RESIZE_BILINEAR":
        return wide or (kernel != "xnnpack" and graph.dtype(op.outputs[0]) == "int8")
    return wide and graph.kind(op) in FUNCTIONS_16 and graph.quantization(op.inputs[0]) is not None


def _kernel(graph: Graph, op: Any) -> Function:
    if graph.kind(op) == "RESIZE_BILINEAR":
        return partial(_resized, shape=graph.shape(op.outputs[0]))
    found = graph.quantization(op.inputs[0])
    scale = 1.0 if found is None else float(found[0][0])
    return partial(FUNCTIONS_16[graph.kind(op)], scale=scale)


def _resized(values: Array, shape: tuple[int, ...]) -> Array:
    images = values.reshape(-1, *values.shape[-3:])
    return kernel_functions.resized_in_fixed_point(images, *shape[1:3]).reshape(-1, *shape)


def _mover(graph: Graph, op: Any, output: int) -> Function | None:
    """What moves or clamps values, none of which it rounds, on their way to one of its outputs."""
    kind, shape, number = graph.kind(op), graph.shape(output), list(op.outputs).index(output)
    if kind in _RESHAPES:
        return lambda values: values.reshape(-1, *shape)
    if kind == "UNPACK":
        return lambda values: np.take(values, number, op.builtinOptions.axis + 1)
    constants = [graph.constant(tensor) for tensor in op.inputs if graph.is_constant(tensor)]
    if not constants or any(constant is None for constant in constants):
        return None
    if kind == "SPLIT":
        axis = int(np.asarray(constants[0]).item()) % len(shape) + 1
        return lambda values: np.split(values, len(op.outputs), axis)[number]
    if kind == "TRANSPOSE":
        return lambda values: values.transpose(0, *(int(axis) + 1 for axis in np.asarray(constants[0])))
    if kind == "STRIDED_SLICE" and len(constants) == 3:
        return _slice(op, constants, shape)
    clamp = _CLAMPS.get(kind)
    return None if clamp is None else lambda values: clamp(values, constants[0])


def _slice(op: Any, constants: list[Any], shape: tuple[int, ...]) -> Function | None:
    options = op.builtinOptions
    if options.ellipsisMask or options.newAxisMask or options.shrinkAxisMask:
        return None
    taken = [slice(None)] + [
        slice(
            None if options.beginMask >> axis & 1 else int(begin),
            None if options.endMask >> axis & 1 else int(end),
            int(stride),
        )
        for axis, (begin, end, stride) in enumerate(zip(*constants, strict=True))
    ]
    return lambda values: values[tuple(taken)].reshape(-1, *shape)
