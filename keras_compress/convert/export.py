"""From a frozen model to what the lowering needs: a marked float model and a plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras

from keras_compress.convert.layouts import layout_of
from keras_compress.convert.markers import Marker
from keras_compress.convert.plan import ActivationPoint, ConstantGrid, LoweringPlan, fingerprint
from keras_compress.core import graph
from keras_compress.core.model import strip_layer
from keras_compress.core.wrapper import Compressed
from keras_compress.quantizers.activation import FixedGrid, QuantizeActivation


@dataclass
class _Exporter:
    """Visitor of a frozen model: wrappers become plain layers, points become markers."""

    weights: dict[str, ConstantGrid] = field(default_factory=dict)
    points: dict[int, ActivationPoint] = field(default_factory=dict)

    def __call__(self, call: graph.Call) -> Any:
        layer = call.operation
        if isinstance(layer, QuantizeActivation):
            return self._mark(layer, call.args[0])
        if isinstance(layer, Compressed):
            self._add_weight(layer)
            return call.run(strip_layer(layer))
        return call.run()

    def _mark(self, layer: QuantizeActivation, tensor: Any) -> Any:
        grid = layer.quantizer
        if not isinstance(grid, FixedGrid):
            raise ValueError(f"Expected a frozen model. Received: {layer.name!r} with {type(grid).__name__}")
        number = len(self.points) + 1
        self.points[number] = ActivationPoint(layer.name, grid.scale, grid.zero_point, grid.bits, grid.lowest)
        return Marker(number, name=f"{layer.name}.marker")(tensor)

    def _add_weight(self, layer: Compressed) -> None:
        integers = layer.transforms["kernel"][-1].integer_weight(None)
        if integers is None:
            raise ValueError(f"Expected a frozen model. Received: {layer.name!r} without integers")
        grid = layout_of(layer.layer, layer.name).grid(f"{layer.name}/kernel", integers)
        self.weights[fingerprint(grid.floats())] = grid


def export(frozen: keras.Model, mode: str, io: str) -> tuple[keras.Model, LoweringPlan]:
    """The float model that goes through the TFLite converter, and what is put into its flatbuffer.

    Args:
        frozen: What `freeze` gave.
        mode: One of `keras_compress.convert.plan.MODES`.
        io: One of `keras_compress.convert.plan.IO_TYPES`.
    """
    visitor = _Exporter()
    marked = graph.Rebuild(visitor, batch_size=1).model(frozen)
    return marked, LoweringPlan(mode, io, visitor.weights, visitor.points)
