"""Costs that follow from the bits of weights and activations: bit operations, and bits of a weight on average."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
from keras import tree

from keras_compress.core.budget import Cost
from keras_compress.core.registry import register
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph
from keras_compress.graph.model import slots_in
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.quantizers.kinds import Kind, kind_of
from keras_compress.quantizers.weight_quantizer import WeightQuantizer
from keras_compress.report.macs import positions_by_layer

FLOAT_BITS = 32
# Calls behind which the values still have the bits of the point before them.
_KEEPING = (Kind.SAME, Kind.AVERAGE, Kind.CLAMP, Kind.JOIN)


@dataclass(frozen=True)
class _Source:
    """The point that a tensor's values come from; `None` where they are floats."""

    point: QuantizeActivation | None = None


@register("cost")
class Bops(Cost):
    """Bit operations of one sample: multiply-accumulates times bits of the weight times bits of the input.

    Weights and activations that are not quantized count 32 bits.

    Raises:
        ValueError: For a layer whose multiplications its shapes do not tell.

    **Reference**: Yao et al., "HAWQ-V3: Dyadic neural network quantization" (2021). Baskin et al., "UNIQ" (2021), add
    the bits of the accumulator.
    """

    noun = "bit operations"
    predicted_by = "macs"

    def of(self, model: keras.Model) -> float:
        points, found = input_points(model), 0.0
        for path, layer, macs in macs_of_layers(model):
            point = points.get(path)
            bits = FLOAT_BITS if point is None else point.quantizer.bits
            found += macs * weight_bits(layer) * bits
        return found


@register("cost", "Bits")
class AverageBits(Cost):
    """Bits of a weight, the mean of all weights that can be compressed; 32 where they are not quantized."""

    noun = "bits of a weight"
    figure_name = "average_bits"

    def of(self, model: keras.Model) -> float:
        layers = [(weights_in(layer), weight_bits(layer)) for _, layer in graph.walk(model) if slots_in(layer)]
        return sum(size * bits for size, bits in layers) / max(sum(size for size, _ in layers), 1)


def weights_in(layer: keras.layers.Layer) -> int:
    """How many numbers the compressible weights of a layer are."""
    body = layer.layer if isinstance(layer, Compressed) else layer
    return sum(math.prod(slot.variable(body).shape) for slot in slots_in(layer))


def weight_bits(layer: keras.layers.Layer) -> int:
    """Bits of the weights of a layer, the most of its quantizers; 32 where a weight has none."""
    if not isinstance(layer, Compressed):
        return FLOAT_BITS
    bits = [
        max(
            (each.bits for each in layer.transforms.get(slot.name, ()) if isinstance(each, WeightQuantizer)), default=32
        )
        for slot in slots_in(layer)
    ]
    return max(bits, default=FLOAT_BITS)


def macs_of_layers(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer, int]]:
    """`(path, layer, multiply-accumulates of a sample)` of each layer with compressible weights.

    Raises:
        ValueError: For a layer whose multiplications its shapes do not tell.
    """
    positions = positions_by_layer(model)
    for path, layer in graph.walk(model):
        if not slots_in(layer):
            continue
        count = positions.get(id(layer))
        if count is None:
            raise ValueError(
                "Expected layers whose multiplications their shapes tell (dense, convolutional, recurrent of a known "
                f"length), to count bit operations. Received: {path!r} of {type(layer).__name__}"
            )
        yield path, layer, count * weights_in(layer)


def input_points(model: keras.Model) -> dict[str, QuantizeActivation | None]:
    """Path of a layer with weights -> the point that its input comes from, of its first call; `None` for floats."""
    found: dict[str, QuantizeActivation | None] = {}

    def visit(call: graph.Call) -> Any:
        given = [each for each in tree.flatten((call.args, call.kwargs)) if isinstance(each, _Source)]
        source = given[0] if given else _Source()
        operation = call.operation
        if isinstance(operation, keras.layers.Layer) and slots_in(operation):
            found.setdefault(call.path, source.point)
        if isinstance(operation, QuantizeActivation):
            source = _Source(operation)
        elif kind_of(operation) not in _KEEPING:
            source = _Source()
        return [source] * len(call.node.outputs)

    if graph.is_graph(model):
        graph.Rebuild(visit, flat=True).run(model, [_Source() for _ in model.inputs], "", 0)
    return found
