"""Integers of weights that belong to a layer which is being expanded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_compress.core.frozen import FrozenGrid
from keras_compress.core.slots import Slot
from keras_compress.core.transform import IntegerWeight, check_order
from keras_compress.core.wrapper import Compressed
from keras_compress.graph.model import inner, slots_in
from keras_compress.quantizers.uniform import UniformQuantizer
from keras_compress.quantizers.weight_quantizer import WeightQuantizer

Array = NDArray[Any]


class Owners:
    """Which wrapper transforms a variable, for variables anywhere inside wrapped layers."""

    def __init__(self) -> None:
        self._owners: dict[int, tuple[Compressed, Slot]] = {}
        self._found: dict[int, IntegerWeight] = {}

    def add(self, wrapper: Compressed) -> None:
        """Remember the slots of a wrapper."""
        for slot in slots_in(wrapper):
            self._owners[id(slot.variable(wrapper.layer))] = (wrapper, slot)

    def knows(self, variable: keras.Variable) -> bool:
        """Whether a wrapper holds transforms for `variable`."""
        return id(variable) in self._owners

    def values(self, layer: keras.layers.Layer) -> list[tuple[keras.Variable, Any]]:
        """What the layer sees in place of those of its variables that a wrapper transforms."""
        known = [v for v in layer.variables if self.knows(v)]
        return [(v, ops.convert_to_tensor(self.integers(v, ()).floats())) for v in known]

    def integers(self, variable: keras.Variable, channel_axes: tuple[int, ...]) -> IntegerWeight:
        """The integers of a variable; `channel_axes` count where no wrapper knows it."""
        if id(variable) not in self._found:
            owner = self._owners.get(id(variable))
            found = (
                default_integers(variable, channel_axes) if owner is None else integer_weight(owner[0], owner[1].name)
            )
            self._found[id(variable)] = found
        return self._found[id(variable)]

    def real(self, variable: keras.Variable) -> Array | None:
        """The variable as its layer sees it; `None` where a transform puts it on a grid of its own."""
        if id(variable) not in self._owners:
            return np.asarray(variable, np.float32)
        wrapper, slot = self._owners[id(variable)]
        transforms = wrapper.transforms.get(slot.name, [])
        if any("grid" in each.promises or isinstance(each, WeightQuantizer) for each in transforms):
            return None
        return np.asarray(wrapper.weight(slot.name) if transforms else variable, np.float32)


def default_integers(weight: Any, channel_axes: tuple[int, ...], promises: Any = frozenset()) -> IntegerWeight:
    """8 bits, symmetric, one scale for each channel (or for the codebook that was promised)."""
    quantizer = UniformQuantizer(8)
    quantizer.prepare(weight.shape, channel_axes, promises)
    found = quantizer.integer_weight(weight)
    if found is None:
        raise ValueError("Expected 8 bits to fit int8. Received: no integers")
    return found


def integer_weight(layer: keras.layers.Layer, slot_name: str) -> IntegerWeight:
    """The weight as integers: by the layer's own quantizer, or else by 8 bits, symmetric.

    Raises:
        ValueError: If the transforms give values that are not on their own grid.
    """
    slot = next(s for s in slots_in(layer) if s.name == slot_name)
    wrapper = layer if isinstance(layer, Compressed) else None
    transforms = wrapper.transforms.get(slot_name, []) if wrapper else []
    last = transforms[-1] if transforms else None
    if wrapper is not None and last is not None and "grid" in last.promises:
        try:
            found = last.integer_weight(wrapper.weight(slot_name, stop_before=last))
        except ValueError as error:
            raise ValueError(f"{error}, in layer {layer.name!r}") from error
        if found is None:
            raise ValueError(
                f"Expected a quantizer with an integer grid. Received: {type(last).__name__} in {layer.name!r}"
            )
        return found
    if isinstance(last, WeightQuantizer):
        raise ValueError(
            f"Expected integers times a scale. Received: {type(last).__name__} at {layer.name!r}: "
            f"{last.float_only or 'its levels are real numbers'}. Convert with mode='float32' or 'float16'"
            + ("." if last.float_only else ", or quantize with `grid='int8'` behind it.")
        )
    if wrapper is None:
        return default_integers(slot.variable(layer), slot.channel_axes)
    weight = wrapper.weight(slot_name) if transforms else slot.variable(wrapper.layer)
    return default_integers(weight, slot.channel_axes, check_order(transforms))


def bias_of(layer: keras.layers.Layer) -> NDArray[np.float64]:
    """The bias of a layer with weights, wrapped or not; zeros where it has none."""
    body = inner(layer)
    if getattr(body, "bias", None) is not None:
        return np.asarray(body.bias, np.float64)
    slot = slots_in(layer)[0]
    shape = slot.variable(body).shape
    return np.zeros(int(np.prod([shape[a] for a in slot.channel_axes])))


def arranged(weight: IntegerWeight, arrange: Callable[[Array], Array]) -> IntegerWeight:
    """The same integers in another layout: sliced, transposed or reshaped; the output channels last.

    Raises:
        ValueError: If the scale is not one number for each index of the new last axis.
    """
    integers = arrange(weight.integers)
    if weight.scale.size == 1:
        return IntegerWeight(integers, weight.scale.reshape([1] * integers.ndim), weight.bits)
    scale = arrange(np.broadcast_to(weight.scale, weight.integers.shape)).reshape(-1, integers.shape[-1])
    if not (scale == scale[:1]).all():
        raise ValueError(f"Expected one scale for each output channel. Received: scales of shape {weight.scale.shape}")
    return IntegerWeight(integers, scale[0].reshape([1] * (integers.ndim - 1) + [-1]), weight.bits)


def scaled(weight: IntegerWeight, factor: float) -> IntegerWeight:
    """The weight times a positive number: the same integers."""
    return IntegerWeight(weight.integers, (weight.scale * np.float32(factor)).astype(np.float32), weight.bits)


def frozen(layer: keras.layers.Layer, weight: IntegerWeight) -> Compressed:
    """A built layer with one slot, wrapped so that it has exactly these integers."""
    slot = slots_in(layer)[0]
    slot.variable(layer).assign(weight.floats())
    return Compressed(layer, {slot.name: [FrozenGrid.of(weight)]})
