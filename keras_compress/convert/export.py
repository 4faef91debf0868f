"""From a frozen model to what the lowering needs: a marked float model and a plan."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_compress.convert.expand.activations import PointwiseFunction, table_of
from keras_compress.convert.layouts import layout_of
from keras_compress.convert.lstm.integers import LstmIntegers
from keras_compress.convert.lstm.layers import FusedLSTM, StandIn
from keras_compress.convert.markers import Marker
from keras_compress.convert.plan import ActivationPoint, ConstantGrid, LoweringPlan, fingerprint
from keras_compress.convert.storage import INT8, Storage
from keras_compress.core import graph
from keras_compress.core.data import fixed_batch
from keras_compress.core.wrapper import Compressed
from keras_compress.quantizers.activation import FixedGrid, QuantizeActivation
from keras_compress.quantizers.kinds import Kind, activation_name, kind_of

# Functions with an int8 kernel within one step of a table. It is faster, and needs no int32 numbers of table entries in
# the arena.
_NATIVE: dict[str, tuple[str, ...]] = {"litert": ("gelu", "hard_silu"), "tflm": ("hard_silu",)}
# TFLM's LOGISTIC and TANH take the whole function for saturated where a step of the input is this large: up to half
# the outputs' range off.
_TOO_COARSE_FOR_TFLM = 2.0


@dataclass
class _Exporter:
    """Visitor of a frozen model: wrappers become plain layers, points become markers, functions become tables."""

    frozen: keras.Model
    storage: Storage
    weights: dict[str, ConstantGrid] = field(default_factory=dict)
    unpacked: dict[str, str] = field(default_factory=dict)
    points: dict[int, ActivationPoint] = field(default_factory=dict)
    lstms: dict[str, tuple[str, LstmIntegers]] = field(default_factory=dict)
    _grids: dict[int, FixedGrid] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._table = graph.consumers(self.frozen)

    def __call__(self, call: graph.Call) -> Any:
        layer = call.operation
        if isinstance(layer, QuantizeActivation):
            marked = self._mark(layer, call.args[0])
            self._grids[id(marked)] = layer.quantizer
            return marked
        if isinstance(layer, Compressed):
            self._add_weight(layer)
            # The frozen model's own layer: `freeze` has put the real weights into it, and no copy is needed.
            return call.run(layer.layer)
        if isinstance(layer, FusedLSTM):
            stand_in, integers = StandIn(len(self.lstms) + 1, layer.units, name=layer.name), layer.integers()
            self.lstms[fingerprint(stand_in.matrix(len(integers.kernel)).T)] = layer.name, integers
            return stand_in(call.args[0])
        if isinstance(layer, PointwiseFunction) or activation_name(layer) in ("sigmoid", "tanh"):
            return self._function(call)
        outputs = call.run()
        if kind_of(layer) is Kind.SAME and id(call.args[0]) in self._grids:
            self._grids.update({id(t): self._grids[id(call.args[0])] for t in keras.tree.flatten(outputs)})
        return outputs

    def _function(self, call: graph.Call) -> Any:
        """A look-up in the 256 values that the point behind the function takes."""
        grid = self._grids.get(id(call.args[0]))
        reader = graph.sole_consumer(call.node, self.frozen, self._table)
        follows = reader is not None and isinstance(reader.operation, QuantizeActivation)
        if grid is None or grid.bits != 8 or not follows or self._has_kernel(call.operation, grid):
            return call.run()
        values = table_of(call.operation, grid.scale, grid.zero_point)
        rounded = ops.convert_to_numpy(reader.operation.quantizer(values))  # type: ignore[union-attr]
        return LookUp(rounded, name=call.operation.name)(call.args[0])

    def _has_kernel(self, layer: keras.layers.Layer, grid: FixedGrid) -> bool:
        """Whether the target computes this function well on integers of this grid."""
        if isinstance(layer, PointwiseFunction):
            return layer.function in _NATIVE[self.storage.target]
        return self.storage.target != "tflm" or grid.scale < _TOO_COARSE_FOR_TFLM

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
        layout = layout_of(layer.layer, layer.name)
        grid = layout.grid(f"{layer.name}/kernel", integers)
        bits, reason = self.storage.of(layout.operator, grid)
        key = fingerprint(grid.floats())
        other = self.weights.setdefault(key, replace(grid, storage_bits=bits))
        if other.storage_bits != bits:
            # Equal numbers are found as one weight; of two layers that want it differently, neither has it packed.
            wide = other if other.storage_bits == 8 else grid
            self.weights[key] = replace(wide, storage_bits=8)
            reason = reason or f"{other.name!r} has the same values"
            self.unpacked.setdefault(other.name, f"{grid.name!r} has the same values")
        if reason:
            self.unpacked[grid.name] = reason


class LookUp(keras.layers.Layer):
    """A table of 256 values, as the operators that survive the lowering: CAST, ADD and GATHER.

    In the float flatbuffer the cast of a real number is without sense; on the device it is the cast of an int8.
    """

    def __init__(self, values: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._values = np.asarray(values, np.float32)

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def call(self, inputs: Any) -> Any:
        return tf.gather(tf.constant(self._values), tf.cast(inputs, tf.int32) + 128)


def export(frozen: keras.Model, mode: str, io: str, storage: Storage = INT8) -> tuple[keras.Model, LoweringPlan]:
    """The float model that goes through the TFLite converter, and what is put into its flatbuffer.

    Args:
        frozen: What `freeze` gave.
        mode: One of `keras_compress.convert.plan.MODES`.
        io: One of `keras_compress.convert.plan.IO_TYPES`.
        storage: How the weights are stored, and for which runtime.
    """
    visitor = _Exporter(frozen, storage)
    marked = graph.Rebuild(visitor, batch_size=fixed_batch(frozen) or 1).model(frozen)
    return marked, LoweringPlan(
        mode, io, visitor.weights, visitor.points, storage.target, visitor.unpacked, visitor.lstms
    )
