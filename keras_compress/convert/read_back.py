"""Read the integers of a file and compare them with what was frozen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.convert.lstm.layers import FusedLSTM
from keras_compress.core.wrapper import Compressed
from keras_compress.tflite.flatbuffer import Graph, read_model
from keras_compress.tflite.grids import ConstantGrid
from keras_compress.tflite.lowering.rule import rule_of
from keras_compress.tflite.lowering.weighted import Weighted
from keras_compress.tflite.lstm.operator import check_lstms


def check_integers(content: bytes, mode: str, weights: Iterable[ConstantGrid], frozen: keras.Model) -> Graph:
    """Check that weights, scales and biases in the file are the frozen model's, to the integer.

    Args:
        content: The file.
        mode: One of `keras_compress.tflite.plan.MODES`.
        weights: What was to be put in; the tensors in the file have their names.
        frozen: The frozen model.

    Returns:
        The file as it was read.

    Raises:
        ValueError: Naming the first tensor that differs, or the weights that are not in the file.
    """
    graph = Graph(read_model(content))
    grids, biases = {grid.name: grid for grid in weights}, _biases(frozen)
    compared: set[str] = set()
    for tensor in {t for op in graph.operators for t in op.inputs if t >= 0 and graph.is_constant(t)}:
        grid = grids.get(graph.name(tensor))
        if grid is not None:
            compared.add(grid.name)
            _check_weight(graph, tensor, grid)
    for data, weight, bias in _weighted_tensors(graph):
        quantization = graph.quantization(weight) if graph.is_constant(weight) else None
        if quantization is None:
            continue
        if graph.name(weight) not in grids:
            raise ValueError(
                f"Expected the frozen integers in the file. Received: other ones in tensor {graph.name(weight)!r}"
            )
        if mode in ("int8", "16x8") and bias >= 0:
            _check_bias(graph, data, bias, quantization[0], biases)
    lstms = [(layer.name, layer.integers()) for layer in frozen.layers if isinstance(layer, FusedLSTM)]
    check_lstms(graph, lstms)
    missing = sorted(set(grids) - compared)
    if missing:
        raise ValueError(f"Expected all weights in the file. Received: none for {missing}")
    return graph


def _check_weight(graph: Graph, tensor: int, grid: ConstantGrid) -> None:
    values, quantization = graph.constant(tensor), graph.quantization(tensor)
    if values is None or quantization is None:
        return  # real numbers in a float island
    same = values.size == grid.values.size and np.array_equal(values.reshape(-1), grid.values.reshape(-1))
    if not (same and _same_scales(grid.scale.reshape(-1), quantization[0].reshape(-1))):
        raise ValueError(
            f"Expected the frozen integers in the file. Received: other ones in tensor {graph.name(tensor)!r}"
        )
    if grid.storage_bits < 8 and graph.dtype(tensor) != f"int{grid.storage_bits}":
        raise ValueError(
            f"Expected {grid.name!r} stored as int{grid.storage_bits}. Received: {graph.dtype(tensor)} in the file"
        )


def _weighted_tensors(graph: Graph) -> Iterator[tuple[int, int, int]]:
    """Data, weight and bias (or -1) of each operator that has weights."""
    for op in graph.operators:
        rule = rule_of(graph.kind(op))
        if isinstance(rule, Weighted):
            bias = op.inputs[rule.bias] if rule.bias < len(op.inputs) else -1
            yield op.inputs[rule.data], op.inputs[rule.weight], bias


def _same_scales(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether each channel has the same scale; one number stands for all channels."""
    return (first.size == second.size or 1 in (first.size, second.size)) and bool(np.all(first == second))


def _biases(frozen: keras.Model) -> list[NDArray[np.float64]]:
    """The real biases that the frozen model adds."""
    wrappers = [layer for layer in frozen.layers if isinstance(layer, Compressed) and "bias" in layer.transforms]
    grids = [wrapper.transforms["bias"][-1].integer_weight(None) for wrapper in wrappers]
    found = [grid.floats().astype(np.float64) for grid in grids if grid is not None]
    # What only moves values adds nothing, though a convolution may do it.
    moving = [layer for layer in frozen.layers if getattr(layer, "moves_values", False)]
    return found + [np.zeros(layer.output.shape[-1]) for layer in moving]


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
