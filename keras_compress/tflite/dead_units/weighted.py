"""CONV_2D, FULLY_CONNECTED, TRANSPOSE_CONV: outputs of their own, and inputs that their weights may ignore."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from keras_compress.tflite.dead_units.cut import Cut, cut_scales, own, set_last
from keras_compress.tflite.dead_units.rounding import Known, activation_range, requantized
from keras_compress.tflite.dead_units.rule import Rule
from keras_compress.tflite.dead_units.units import Mask, Units, grid_of, width
from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.grids import Grid


class Layer:
    """An operator with weights, as the rules read it.

    Attributes:
        graph: The graph.
        op: The operator.
        data, weight, bias, output: Tensors; `bias` is -1 where there is none.
        axis: Axis of the weight that the outputs run along.
    """

    _PLACES: ClassVar[dict[str, tuple[int, int, int]]] = {"TRANSPOSE_CONV": (2, 1, 3)}

    def __init__(self, graph: Graph, op: Any) -> None:
        self.graph, self.op = graph, op
        data, weight, self.bias_place = self._PLACES.get(graph.kind(op), (0, 1, 2))
        self.data, self.weight, self.output = op.inputs[data], op.inputs[weight], op.outputs[0]
        self.bias = op.inputs[self.bias_place] if len(op.inputs) > self.bias_place else -1
        self.axis = 3 if graph.kind(op) == "DEPTHWISE_CONV_2D" else 0

    @property
    def understood(self) -> bool:
        """Whether it computes on int8 or int16 with int8 weights of zero point 0, and constants of its own."""
        graph, held = self.graph, self.graph.tensors[self.weight]
        scales, grids = held.quantization, (grid_of(graph, self.data), grid_of(graph, self.output))
        if grids[0] is None or grids[1] is None or grids[0].bits != grids[1].bits:
            return False
        if scales is None or scales.scale is None or graph.dtype(self.weight) != "int8":
            return False
        outputs = width(graph, self.output)
        zeros = scales.zeroPoint is None or not np.any(scales.zeroPoint)
        sized = len(scales.scale) == 1 or (len(scales.scale) == outputs and scales.quantizedDimension == self.axis)
        biased = self.bias < 0 or (
            graph.is_constant(self.bias)
            and graph.shape(self.bias) == (outputs,)
            and graph.dtype(self.bias) in ("int32", "int64")
        )
        return bool(
            graph.is_constant(self.weight)
            and not graph.is_constant(self.data)
            and held.sparsity is None
            and graph.shape(self.weight)[self.axis] == outputs
            and zeros and sized and biased
            and self.ends is not None
        )  # fmt: skip

    @property
    def weights(self) -> NDArray[Any]:
        """Values of the weight."""
        values = self.graph.constant(self.weight)
        return np.zeros(self.graph.shape(self.weight), np.int8) if values is None else values

    @property
    def grid(self) -> Grid:
        """Of the data."""
        return grid_of(self.graph, self.data) or Grid(1.0, 0)

    @property
    def ends(self) -> tuple[int, int] | None:
        """Lowest and highest output behind the fused activation."""
        grid, options = grid_of(self.graph, self.output), self.op.builtinOptions
        if grid is None or options is None or getattr(options, "weightsFormat", None):
            return None
        return activation_range(getattr(options, "fusedActivationFunction", 0), grid)

    @property
    def padded(self) -> bool:
        """Whether places beyond the data's edges are read."""
        options = self.op.builtinOptions
        if getattr(options, "padding", schema.Padding.VALID) == schema.Padding.VALID:
            return False
        sizes, kernel = self.graph.shape(self.data)[1:3], self.graph.shape(self.weight)[1:3]
        strides, dilations = (options.strideH, options.strideW), (options.dilationHFactor, options.dilationWFactor)
        return any(
            (-(-size // stride) - 1) * stride + dilation * (taps - 1) + 1 > size
            for size, taps, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True)
        )

    @property
    def bias_values(self) -> NDArray[np.int64]:
        """The bias, zeros where there is none."""
        values = self.graph.constant(self.bias) if self.bias >= 0 else None
        return np.zeros(width(self.graph, self.output), np.int64) if values is None else values.astype(np.int64)

    @property
    def bias_limit(self) -> int:
        """Largest value that the bias may take; 0 where it must not appear."""
        if self.bias >= 0:
            return int(np.iinfo(self.graph.dtype(self.bias)).max)
        # Without a bias the kernels of 16 bits round otherwise than with one.
        return 2**31 - 1 if self.grid.bits == 8 else 0

    def outputs_of(self, sums: NDArray[np.int64]) -> Known:
        """Outputs for the kernel's sums, bias included."""
        made, scales = grid_of(self.graph, self.output), self.graph.quantization(self.weight)
        if made is None or scales is None or self.ends is None:
            return Known.nothing(sums.size)
        factor = self.grid.scale * scales[0].astype(np.float64) / made.scale
        return requantized(sums, factor, made, self.ends)

    def cut(self, cut: Cut, columns: Mask, added: NDArray[np.int64]) -> None:
        """Take outputs and columns out of the constants, and add to the bias."""
        rows = cut.kept(self.output)
        if not (rows.all() and columns.all()):
            values = self.weights.compress(rows, self.axis)
            cut.replace(self.weight, values if columns.all() else values[..., columns], rows)
        if added.any() or (self.bias >= 0 and not rows.all()):
            self._set_bias((self.bias_values + added)[rows])
            cut_scales(self.graph, self.op.inputs[self.bias_place], rows)

    def _set_bias(self, values: NDArray[np.int64]) -> None:
        if self.bias >= 0:
            self.graph.set_constant(own(self.graph, self.op, self.bias_place), values)
            return
        scales = self.graph.quantization(self.weight)
        made = self.graph.add_constant(f"{self.graph.name(self.output)}/bias", values.astype(np.int32))
        if scales is not None:
            self.graph.set_quantization(made, np.float32(self.grid.scale) * scales[0])
        self.op.inputs = [*self.op.inputs[: self.bias_place], made]


class Weighted(Rule):
    """Each output is a sum over all inputs."""

    handles: ClassVar[tuple[str, ...]] = ("CONV_2D", "FULLY_CONNECTED")
    # Whether every output position sums the same weights, but for padding.
    uniform: ClassVar[bool] = True

    def fits(self, units: Units, op: Any) -> bool:
        layer = Layer(units.graph, op)
        if not layer.understood or units.read_elsewhere(layer.weight):
            return False
        columns, channels = width(units.graph, layer.weight), width(units.graph, layer.data)
        # A dense layer flattens what it is given.
        return columns == channels or (units.graph.kind(op) == "FULLY_CONNECTED" and columns % channels == 0)

    def tie(self, units: Units, op: Any) -> None:
        layer = Layer(units.graph, op)
        units.share(layer.weight, units.of(layer.output), _columns(layer, units.of(layer.data)))
        units.open(layer.output)

    def known(self, units: Units, op: Any) -> Known:
        layer = Layer(units.graph, op)
        weights, settled = _matrix(layer), self._settled(units, layer)
        needy = (weights != 0)[..., ~settled.sure].any((1, 2))
        return layer.outputs_of(layer.bias_values + _folded(weights, settled, layer.grid)).where(~needy)

    def mind(self, units: Units, op: Any) -> None:
        layer = Layer(units.graph, op)
        read = _matrix(layer).any((0, 1)) & ~self._settled(units, layer).sure
        units.mind(_columns(layer, units.of(layer.data))[read])

    def cut(self, cut: Cut, op: Any) -> None:
        layer = Layer(cut.graph, op)
        columns = _columns(layer, cut.kept(layer.data))
        leaving = self._settled(cut.units, layer).where(~columns)
        layer.cut(cut, columns, _folded(_matrix(layer), leaving, layer.grid))

    def _settled(self, units: Units, layer: Layer) -> Known:
        """Columns whose input is a constant that can go into the bias."""
        known = Known(*(_columns(layer, part) for part in units.known(layer.data)))
        if not self.uniform or layer.padded:
            return known.where(known.values == layer.grid.zero_point)
        worst = np.abs(layer.bias_values) + _folded(_matrix(layer), known, layer.grid, worst=True)
        if worst.max(initial=0) > layer.bias_limit:
            return known.where(known.values == layer.grid.zero_point)
        return known


class TransposedConvolution(Weighted):
    """TRANSPOSE_CONV: positions differ in the weights that reach them."""

    handles = ("TRANSPOSE_CONV",)
    uniform = False

    def fits(self, units: Units, op: Any) -> bool:
        return units.graph.is_constant(op.inputs[0]) and super().fits(units, op)

    def cut(self, cut: Cut, op: Any) -> None:
        super().cut(cut, op)
        if cut.touches(op.outputs[0]):
            set_last(cut.graph, op, 0, int(cut.kept(op.outputs[0]).sum()))


def _columns(layer: Layer, of_channels: NDArray[Any]) -> NDArray[Any]:
    """What belongs to the data's channels, for each column of the weight."""
    return np.tile(of_channels, width(layer.graph, layer.weight) // of_channels.size)


def _matrix(layer: Layer) -> NDArray[Any]:
    """The weight as `(outputs, taps, columns)`."""
    weights = layer.weights
    return weights.reshape(weights.shape[0], -1, weights.shape[-1])


def _folded(weights: NDArray[Any], known: Known, grid: Grid, worst: bool = False) -> NDArray[np.int64]:
    """What constant inputs add to each sum; the sum of absolute values if `worst`."""
    offsets = np.where(known.sure, known.values - grid.zero_point, 0)
    used = np.flatnonzero(offsets)
    # Exact in float64: far below 2^53.
    sums, factors = weights[..., used].astype(np.float64), offsets[used].astype(np.float64)
    if worst:
        sums, factors = np.abs(sums), np.abs(factors)
    made: NDArray[np.int64] = (sums.sum(1) @ factors).astype(np.int64)
    return made
