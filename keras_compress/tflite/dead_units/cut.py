"""The edits that take places out of a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.tflite.dead_units.units import Mask, Units, width
from keras_compress.tflite.flatbuffer import Graph


class Cut:
    """What goes, and the edits of weights, which are all done at the end: operators may share them.

    Attributes:
        units: What was found.
        graph: The graph that is edited.
    """

    def __init__(self, units: Units) -> None:
        self.units, self.graph = units, units.graph
        self._kept = units.kept()
        self._weights: dict[int, tuple[NDArray[Any], Mask]] = {}

    def __bool__(self) -> bool:
        return bool(self._kept)

    def kept(self, tensor: int) -> Mask:
        """Which places on the tensor's last axis stay."""
        return self._kept.get(tensor, np.ones(width(self.graph, tensor), bool))

    def touches(self, tensor: int) -> bool:
        """Whether places of the tensor go."""
        return tensor in self._kept

    def replace(self, weight: int, values: NDArray[Any], outputs: Mask) -> None:
        """Give a weight other values at the end, and its outputs' scales where there is one for each."""
        self._weights[weight] = values, outputs

    def finish(self) -> None:
        """Change the weights, and shorten the last axes of all tensors that are cut."""
        for tensor, (weights, outputs) in self._weights.items():
            self.graph.set_constant(tensor, weights)
            cut_scales(self.graph, tensor, outputs)
        for tensor, mask in self._kept.items():
            values = self.graph.constant(tensor)
            if values is not None:
                self.graph.set_constant(tensor, values[..., mask])
            else:
                set_shape(self.graph, tensor, (*self.graph.shape(tensor)[:-1], int(mask.sum())))


def cut_scales(graph: Graph, tensor: int, kept: Mask) -> None:
    """Take scales of single channels away; one scale for all stays."""
    found, held = graph.quantization(tensor), graph.tensors[tensor].quantization
    if found is not None and found[0].size == kept.size > 1:
        graph.set_quantization(tensor, found[0][kept], found[1], int(held.quantizedDimension or 0))


def set_shape(graph: Graph, tensor: int, shape: tuple[int, ...]) -> None:
    """Change a computed tensor's shape; unknown sizes of its signature stay unknown."""
    held = graph.tensors[tensor]
    signature = held.shapeSignature
    held.shape = list(shape)
    if signature is not None and len(signature) == len(shape):
        held.shapeSignature = [old if old < 0 else new for old, new in zip(signature, shape, strict=True)]


def own(graph: Graph, op: Any, position: int) -> int:
    """The constant at an operator's input, as a tensor that nothing else reads."""
    tensor: int = op.inputs[position]
    values = graph.constant(tensor)
    if values is None or sum(list(other.inputs).count(tensor) for other in graph.operators) == 1:
        return tensor
    made = graph.add_constant(graph.name(tensor), values)
    graph.tensors[made].quantization = graph.tensors[tensor].quantization
    op.inputs = [*op.inputs[:position], made, *op.inputs[position + 1 :]]
    return made


def set_last(graph: Graph, op: Any, position: int, value: int) -> None:
    """Change the last number of a constant operand; one below 0 means what is there, and stays."""
    tensor = own(graph, op, position)
    numbers = graph.constant(tensor)
    if numbers is not None and numbers.reshape(-1)[-1] >= 0:
        changed = numbers.copy()
        changed.reshape(-1)[-1] = value
        graph.set_constant(tensor, changed)


def set_last_of_shape(graph: Graph, reshape: Any, value: int) -> None:
    """Change the last axis that a RESHAPE is told to make."""
    options = reshape.builtinOptions
    if options is not None and options.newShape is not None and len(options.newShape):
        options.newShape = [*options.newShape[:-1], value if options.newShape[-1] >= 0 else -1]
    if len(reshape.inputs) > 1:
        set_last(graph, reshape, 1, value)
