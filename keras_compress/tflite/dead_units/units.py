"""One look at a graph: which places on its last axes live and die together, which are constant, which matter."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from keras_compress.structured.channel_ids import ChannelIds, Ids
from keras_compress.tflite.dead_units.rounding import Known
from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.grids import Grid

Mask = NDArray[np.bool_]
# Operators whose second input is a weight that may be cut.
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


class Units:
    """What the rules write down about a graph.

    Attributes:
        graph: The integer graph.
        ids: Ties between places.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.ids = ChannelIds()
        self._places: dict[int, Ids] = {}
        self._known: dict[int, Known] = {}
        self._open: set[int] = set()
        self._frozen: set[int] = {*graph.inputs, *graph.outputs}
        self._minded: list[Ids] = []
        self._sharing: dict[int, tuple[tuple[int, ...], Ids, Ids]] = {}
        self._elsewhere = set(_buffers_elsewhere(graph))

    def of(self, tensor: int) -> Ids:
        """Ids of the places on the tensor's last axis."""
        if tensor not in self._places:
            self._places[tensor] = self.ids.new(width(self.graph, tensor))
        return self._places[tensor]

    def tie(self, first: Ids, second: Ids) -> None:
        """Let places live and die together."""
        self.ids.tie(first, second)

    def open(self, *tensors: int) -> None:
        """Say that a rule can cut these tensors."""
        self._open.update(tensors)

    def freeze(self, tensors: Iterable[int]) -> None:
        """Keep tensors whole, and the weights among them."""
        for tensor in tensors:
            if tensor >= 0:
                self._frozen.add(tensor)
                self._elsewhere.add(self.graph.tensors[tensor].buffer)

    def mind(self, places: Ids) -> None:
        """Keep places, because an operator needs what is there."""
        self._minded.append(places)

    def known(self, tensor: int) -> Known:
        """What is known of a tensor's values."""
        if tensor not in self._known:
            self._known[tensor] = _constant(self.graph, tensor) or Known.nothing(width(self.graph, tensor))
        return self._known[tensor]

    def learn(self, tensor: int, known: Known) -> None:
        """Write down what is known of a computed tensor."""
        self._known[tensor] = known

    def read_elsewhere(self, tensor: int) -> bool:
        """Whether a constant is read otherwise than as a weight that may be cut, in this graph or another."""
        return self.graph.tensors[tensor].buffer in self._elsewhere

    def share(self, weight: int, rows: Ids, columns: Ids) -> None:
        """Tie the rows and columns of operators that read the same weight; another shape keeps both whole."""
        shape, buffer = self.graph.shape(weight), self.graph.tensors[weight].buffer
        first = self._sharing.setdefault(buffer, (shape, rows, columns))
        if first[0] == shape and columns.size == first[2].size:
            self.tie(first[1], rows)
            self.tie(first[2], columns)
        else:
            for places in (first[1], first[2], rows, columns):
                self.mind(places)

    def kept(self) -> dict[int, Mask]:
        """Tensor -> which places on its last axis stay, for tensors where some go; each keeps one at least."""
        units = self.ids.units()[0]
        blocked = np.zeros(int(units.max(initial=-1)) + 1, bool)
        whole = [ids for tensor, ids in self._places.items() if tensor not in self._open or tensor in self._frozen]
        for places in (*whole, *self._minded):
            blocked[units[places]] = True
        for tensor in sorted(self._open):
            of_tensor = units[self.of(tensor)]
            if not blocked[of_tensor].any():
                blocked[of_tensor[0]] = True
        kept = {tensor: blocked[units[ids]] for tensor, ids in self._places.items()}
        return {tensor: mask for tensor, mask in kept.items() if not mask.all()}


def width(graph: Graph, tensor: int) -> int:
    """Length of the last axis; 1 for a scalar."""
    return (graph.shape(tensor) or (1,))[-1]


def grid_of(graph: Graph, tensor: int) -> Grid | None:
    """The grid of a tensor of int8 or int16 with one scale, or None."""
    found = graph.quantization(tensor) if tensor >= 0 else None
    if found is None or found[0].size != 1 or graph.dtype(tensor) not in ("int8", "int16"):
        return None
    return Grid(float(found[0][0]), found[1], 8 if graph.dtype(tensor) == "int8" else 16)


def _constant(graph: Graph, tensor: int) -> Known | None:
    values = graph.constant(tensor)
    if values is None or grid_of(graph, tensor) is None or values.size == 0:
        return None
    rows = values.reshape(-1, width(graph, tensor)).astype(np.int64)
    return Known(rows[0], (rows == rows[0]).all(0))


def _buffers_elsewhere(graph: Graph) -> Iterable[int]:
    """Buffers of constants that are read otherwise than as a weight."""
    for number, subgraph in enumerate(graph.model.subgraphs):
        for op in subgraph.operators:
            for position, tensor in enumerate(op.inputs):
                weight = number == 0 and position == 1 and graph.kind(op) in WEIGHTED
                if tensor >= 0 and not weight:
                    yield subgraph.tensors[tensor].buffer
        yield from (subgraph.tensors[t].buffer for t in subgraph.outputs)
