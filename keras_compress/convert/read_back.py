"""Read the integers of a file and compare them with what was frozen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.convert.flatbuffer import Graph, read_model
from keras_compress.convert.plan import ConstantGrid, LoweringPlan
from keras_compress.core.wrapper import Compressed

# Operator -> positions of its weight and its bias.
_WEIGHTED = {"CONV_2D": (1, 2), "DEPTHWISE_CONV_2D": (1, 2), "FULLY_CONNECTED": (1, 2), "TRANSPOSE_CONV": (1, 3)}


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
    for weight, bias in _weighted_tensors(graph):
        values, quantization = graph.constant(weight), graph.quantization(weight)
        if values is None or quantization is None or values.dtype != np.int8:
            continue
        grid = _matching(values, quantization[0], plan)
        if grid is None:
            raise ValueError(
                f"Expected the frozen integers in the file. Received: other ones in tensor {graph.name(weight)!r}"
            )
        missing.pop(grid.name, None)
        integers = graph.constant(bias) if bias >= 0 else None
        if plan.mode in ("int8", "16x8") and integers is not None and integers.dtype.kind == "i":
            _check_bias(graph.name(bias), integers, biases)
    if missing:
        raise ValueError(f"Expected all weights in the file. Received: none for {sorted(missing)}")


def _weighted_tensors(graph: Graph) -> Iterator[tuple[int, int]]:
    for op in graph.operators:
        if graph.kind(op) in _WEIGHTED:
            weight, bias = _WEIGHTED[graph.kind(op)]
            yield op.inputs[weight], op.inputs[bias] if bias < len(op.inputs) else -1


def _matching(values: NDArray[Any], scale: NDArray[Any], plan: LoweringPlan) -> ConstantGrid | None:
    for grid in plan.weights.values():
        same = grid.values.size == values.size and np.array_equal(grid.values.reshape(-1), values.reshape(-1))
        if same and np.array_equal(np.broadcast_to(grid.scale, scale.shape), scale):
            return grid
    return None


def _biases(frozen: keras.Model) -> list[NDArray[np.int64]]:
    wrappers = [layer for layer in frozen.layers if isinstance(layer, Compressed) and "bias" in layer.transforms]
    grids = [wrapper.transforms["bias"][-1].integer_weight(None) for wrapper in wrappers]
    return [grid.integers.astype(np.int64) for grid in grids if grid is not None]


def _check_bias(name: str, integers: NDArray[Any], biases: list[NDArray[np.int64]]) -> None:
    if not any(np.array_equal(bias, integers.astype(np.int64)) for bias in biases):
        raise ValueError(f"Expected the frozen bias in the file. Received: another one in tensor {name!r}")
