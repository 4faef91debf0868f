"""UNIDIRECTIONAL_SEQUENCE_LSTM in a flatbuffer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.lstm.integers import GATES, LstmIntegers

KIND = "UNIDIRECTIONAL_SEQUENCE_LSTM"
# Its 24 operands: the sequence, a matrix for each gate twice, 3 of peepholes, a bias for each gate, 2 of a projection,
# the two states, and 4 of normalizations.
_KERNELS, _RECURRENT, _BIASES, _HIDDEN, CELL, _OPERANDS = 1, 5, 12, 18, 19, 24
_INTERMEDIATES = 5


def lstm_operator(graph: Graph, sequence: int, output: int, lstm: LstmIntegers, name: str) -> Any:
    """The operator, with its constants and states added to the graph; it is not placed yet.

    The states are variable tensors, which keep their values from one run to the next: whoever runs the file resets
    them before each sequence.

    Args:
        graph: The flatbuffer.
        sequence: int8 tensor, `(batch, steps, inputs)`, on `lstm.input_grid`.
        output: int8 tensor, `(batch, steps, units)`, on `lstm.output_grid`.
        lstm: The integers.
        name: What the names of its tensors begin with.
    """
    batch, units = graph.shape(sequence)[0], lstm.units
    operands = [-1] * _OPERANDS
    operands[0] = sequence
    for start, weight, scale, kind in (
        (_KERNELS, lstm.kernel, lstm.kernel_scale, "kernel"),
        (_RECURRENT, lstm.recurrent_kernel, lstm.recurrent_scale, "recurrent_kernel"),
    ):
        for gate, label in enumerate(GATES):
            matrix = np.ascontiguousarray(weight[:, gate * units : (gate + 1) * units].T)
            operands[start + gate] = _constant(graph, f"{name}/{kind}/{label}", matrix, scale[gate])
    steps = np.float64(np.float32(lstm.input_grid[0])) * lstm.kernel_scale.astype(np.float64)
    for gate, label in enumerate(GATES):
        values = lstm.bias[gate * units : (gate + 1) * units]
        operands[_BIASES + gate] = _constant(graph, f"{name}/bias/{label}", values, steps[gate])
    operands[_HIDDEN] = _state(graph, f"{name}/hidden", (batch, units), "int8", *lstm.output_grid)
    operands[CELL] = _state(graph, f"{name}/cell", (batch, units), "int16", 2.0**lstm.cell_exponent, 0)
    op = graph.make_operator(KIND, operands, [output], _options())
    # Only the fifth is read, for the grid of the hidden state; the others describe normalizations.
    intermediate = graph.add_tensor(f"{name}/intermediate", (0,), "int8")
    graph.set_quantization(intermediate, np.float32(lstm.output_grid[0]), lstm.output_grid[1])
    op.intermediates = [intermediate] * _INTERMEDIATES
    return op


def _constant(graph: Graph, name: str, values: Any, scale: Any) -> int:
    tensor = graph.add_constant(name, values)
    graph.set_quantization(tensor, np.float32(scale))
    return tensor


def _state(graph: Graph, name: str, shape: tuple[int, ...], dtype: str, scale: float, zero_point: int) -> int:
    tensor = graph.add_tensor(name, shape, dtype)
    graph.set_quantization(tensor, np.float32(scale), zero_point)
    graph.tensors[tensor].isVariable = True
    return tensor


def _options() -> Any:
    options = schema.UnidirectionalSequenceLSTMOptionsT()
    options.fusedActivationFunction = schema.ActivationFunctionType.TANH
    options.cellClip = options.projClip = 0.0
    options.timeMajor = options.asymmetricQuantizeInputs = False
    return options


def check_lstms(graph: Graph, lstms: Iterable[tuple[str, LstmIntegers]]) -> None:
    """Check that the operators of a file have these integers and grids, in any order.

    Raises:
        ValueError: Naming those that are missing.
    """
    found = [_read(graph, op) for op in graph.operators if graph.kind(op) == KIND]
    missing = [name for name, lstm in lstms if not any(_same(lstm, other) for other in found)]
    if missing:
        raise ValueError(f"Expected the frozen LSTMs in the file. Received: other integers for {missing}")


def _read(graph: Graph, op: Any) -> LstmIntegers:
    """The integers of an operator."""

    def held(start: int) -> tuple[Any, Any]:
        tensors = op.inputs[start : start + len(GATES)]
        return [graph.constant(t) for t in tensors], np.array([_grid(graph, t)[0] for t in tensors], np.float32)

    (kernels, kernel_scale), (recurrent, recurrent_scale), (biases, _) = map(held, (_KERNELS, _RECURRENT, _BIASES))
    kernel, recurrent_kernel = (np.concatenate(matrices).T for matrices in (kernels, recurrent))
    return LstmIntegers(
        kernel, recurrent_kernel, np.concatenate(biases), kernel_scale, recurrent_scale,
        _grid(graph, op.inputs[0]), _grid(graph, op.inputs[_HIDDEN]),
        round(math.log2(_grid(graph, op.inputs[CELL])[0])),
    )  # fmt: skip


def _grid(graph: Graph, tensor: int) -> tuple[float, int]:
    found = graph.quantization(tensor)
    if found is None:
        raise ValueError(f"Expected scales at {graph.name(tensor)!r}. Received: none")
    return float(found[0][0]), found[1]


def _same(first: LstmIntegers, second: LstmIntegers) -> bool:
    return all(np.array_equal(getattr(first, each.name), getattr(second, each.name)) for each in fields(first))
