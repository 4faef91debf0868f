"""The plain file back from one whose weights are stored compressed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_compress.tflite.encoding.codec import Form
from keras_compress.tflite.encoding.known import DECODE, decoded
from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.passes.encode_weights import form_of

# A stream is decoded once for each form that it is read in, of which a real file has one or two: what many operators
# read in many forms would keep a reader busy for hours.
_MOST_READINGS = 4


def expand_weights(graph: Graph) -> int:
    """Put the values of decoded tensors into the graph, and take the operators that decode them out.

    Returns:
        How many tensors were decoded.

    Raises:
        ValueError: For tables or a stream that are damaged, with the tensor's name.
    """
    decoded_in: dict[Any, int] = {}
    first_of: dict[Any, int] = {}
    same_as: dict[int, int] = {}
    left = _MOST_READINGS * sum(len(buffer.data) for buffer in graph.model.buffers if buffer.data is not None)
    for encoded, ancillary, output in decoded_tensors(graph):
        held, quantization = graph.tensors[output], graph.quantization(output)
        form = form_of(graph, output)
        stream = graph.tensors[encoded].buffer
        key = (stream, graph.tensors[ancillary].buffer, form)
        if key not in decoded_in:
            graph.set_constant(output, _values(graph, encoded, ancillary, output, form))
            decoded_in[key] = held.buffer
            left -= len(graph.model.buffers[stream].data)
            if left < 0:
                raise ValueError(f"Could not decode {graph.name(output)!r}: too many other tensors read its stream")
        held.buffer = decoded_in[key]
        scales = b"" if quantization is None else quantization[0].tobytes()
        same_as.setdefault(output, first_of.setdefault((encoded, ancillary, form, scales), output))
    graph.operators = [op for op in graph.operators if graph.custom_name(op) != DECODE]
    for op in graph.operators:
        op.inputs = [same_as.get(tensor, tensor) for tensor in op.inputs]
    return len(first_of)


def decoded_tensors(graph: Graph) -> Iterator[tuple[int, int, int]]:
    """Stream, ancillary tensor and decoded tensor, in the order of use.

    Raises:
        ValueError: For an operator with other than two inputs for each output.
    """
    for op in graph.operators:
        if graph.custom_name(op) != DECODE:
            continue
        if len(op.inputs) != 2 * len(op.outputs) or min((*op.inputs, *op.outputs), default=-1) < 0:
            raise ValueError(
                f"Expected two inputs of {DECODE} for each output. Received: {list(op.inputs)} for {list(op.outputs)}"
            )
        yield from zip(op.inputs[::2], op.inputs[1::2], op.outputs, strict=True)


def _values(graph: Graph, encoded: int, ancillary: int, output: int, form: Form) -> Any:
    """The values of one decoded tensor, by NumPy."""
    data, tables = graph.constant(encoded), graph.constant(ancillary)
    try:
        if data is None or tables is None or data.dtype != np.uint8 or tables.dtype != np.uint8:
            raise ValueError("Expected two constant uint8 tensors. Received: others")
        return decoded(data.reshape(-1), tables.reshape(-1), form)
    except ValueError as error:
        raise ValueError(f"Could not decode {graph.name(output)!r}: {error}") from error
