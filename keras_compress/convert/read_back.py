"""Read the integers of a file and compare them with what was frozen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.convert.flatbuffer import Graph, read_model
from keras_compress.convert.lowering.rule import rule_of
from keras_compress.convert.lowering.weighted import Weighted
from keras_compress.convert.lstm.operator import check_lstms
from keras_compress.convert.plan import ConstantGrid, LoweringPlan, fingerprint
from keras_compress.core.wrapper import Compressed


def check_integers(content: bytes, plan: LoweringPlan, frozen: keras.Model) -> None:
    """Check that weights, scales and biases in the file are the frozen model's, to the integer.

    Args:
        content: The file.
        plan: What was to be put in.
        frozen: The frozen model.

    Raises:
        ValueError: Naming the first tensor that differs, or the weights that are not in the file.
    """
    graph = Graph(read_model(content))
    missing = {grid.name: grid for grid in plan.weights.values()}
    biases = _biases(frozen)
    for data, weight, bias in _weighted_tensors(graph):
        values, quantization = graph.constant(weight), graph.quantization(weight)
        if values is None or quantization is None or values.dtype != np.int8:
            continue
        grid = _matching(values, quantization[0], plan)
        if grid is None:
            raise ValueError(
                f"Expected the frozen integers in the file. Received: other ones in tensor {graph.name(weight)!r}"
            )
        if graph.dtype(weight) != f"int{grid.storage_bits}":
            raise ValueError(
                f"Expected {grid.name!r} stored as int{grid.storage_bits}. Received: {graph.dtype(weight)} in the file"
            )
        missing.pop(grid.name, None)
        if plan.mode in ("int8", "16x8") and bias >= 0:
            _check_bias(graph, data, bias, quantization[0], biases)
    for operand in _operands(graph):
        values, quantization = graph.constant(operand), graph.quantization(operand)
        if values is not None and values.dtype == np.float32:
            grid = plan.weights.get(fingerprint(values))
            missing.pop(grid.name if grid else "", None)
        elif values is not None and values.dtype in (np.int8, np.int16) and quantization is not None:
            grid = _matching(values, quantization[0], plan)
            missing.pop(grid.name if grid else "", None)
    check_lstms(graph, plan.lstms.values())
    if missing:
        raise ValueError(f"Expected all weights in the file. Received: none for {sorted(missing)}")


def _weighted_tensors(graph: Graph) -> Iterator[tuple[int, int, int]]:
    """Data, weight and bias (or -1) of each operator that has weights."""
    for op in graph.operators:
        rule = rule_of(graph.kind(op))
        if isinstance(rule, Weighted):
            bias = op.inputs[rule.bias] if rule.bias < len(op.inputs) else -1
            yield op.inputs[rule.data], op.inputs[rule.weight], bias


def _operands(graph: Graph) -> Iterator[int]:
    """Constants that are looked up in, added, multiplied, or made floats again."""
    for op in graph.operators:
        if graph.kind(op) in ("GATHER", "ADD", "MUL", "PRELU", "DEQUANTIZE"):
            yield from (t for t in op.inputs if t >= 0 and graph.is_constant(t))


def _matching(values: NDArray[Any], scale: NDArray[Any], plan: LoweringPlan) -> ConstantGrid | None:
    for grid in plan.weights.values():
        same = grid.values.size == values.size and np.array_equal(grid.values.reshape(-1), values.reshape(-1))
        if same and _same_scales(grid.scale.reshape(-1), scale.reshape(-1)):
            return grid
    return None


def _same_scales(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether each channel has the same scale; one number stands for all channels."""
    return (first.size == second.size or 1 in (first.size, second.size)) and bool(np.all(first == second))


def _biases(frozen: keras.Model) -> list[NDArray[np.float64]]:
    """The real biases that the frozen model adds."""
    wrappers = [layer for layer in frozen.layers if isinstance(layer, Compressed) and "bias" in layer.transforms]
    grids = [wrapper.transforms["bias"][-1].integer_weight(None) for wrapper in wrappers]
    return [grid.floats().astype(np.float64) for grid in grids if grid is not None]


def _check_bias(
    graph: Graph, data: int, bias: int, weight_scale: NDArray[Any], biases: list[NDArray[np.float64]]
) -> None:
    """The file's bias must be `round(b / (s_in * s_w))` of a frozen one."""
    integers, source = graph.constant(bias), graph.quantization(data)
    if integers is None or integers.dtype.kind != "i" or source is None:
        return
    step = np.float64(source[0][0]) * weight_scale.astype(np.float64)
    if not any(b.size == integers.size and np.array_equal(np.rint(b / step), integers) for b in biases):
        raise ValueError(f"Expected the frozen bias in the file. Received: another one in tensor {graph.name(bias)!r}")
