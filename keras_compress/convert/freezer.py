"""The visitor that freezes a flat graph, call by call."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_compress.convert import fold
from keras_compress.convert.expand.arithmetic import Operand
from keras_compress.convert.expand.emitter import is_users
from keras_compress.convert.expand.lookups import Rows
from keras_compress.convert.expand.masks import Either, Gate, Present
from keras_compress.convert.expand.weights import bias_of, integer_weight
from keras_compress.convert.final_grid import as_float32, ends_of, final_grid, no_finer, only_describes, whole_grid
from keras_compress.convert.kernel_shapes import as_image, as_local_pooling, check_sizes
from keras_compress.convert.known import KnownTensors
from keras_compress.convert.lstm.freezing import cells_behind, frozen_lstm, shared_point
from keras_compress.convert.lstm.layers import LstmCells, LstmOutput
from keras_compress.convert.masked_grids import masked_grid, table_of_16_bits
from keras_compress.convert.narrow_tanh import tanh_grid
from keras_compress.convert.own_layers import own, with_bias
from keras_compress.convert.shifted_slopes import ShiftedParts
from keras_compress.convert.slopes import SlopedParts, slopes_of
from keras_compress.convert.softmax_parts import LOWEST_LOGARITHM, SoftmaxParts, is_even
from keras_compress.convert.stairs import Steps
from keras_compress.convert.widths import Widths
from keras_compress.convert.written_grid import written_grid
from keras_compress.core import batch_norm
from keras_compress.core.frozen import FrozenGrid
from keras_compress.core.transform import IntegerWeight
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph
from keras_compress.graph.model import inner, slots_in
from keras_compress.ir.layouts import layout_of
from keras_compress.quantizers.activation import FixedGrid, QuantizeActivation
from keras_compress.quantizers.kinds import FIXED_GRID_16, FIXED_GRIDS_8, Kind, activation_name, kind_of, unmoved
from keras_compress.quantizers.placement import point_behind, reader_of
from keras_compress.quantizers.rprelu import RPReLU
from keras_compress.tflite.storage import INT8, Storage

Grid = FixedGrid
# Its kernel refuses outputs whose steps are a 128th of its input's, or finer.
FINEST_OF_HARD_SWISH = 127
_OF_TWO_TENSORS = ("Multiply", "BatchedMatmul", "Matmul")


@dataclass
class Freezer:
    """Visitor of a flat graph."""

    flat: keras.Model
    activation_bits: int
    activations: bool
    storage: Storage = INT8
    known: Mapping[str, Grid] = field(default_factory=dict)
    # What was asked of `convert`, which refusals name.
    mode: str = "int8"
    # Whether training knew no grids.
    measures: bool = False
    _of: KnownTensors = field(default_factory=KnownTensors)
    # BatchNormalizations that the weights before them have taken in.
    _folded: set[keras.layers.Layer] = field(default_factory=set)
    # Layers that give cell states -> the sequence that they read.
    _sequences: dict[keras.layers.Layer, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._table = graph.consumers(self.flat)
        self._steps = Steps(self.flat, self._table, self.activations)
        self._widths = Widths(self.flat, self.activation_bits, self._of, self._on_grid)

    def __call__(self, call: graph.Call) -> Any:
        call = self._widths.widened(call)
        outputs = self._visit(call)
        self._widths.remember(call, outputs)
        return outputs if self._of[outputs].step is None else self._rounded_ahead(call, outputs)

    def _rounded_ahead(self, call: graph.Call, outputs: Any) -> Any:
        """Sums, products and means that are moved or joined before their point: kernels round where they compute."""
        point = point_behind(call.node, self.flat, self._table)
        joined = point is None
        if joined:
            point = point_behind(call.node, self.flat, self._table, joined=True)
        if not self.activations or point is None or point is graph.sole_consumer(call.node, self.flat, self._table):
            return outputs
        # What is joined takes the one grid of all.
        grid = self._grid_at(point.operation, None if joined else outputs)
        rounded = self._on_grid(outputs, grid, f"{call.operation.name}.ahead")
        self._of[rounded].ahead = grid
        return rounded

    def _visit(self, call: graph.Call) -> Any:
        layer = call.operation
        kind = kind_of(layer)
        source = self._of[call.args[0] if call.args else None]
        if source.moved is not None and (kind is Kind.CLAMP or isinstance(layer, QuantizeActivation)):
            # The kernel that made the tensor takes them along.
            tensor, move = source.moved
            return self._move(layer.name, self(replace(call, args=(tensor, *call.args[1:]))), move)
        if isinstance(layer, QuantizeActivation):
            return self._point(layer, call.args[0])
        if kind is Kind.NORM:
            return self._norm(call)
        slopes = slopes_of(layer) if self._in_parts(call) else None
        if source.grid is not None and (slopes is not None or isinstance(layer, RPReLU)) and self.activations:
            return self._sloped(call, slopes, source.grid)
        if isinstance(layer, keras.layers.Layer) and slots_in(layer):
            return self._weighted(call)
        if kind in (Kind.AVERAGE, Kind.MEAN) and self.activations:
            follows = point_behind(call.node, self.flat, self._table)
            own_range = kind is Kind.MEAN and self._widths.of_call(call) == 8 and follows is not None
            return self._mean(call) if own_range else self._average(call)
        if isinstance(layer, LstmOutput):
            return self._lstm(call)
        if isinstance(layer, LstmCells):
            self._sequences[layer] = call.args[0]
        parts = self._off_grid(call)
        if parts is not None:
            return parts
        if kind is Kind.JOIN and self.storage.target == "tflm":
            call = self._with_moved_parts(call)
        outputs = call.again(own(call.operation))
        self._fix(call, kind, outputs)
        if kind is Kind.SAME:
            for output in keras.tree.flatten(outputs):
                source.carry(self._of[output])
            made = source.sums is not None or source.moved is not None
            if made and isinstance(layer, (keras.layers.Reshape, keras.layers.Permute)):
                self._of[outputs].moved = call.args[0], layer
        if kind is Kind.CLAMP:
            self._of[outputs].sums = source.sums
        if getattr(layer, "function", None) == "hard_silu" and source.grid is not None:
            self._of[outputs].finest = source.grid.scale / FINEST_OF_HARD_SWISH
        if type(layer).__name__ == "Mean":
            self._remember_mean(call.args[0], outputs)
        if type(layer).__name__ in _OF_TWO_TENSORS:
            self._remember_product(call, outputs)
        self._add(call, outputs)
        return outputs

    def _with_moved_parts(self, call: graph.Call) -> graph.Call:
        """A call that joins tensors, with those on other grids moved to that of the point behind it."""
        point = point_behind(call.node, self.flat, self._table, joined=True)
        if not self.activations or point is None:
            return call
        grid, numbers = self._grid_at(point.operation, None), itertools.count()

        def moved(tensor: Any) -> Any:
            number, own = next(numbers), self._of[tensor].grid
            if own is None or (own.scale, own.bits) == (grid.scale, grid.bits):
                return tensor
            return self._on_grid(tensor, grid, f"{call.operation.name}.part{number}")

        return replace(call, args=keras.tree.map_structure(moved, call.args))

    def _lstm(self, call: graph.Call) -> Any:
        """The LSTM as its kernel computes it; the parts before it, in which its cells were measured, drop out."""
        sequence = self._sequences[cells_behind(call.node)]
        point = shared_point(call.node, self._table)
        source, target = self._of[sequence].grid, self._grid_at(point.operation, None)
        outputs = frozen_lstm(call.node, sequence, source, target, self.storage.target, self.known)
        if point is not graph.sole_consumer(call.node, self.flat, self._table):
            outputs = self._on_grid(outputs, target, f"{call.operation.name}.ahead")
        self._of[outputs].ahead = target
        return outputs

    def _add(self, call: graph.Call, outputs: Any) -> None:
        """Remember what a sum of few levels is made of, and a ReLU of one."""
        lattice = self._of[call.args[0] if call.args else None].lattice
        if activation_name(call.operation) == "relu" and lattice is not None:
            scale, low, high = lattice
            self._of[outputs].lattice = scale, max(low, 0), max(high, 0)
        added = keras.tree.flatten(call.args) if type(call.operation).__name__ == "Add" else []
        known = [self._of[tensor] for tensor in added]
        steps, scales = [k.steps for k in known if k.steps], {k.grid.scale for k in known if k.grid}
        low, high = (sum(ends) for ends in zip((0, 0), *steps, strict=True))
        if steps and len(steps) == len(known) and len(scales) == 1 and high - low <= 255:
            self._of[outputs].lattice = scales.pop(), low, high

    def _fix(self, call: graph.Call, kind: Kind, outputs: Any) -> None:
        """Remember the grid that a kernel writes on, whatever range training saw behind it."""
        name = activation_name(call.operation) if kind in (Kind.FIXED, Kind.FREE) else None
        width = self._widths.of_call(call)
        if width == 16 and kind is Kind.FIXED:
            self._of[outputs].fixed = whole_grid(*FIXED_GRID_16)
        elif width == 8 and name in FIXED_GRIDS_8:
            grid = self._of[call.args[0]].grid if name == "tanh" and self.measures and call.args else None
            self._of[outputs].fixed = tanh_grid(grid) or FixedGrid(*FIXED_GRIDS_8[name])
        elif isinstance(call.operation, Present) and width == 16:
            self._of[outputs].table = table_of_16_bits(call.operation)
        elif isinstance(call.operation, (Present, Gate, Either)):
            self._of[outputs].fixed = masked_grid(call, lambda t: self._of[t].grid)
        elif (
            self.activations
            and kind is Kind.FREE
            and isinstance(call.operation, keras.layers.Layer)
            and is_users(call.operation)
        ):
            self._of[outputs].fixed = written_grid(call, lambda t: self._of[t].grid, width)

    def _point(self, layer: QuantizeActivation, tensor: Any) -> Any:
        layer.quantizer.check_range(layer.name)
        if layer.quantizer.replaces_relu:
            return self._stepped(layer, tensor)
        if not self.activations:
            return layer.quantizer.unrounded(tensor)
        known, width = self._of[tensor], self._widths.at_point(layer, tensor)
        if width == 16 and known.is_average:
            return tensor
        grid = self._grid_at(layer, tensor)
        if self._widths.narrows(layer, grid):
            tensor = self._on_grid(tensor, grid, f"{layer.name}.wide")
            grid = final_grid(layer.quantizer, 8)
        if known.table is not None and width == 16:
            # Rows are int8 there too; on a grid 256 times finer they are the same numbers.
            tensor = self._on_grid(tensor, known.table, f"{layer.name}.rows", layer.stands_for)
            grid = whole_grid(as_float32(known.table.scale / 256), 0)
        if known.lattice is None or grid.bits != 8 or not only_describes(layer.quantizer):
            return self._on_grid(tensor, grid, layer.name, layer.stands_for)
        # On another scale every other multiple could lie on a tie.
        scale, low, high = known.lattice
        outputs = self._on_grid(tensor, FixedGrid(scale, 127 - high), layer.name, layer.stands_for)
        self._of[outputs].steps = low, high
        return outputs

    def _grid_at(self, layer: QuantizeActivation, tensor: Any) -> Grid:
        """The grid that a tensor is written on for a point."""
        known = self._of[tensor]
        own = known.written or self.known.get(layer.name)
        return own or no_finer(self._widths.grid_at(layer, tensor), known.finest or known.step)

    def _on_grid(self, tensor: Any, grid: Grid, name: str, stands_for: str | None = None) -> Any:
        if self.storage.target == "tflm":
            grid = self._of[tensor].on_tflm(grid)
        outputs = QuantizeActivation(grid, stands_for=stands_for, name=name).behind(tensor)
        self._of[outputs].grid = grid
        if grid.bits == 8:
            self._of[outputs].steps = grid.lowest - grid.zero_point, 127 - grid.zero_point
        return outputs

    def _stepped(self, point: QuantizeActivation, tensor: Any) -> Any:
        """A function that is constant between thresholds: a sign, or one that is read from a table."""
        if not self.activations:
            return graph.rename_between(tensor, point.plain_operations(tensor), point.name)
        if (width := self._widths.of_tensor(tensor)) != 8:
            raise ValueError(
                "Expected mode='int8' for a model with sign activations, and 8 bits in front of them. "
                f"Received: {width}-bit activations, with a sign at {point.name!r}"
            )
        if point.quantizer.is_sign:
            return self._sign(point, tensor)
        known = self._of[tensor].grid is not None
        outputs, steps = self._steps.stairs(point, tensor, self._on_grid, known)
        self._of[outputs].steps = steps
        return outputs

    def _sign(self, point: QuantizeActivation, tensor: Any) -> Any:
        """The sign of a tensor, from the layer before it where that can give it, or else by one more layer."""
        if not self._of[tensor].is_sign:
            if self._of[tensor].grid is None:
                raise ValueError(
                    "Expected an activation quantizer, or a layer with weights, in front of a sign. Received: neither "
                    f"at {point.name!r}; put `QuantizeActivation(MovingAverageRange())` there."
                )
            ones = np.ones((1, 1, tensor.shape[-1], 1), np.int8)
            weight = IntegerWeight(ones, np.ones((1, 1, tensor.shape[-1], 1), np.float32), 2)
            offset = self._steps.offset(point, tensor.shape[-1])
            tensor = self._per_channel(f"{point.name}.sign", tensor, weight, offset, signs=True)
        clipped = graph.rename_between(tensor, ops.clip(tensor, -1.0, 1.0), point.name + ".clip")
        outputs = self._on_grid(clipped, FixedGrid(1.0, 0), point.name, point.stands_for)
        self._of[outputs].steps = -1, 1
        return outputs

    def _norm(self, call: graph.Call) -> Any:
        if call.operation in self._folded:
            return call.args[0]
        if not self.activations:
            return call.again(own(call.operation))
        return self._standalone_norm(call)

    def _standalone_norm(self, call: graph.Call) -> Any:
        """A BatchNormalization that nothing takes in, as a 1x1 depthwise convolution."""
        norm, name, tensor = fold.affine_of(call.operation), call.operation.name, call.args[0]
        axis, rank = batch_norm.axis_of(call.operation), len(tensor.shape)
        point = self._steps.behind(call.node)
        signs = point is not None and point.quantizer.is_sign
        weight = fold.standalone(norm, bits=2 if signs or self.storage.asked else 8)
        offset = norm.offset if point is None else self._steps.moved(point, norm.offset, axis == rank - 1)
        if axis == rank - 1:
            return self._per_channel(name, tensor, weight, offset, signs)
        # Channels last, and back.
        order = [a for a in range(rank) if a != axis] + [axis]
        last = keras.layers.Permute(tuple(order[1:]), name=f"{name}.last")(tensor)
        self._of[tensor].carry(self._of[last])
        made = self._per_channel(name, last, weight, offset, signs)
        return self._move(name, made, keras.layers.Permute([order.index(a) for a in range(1, rank)]))

    def _move(self, name: str, tensor: Any, layer: keras.layers.Layer) -> Any:
        """A tensor reshaped or permuted, which is remembered: what stands behind is taken along by the kernel."""
        layer = type(layer).from_config({**layer.get_config(), "name": f"{name}.moved"})
        moved = layer(tensor)
        self._of[tensor].carry(self._of[moved])
        self._of[moved].moved = tensor, layer
        return moved

    def _per_channel(
        self, name: str, tensor: Any, weight: IntegerWeight, offset: NDArray[np.float64], signs: bool = False
    ) -> Any:
        """A tensor times one number for each channel, plus another, as a 1x1 depthwise convolution."""
        shape = tuple(tensor.shape[1:])
        image = keras.layers.Reshape(as_image(shape), name=f"{name}.image")(tensor) if len(shape) != 3 else tensor
        layer = keras.layers.DepthwiseConv2D(1, name=name)
        layer.build(image.shape)
        frozen = self._frozen_layer(layer, weight, offset, self._of[tensor].grid, (-2, -1), signs)
        outputs = frozen(image)
        if len(shape) != 3:
            outputs = keras.layers.Reshape(shape, name=f"{name}.restored")(outputs)
        if signs:
            self._of[outputs].is_sign = True
        else:
            self._remember_sums(outputs, tensor, frozen)
        return outputs

    def _in_parts(self, call: graph.Call) -> bool:
        """Whether a leaky or parametric ReLU would have no kernel on the target that is fast, or none at all."""
        grid = self._of[call.args[0]].grid if call.args and self.activations else None
        if grid is None:
            return False
        # 16 bits have LEAKY_RELU, but no PRELU.
        return self.storage.target == "litert" if grid.bits == 8 else bool(slots_in(call.operation))

    def _sloped(self, call: graph.Call, slopes: NDArray[Any] | None, grid: Grid) -> Any:
        """A leaky or parametric ReLU, or with `slopes=None` an RPReLU."""
        point, name = point_behind(call.node, self.flat, self._table), call.operation.name
        written = None if point is None else self._grid_at(point.operation, None)
        shared = grid, written, name, self._on_grid, self._per_channel
        parts = ShiftedParts(call.operation, *shared) if slopes is None else SlopedParts(slopes, *shared)
        outputs = parts(call.args[0])
        self._of[outputs].ahead = written or self._of[outputs].ahead
        return outputs

    def _off_grid(self, call: graph.Call) -> Any:
        """A softmax or its logarithm in parts, where its kernel's grid tells too little of its values; else `None`."""
        name = activation_name(call.operation) if call.args and self._widths.of_call(call) == 8 else None
        grid = self._of[call.args[0]].grid if name in ("softmax", "log_softmax") else None
        point = None if grid is None else point_behind(call.node, self.flat, self._table)
        if grid is None or point is None:
            return None
        parts = SoftmaxParts(grid, call.operation.name, self._on_grid, self._dense)
        if name == "log_softmax":
            lowest = ends_of(self.known.get(point.operation.name) or final_grid(point.operation.quantizer, 8))[0]
            return parts.logarithms(call.args[0], call.run()) if lowest < LOWEST_LOGARITHM else None
        # Whoever reads the shares of classes knows the kernel's grid.
        is_output = any(unmoved(out) is point.outputs[0] for out in graph.functional(self.flat).outputs)
        if is_output or not is_even(grid, call.args[0].shape[-1]):
            return None
        outputs = parts.shares(call.args[0])
        self._of[outputs].ahead = self._of[outputs].grid
        return outputs

    def _dense(self, tensor: Any, weight: IntegerWeight, name: str) -> Any:
        """A Dense layer without a bias."""
        layer = keras.layers.Dense(weight.integers.shape[-1], name=name)
        layer.build(tensor.shape)
        frozen = self._frozen_layer(layer, weight, np.zeros(layer.units), self._of[tensor].grid, (-1,))
        outputs = frozen(tensor)
        self._remember_sums(outputs, tensor, frozen)
        return outputs

    def _remember_sums(self, outputs: Any, inputs: Any, layer: Compressed) -> None:
        grid = self._of[inputs].grid
        if grid is not None:
            scale = np.broadcast_to(integer_weight(layer, "kernel").scale.reshape(-1), outputs.shape[-1:])
            self._of[outputs].sums = grid.scale, scale

    def _remember_product(self, call: graph.Call, outputs: Any) -> None:
        """Products of two tensors are sums like those of a layer, whose weights are the other's integers."""
        grids = [self._of[tensor].grid for tensor in keras.tree.flatten(call.args)]
        if len(grids) == 2 and grids[0] is not None and grids[1] is not None:
            self._of[outputs].sums = grids[0].scale, np.array([grids[1].scale], np.float32)

    def _operand(self, call: graph.Call) -> Any:
        """Arithmetic with a constant of integers."""
        outputs, grid = call.run(), self._of[call.args[0]].grid
        if grid is not None and inner(call.operation).operation == "multiply":
            self._of[outputs].sums = grid.scale, integer_weight(call.operation, "kernel").scale.reshape(-1)
        return outputs

    def _weighted(self, call: graph.Call) -> Any:
        layer = call.operation
        if isinstance(inner(layer), Operand):
            return self._operand(call)
        if isinstance(inner(layer), Rows):
            return self._rows(call)
        layout_of(inner(layer), layer.name, self.mode)
        slot = slots_in(layer)[0]
        weight, bias = integer_weight(layer, slot.name), bias_of(layer)
        reader = reader_of(call.node, self.flat, self._table)
        point = self._steps.behind(call.node)
        if reader is not None and batch_norm.foldable(layer, reader.operation):
            weight, bias = fold.fold(weight, bias, fold.affine_of(reader.operation), slot.channel_axes)
            self._folded.add(reader.operation)
            point = self._steps.behind(reader)
        body = inner(layer)
        # A bare layer may share its variables with the user's.
        kept = isinstance(layer, Compressed) and body.bias is not None and body.name == layer.name
        made = body if kept else with_bias(body, layer.name, call.args[0].shape)
        grid = self._of[call.args[0]].grid
        signs = point is not None and grid is not None and point.quantizer.is_sign
        if point is not None and grid is not None:
            bias = self._steps.moved(point, bias)
        wrapper = self._frozen_layer(made, weight, bias, grid, slot.channel_axes, signs)
        outputs = call.again(wrapper)
        if signs:
            return self._sums_to_signs(layer.name, outputs, weight)
        self._remember_sums(outputs, call.args[0], wrapper)
        return outputs

    def _sums_to_signs(self, name: str, outputs: Any, weight: IntegerWeight) -> Any:
        """What stands before a sign: sums that are never 0, or, of wide weights, whole sums as int8."""
        if fold.doubles(weight):
            self._of[outputs].is_sign = True
            return outputs
        return self._on_grid(outputs, FixedGrid(1.0, 0), f"{name}.sum")

    def _rows(self, call: graph.Call) -> Any:
        """Rows of a table of integers are on the table's grid, whatever range training saw behind them."""
        outputs = call.again()
        weight = integer_weight(call.operation, "kernel")
        self._of[outputs].table = FixedGrid(as_float32(weight.scale.item()), 0)
        return outputs

    def _frozen_layer(
        self,
        layer: keras.layers.Layer,
        weight: IntegerWeight,
        bias: NDArray[np.float64],
        grid: Grid | None,
        channel_axes: tuple[int, ...],
        signs: bool = False,
    ) -> Compressed:
        transforms, integers = {}, None
        if grid is not None and signs:
            weight, integers = fold.sign_form(weight, bias, grid.scale, channel_axes)
        else:
            weight = self._as_stored(layer, weight, grid)
            if grid is not None:
                weight, integers = fold.bias_grid(bias, grid.scale, weight, channel_axes)
        if integers is not None:
            transforms["bias"] = [FrozenGrid.of(integers)]
            bias = integers.floats().astype(np.float64)
        transforms["kernel"] = [FrozenGrid.of(weight)]
        layer.kernel.assign(weight.floats())
        layer.bias.assign(bias)
        return Compressed(layer, transforms, slots={"kernel": channel_axes, "bias": (-1,)})

    def _as_stored(self, layer: keras.layers.Layer, weight: IntegerWeight, grid: Grid | None) -> IntegerWeight:
        """The weight with small integers where they are packed, else with integers shifted up."""
        if self.storage.bits < 8 and self.activations and (grid is None or grid.bits == 8):
            small, layout = fold.compact(weight), layout_of(layer, layer.name)
            if self.storage.of(layout.operator, layout.grid(layer.name, small))[0] < 8:
                return small
        return fold.spread(weight)

    def _mean(self, call: graph.Call) -> Any:
        """A mean over all positions, which its kernel rounds to the grid of the point behind it."""
        tensor = call.args[0]
        check_sizes(call.operation, tensor)
        outputs = call.again()
        self._remember_mean(tensor, outputs)
        return outputs

    def _remember_mean(self, tensor: Any, outputs: Any) -> None:
        grid, sizes = self._of[tensor].grid, (*tensor.shape[1:], *outputs.shape[1:])
        if grid is not None and None not in sizes:
            self._of[outputs].mean = grid.scale, int(np.prod(tensor.shape[1:]) // np.prod(outputs.shape[1:]))

    def _average(self, call: graph.Call) -> Any:
        """An average pooling, and behind it the rounding of the int8 kernel: same scale, half away from zero."""
        layer, tensor = call.operation, call.args[0]
        grid = self._of[tensor].grid
        pooled, shape = as_local_pooling(layer, tensor)
        outputs = pooled(tensor)
        if grid is not None:
            rounding = FixedGrid(grid.scale, grid.zero_point, grid.bits, grid.lowest, rounding="half_away")
            outputs = self._on_grid(outputs, rounding, f"{layer.name}.average")
        if shape is not None:
            flat = keras.layers.Reshape(shape, name=f"{layer.name}.flat")(outputs)
            self._of[outputs].carry(self._of[flat])
            outputs = flat
        self._of[outputs].is_average = True
        return outputs
