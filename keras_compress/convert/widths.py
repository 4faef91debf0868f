"""8-bit and 16-bit activations in one file: the width that each call computes in, and what moves between the two.

A call computes in 16 bits where a tensor that it reads or makes has 16. What arrives in 8 is widened before it, which
loses nothing: its steps are divided by 128 and counted from 0. What it makes for a point of 8 bits is written in 16 and
then narrowed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import keras

from keras_compress.convert.final_grid import final_grid, whole_grid
from keras_compress.convert.known import KnownTensors
from keras_compress.core import keras_private
from keras_compress.graph import graph
from keras_compress.quantizers.activation import FixedGrid, QuantizeActivation
from keras_compress.quantizers.kinds import Kind, kind_of
from keras_compress.quantizers.placement import kind_of_node

WIDE = 16
_CHAINED = (Kind.SAME, Kind.CLAMP, Kind.NORM)
_AS_ITS_INPUT = (Kind.SAME, Kind.AVERAGE)
# 255 steps of 8 bits are within 16 bits then, and a mean of them has steps of its own.
_FINER = 128


@dataclass
class Widths:
    """Widths of the calls of one flat graph.

    Args:
        flat: The graph.
        least: 8, or 16 where everything has 16.
        of: What is known of the tensors of the new graph.
        on_grid: Puts a tensor on a grid, `(tensor, grid, name)`.
    """

    flat: keras.Model
    least: int
    of: KnownTensors
    on_grid: Callable[[Any, FixedGrid, str], Any]
    _table: dict[int, list[Any]] = field(init=False)
    _wide: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._table = graph.consumers(self.flat)
        points = [each for _, each in graph.walk(self.flat) if isinstance(each, QuantizeActivation)]
        self._mixed = self.least < WIDE and any(point.quantizer.bits == WIDE for point in points)

    def of_call(self, call: graph.Call) -> int:
        """Bits of the integers that a call computes with, 8 or 16."""
        if not self._mixed or isinstance(call.operation, QuantizeActivation):
            return self.least
        kind = kind_of_node(call.node)
        point = None if kind in _AS_ITS_INPUT else self._point_reached(call.node)
        wanted = self.least if point is None else min(max(point.quantizer.bits, self.least), WIDE)
        # What is joined is moved to the one grid behind it.
        read = [] if kind is Kind.JOIN and point is not None else [self.of_tensor(t) for t in _tensors(call)]
        return max([wanted, *read])

    def of_tensor(self, tensor: Any) -> int:
        """Bits of a tensor's integers, or of those of the call that made it."""
        known = self.of[tensor]
        return max(self.least, known.width if known.grid is None else known.grid.bits)

    def widened(self, call: graph.Call) -> graph.Call:
        """The call on tensors that have its width."""
        if not self._mixed or self.of_call(call) < WIDE or kind_of(call.operation) is Kind.JOIN:
            return call
        if isinstance(call.operation, QuantizeActivation):
            return call
        args, kwargs = keras.tree.map_structure(self._as_wide, (call.args, call.kwargs))
        return replace(call, args=args, kwargs=kwargs)

    def remember(self, call: graph.Call, outputs: Any) -> None:
        """Note in what width a call has computed its outputs."""
        width = self.of_call(call) if self._mixed else self.least
        for tensor in keras.tree.flatten(outputs):
            self.of[tensor].width = width

    def at_point(self, point: QuantizeActivation, tensor: Any) -> int:
        """Bits that a tensor is written in for a point; those of the point itself where nothing is known of it."""
        own = WIDE if point.quantizer.bits == WIDE else self.least
        if tensor is None or self.of[tensor].grid is not None:
            return own
        return max(own, self.of_tensor(tensor))

    def grid_at(self, point: QuantizeActivation, tensor: Any) -> FixedGrid:
        """The grid of a point's range, in the width that a tensor is written in for it."""
        grid = final_grid(point.quantizer, self.at_point(point, tensor))
        # What is narrowed is cut there.
        return whole_grid(grid.scale, 0) if self.narrows(point, grid) else grid

    def narrows(self, point: QuantizeActivation, grid: FixedGrid) -> bool:
        """Whether a point has 8 bits behind what was written in 16 for it."""
        return self._mixed and grid.bits == WIDE and point.quantizer.bits < WIDE

    def _point_reached(self, node: Any) -> QuantizeActivation | None:
        """The point that all a call makes goes to, what its kernel takes along and what moves values passed by."""
        reader = graph.sole_consumer(node, self.flat, self._table)
        while reader is not None and kind_of(reader.operation) in _CHAINED:
            reader = graph.sole_consumer(reader, self.flat, self._table)
        found = getattr(reader, "operation", None)
        return found if isinstance(found, QuantizeActivation) else None

    def _as_wide(self, tensor: Any) -> Any:
        grid = self.of[tensor].grid
        if grid is None or grid.bits == WIDE:
            return tensor
        if tensor not in self._wide:
            name = f"{keras_private.maker(tensor).name}.wide{len(self._wide)}"
            self._wide[tensor] = self.on_grid(tensor, whole_grid(grid.scale / _FINER, 0), name)
        return self._wide[tensor]


def _tensors(call: graph.Call) -> list[Any]:
    return [each for each in keras.tree.flatten((call.args, call.kwargs)) if isinstance(each, keras.KerasTensor)]
