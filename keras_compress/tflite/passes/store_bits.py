"""Weights of few values as bits, in custom operators for kc_binary and TFLite-Micro, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from keras_compress.tflite.bit_format import (
    CONV,
    DENSE,
    OPERATORS,
    BitOptions,
    magnitudes_of,
    pack_rows,
    stored_weight,
)
from keras_compress.tflite.flatbuffer import Graph

Array = NDArray[Any]
# Operators that move values, or choose among them.
_MOVES = ("RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "MAX_POOL_2D")
_MAKES = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "RELU")
_ACTIVATIONS = {0: None, 1: (0.0, np.inf), 2: (-1.0, 1.0), 3: (0.0, 6.0)}
_RELU = 1
# A second tensor's worth of tables is never won back by less.
_LEAST_BYTES = 64
# What an operator of TFLite-Micro keeps, on a 64-bit host.
_OPERATOR_BYTES = 256
# Rows are read once in a file of ours; many tensors may share their bytes in one that is not.
_MOST_READINGS = 4


def store_bits(graph: Graph) -> tuple[int, list[str]]:
    """Store the weights of all layers of few bits so; other layers stay.

    Args:
        graph: Integer graph, which is changed.

    Returns:
        How many layers, and a line for each other convolution or dense layer with weights of few values, with the
        reason.
    """
    producers, readers = graph.producers(), graph.consumers()
    plans, notes = [], []
    for op in graph.operators:
        if graph.kind(op) not in OPERATORS:
            continue
        found, reason = _planned(graph, op, producers, readers)
        if found is not None:
            plans.append((op, *found))
        elif reason:
            notes.append(f"{graph.name(op.inputs[1])}: {reason}")
    for op, options, rows in plans:
        _replace(graph, op, options, rows)
    return len(plans), notes


def expand_bits(graph: Graph) -> int:
    """Give all such layers the operators and int8 weights of before; how many there were.

    Raises:
        ValueError: For options or rows that are damaged, with the tensor's name.
    """
    found = [op for op in graph.operators if graph.custom_name(op) in (CONV, DENSE)]
    left = _MOST_READINGS * sum(len(buffer.data) for buffer in graph.model.buffers if buffer.data is not None)
    for op in found:
        left -= _restore(graph, op)
        if left < 0:
            raise ValueError(f"Could not read the bits of {graph.name(op.inputs[1])!r}: too many others are the same")
    return len(found)


def arena_of_bits(graph: Graph) -> int:
    """Bytes that the operators of TFLite-Micro for bits take of the arena beside what the stock ones take."""
    options = [options_of(graph, op) for op in graph.operators if graph.custom_name(op) in (CONV, DENSE)]
    scratch = [4 * -(-each.row // 32) * (1 + max(1, each.input_bits)) for each in options]
    return _OPERATOR_BYTES * len(options) + max(scratch, default=0)


def has_bits(graph: Graph) -> bool:
    """Whether a graph has weights stored as bits."""
    return any(graph.custom_name(op) in (CONV, DENSE) for op in graph.operators)


def options_of(graph: Graph, op: Any) -> BitOptions:
    """The options of such an operator, checked against its tensors.

    Raises:
        ValueError: If they are damaged.
    """
    custom = getattr(op, "customOptions", None)
    options = BitOptions.read(b"" if custom is None else bytes(bytearray(custom)))
    rows = graph.constant(op.inputs[1]) if len(op.inputs) in (2, 3) and len(op.outputs) == 1 else None
    if rows is None or rows.dtype != np.uint8 or rows.ndim != 2 or options.row_bytes != rows.shape[1]:
        raise ValueError(f"Expected constant rows of {options.row_bytes} bytes. Received: others")
    return options


def _planned(
    graph: Graph, op: Any, producers: dict[int, Any], readers: dict[int, list[Any]]
) -> tuple[tuple[BitOptions, Array] | None, str]:
    weight = op.inputs[1]
    values = graph.constant(weight) if weight >= 0 and graph.dtype(weight) == "int8" else None
    if values is None or graph.tensors[weight].sparsity is not None or values.size < 1:
        return None, ""
    found = magnitudes_of(values.reshape(len(values), -1))
    if found is None:
        return None, ""
    bits = input_bits(graph, op.inputs[0], producers)
    if bits is None:
        return None, "its inputs have more than two bits"
    if len(readers[weight]) > 1 or weight in graph.outputs:
        return None, "other operators read it"
    options = _options(graph, op, values, found, bits)
    rows = pack_rows(values.reshape(len(values), -1), options.values, options.magnitudes)
    if rows.nbytes + options.magnitudes.size + _LEAST_BYTES > values.nbytes:
        return None, "it is too small for bits to be fewer bytes"
    return (options, rows), ""


def _options(graph: Graph, op: Any, values: Array, found: tuple[str, Array], bits: int) -> BitOptions:
    given, version = op.builtinOptions, graph.model.operatorCodes[op.opcodeIndex].version
    kind, magnitudes = found
    dense, activation = values.ndim == 2, int(given.fusedActivationFunction)
    return BitOptions(
        values=kind,
        input_bits=bits,
        padding=schema.Padding.VALID if dense else int(given.padding),
        activation=activation,
        kernel=(1, 1) if dense else (values.shape[1], values.shape[2]),
        strides=(1, 1) if dense else (int(given.strideH), int(given.strideW)),
        dilation=(1, 1) if dense else (int(given.dilationHFactor), int(given.dilationWFactor)),
        inputs=values.shape[-1],
        keeps_dimensions=dense and bool(given.keepNumDims),
        operator_version=version,
        magnitudes=magnitudes,
    )


def input_bits(graph: Graph, tensor: int, producers: dict[int, Any]) -> int | None:
    """Bits of what a tensor can hold, by the activation of what makes it: 0 for signs, `None` for more than two."""
    op = producers.get(tensor)
    while op is not None and graph.kind(op) in _MOVES:
        tensor = op.inputs[0]
        op = producers.get(tensor)
    quantization = graph.quantization(tensor)
    if op is None or quantization is None or graph.dtype(tensor) != "int8" or graph.kind(op) not in _MAKES:
        return None
    number = _RELU if graph.kind(op) == "RELU" else int(op.builtinOptions.fusedActivationFunction)
    scale, zero_point = float(quantization[0][0]), quantization[1]
    if number == 2:
        return 0 if _never_zero(graph, op, scale, zero_point) else None
    ends = _ACTIVATIONS.get(number)
    if ends is None:
        return None
    highest = min(127.0, np.rint(ends[1] / scale + zero_point))
    levels = highest - zero_point
    return None if not 1 <= levels <= 3 else 1 if levels == 1 else 2


def _never_zero(graph: Graph, op: Any, scale: float, zero_point: int) -> bool:
    """Whether what is clipped at -1 and 1 are sums of even products and an odd bias: how `convert` writes signs."""
    if graph.kind(op) in ("ADD", "RELU") or len(op.inputs) < 3 or (scale, zero_point) != (1.0, 0):
        return False
    weight, bias = (graph.constant(tensor) if tensor >= 0 else None for tensor in op.inputs[1:3])
    return weight is not None and bias is not None and not (weight % 2).any() and bool((bias % 2).all())


def _replace(graph: Graph, op: Any, options: BitOptions, rows: Array) -> None:
    weight = op.inputs[1]
    made = graph.make_operator("CUSTOM", op.inputs, op.outputs, custom=OPERATORS[graph.kind(op)])
    graph.set_type(weight, "uint8")
    graph.set_constant(weight, rows)
    made.customOptions = np.frombuffer(options.packed(), np.uint8)
    graph.operators[graph.operators.index(op)] = made


def _restore(graph: Graph, op: Any) -> int:
    """Gives one its operator back; how many bytes were read."""
    weight = op.inputs[1] if len(op.inputs) > 1 else -1
    name = graph.name(weight) if weight >= 0 else graph.custom_name(op)
    try:
        options = options_of(graph, op)
        rows = graph.constant(weight)
        values = stored_weight(np.zeros((0, 0)) if rows is None else rows, graph.custom_name(op), options)
    except ValueError as error:
        raise ValueError(f"Could not read the bits of {name!r}: {error}") from error
    dense = graph.custom_name(op) == DENSE
    graph.set_type(weight, "int8")
    graph.set_constant(weight, values)
    kind = "FULLY_CONNECTED" if dense else "CONV_2D"
    made = graph.make_operator(kind, op.inputs, op.outputs, _dense(options) if dense else _convolution(options))
    graph.raise_version(made, options.operator_version)
    graph.operators[graph.operators.index(op)] = made
    return values.size // 8


def _dense(options: BitOptions) -> Any:
    made = schema.FullyConnectedOptionsT()
    made.fusedActivationFunction, made.keepNumDims = options.activation, options.keeps_dimensions
    return made


def _convolution(options: BitOptions) -> Any:
    made = schema.Conv2DOptionsT()
    made.padding, made.fusedActivationFunction = options.padding, options.activation
    made.strideH, made.strideW = options.strides
    made.dilationHFactor, made.dilationWFactor = options.dilation
    return made
