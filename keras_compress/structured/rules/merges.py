"""Operations on several tensors: element by element, or one behind the other."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_compress.core.registry import register
from keras_compress.structured.channel_ids import Axes, Ids
from keras_compress.structured.rules.rule import Rule, Visit


def merged_axes(visit: Visit, inputs: list[Axes], shapes: list[tuple[int | None, ...]]) -> Axes:
    """Channel axes of what comes out of an element-by-element operation, with the last axes aligned.

    Channels that meet are tied; an axis of length 1 is repeated and says nothing; where a tensor of full, fixed width
    takes part, channels have to stay.
    """
    rank = len(visit.output_shape)
    made: Axes = {}
    for axis, width in enumerate(visit.output_shape):
        met = [
            axes.get(axis - rank + len(shape))
            for axes, shape in zip(inputs, shapes, strict=True)
            if axis - rank + len(shape) >= 0 and shape[axis - rank + len(shape)] == width
        ]
        channels = [ids for ids in met if ids is not None]
        if not channels:
            continue
        for ids in channels[1:]:
            visit.tie(channels[0], ids)
        if len(channels) < len(met):
            visit.freeze(channels[0], f"{visit.path} joins it to values of fixed width")
        made[axis] = channels[0]
    return made


def _constants(visit: Visit) -> list[tuple[int, ...]]:
    """Shapes of arrays among the arguments."""
    others = [a for a in (*visit.arguments, *visit.keywords.values()) if not any(a is t for t in visit.tensors)]
    return [np.shape(a) for a in others if isinstance(a, np.ndarray) or hasattr(a, "numpy")]


@register("channel_rule")
class MergeRule(Rule):
    """Add, multiply and the like, as layers and as Keras operations; ConvNeXt's and Inception's own too."""

    handles = (
        *("Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract", "CustomScaleLayer"),
        *("Divide", "TrueDivide", "Power"),
    )

    def outputs(self, visit: Visit) -> list[Axes]:
        constants = _constants(visit)
        shapes = [tuple(t.shape) for t in visit.tensors] + constants
        return [merged_axes(visit, [*visit.inputs, *({} for _ in constants)], shapes)]


@register("channel_rule")
class ConcatenateRule(Rule):
    """Channels behind channels."""

    handles = ("Concatenate",)

    def outputs(self, visit: Visit) -> list[Axes]:
        axis = visit.operation.axis % len(visit.output_shape)
        made: Axes = {}
        if any(axis in axes for axes in visit.inputs):
            made[axis] = np.concatenate(
                [
                    self._along(visit, axes, tensor, axis)
                    for axes, tensor in zip(visit.inputs, visit.tensors, strict=True)
                ]
            )
        for other in {a for axes in visit.inputs for a in axes} - {axis}:
            made[other] = self._beside(visit, other)
        return [made]

    def _along(self, visit: Visit, axes: Axes, tensor: Any, axis: int) -> Ids:
        return axes[axis] if axis in axes else visit.fixed(int(tensor.shape[axis]))

    def _beside(self, visit: Visit, axis: int) -> Ids:
        met = [axes[axis] for axes in visit.inputs if axis in axes]
        for ids in met[1:]:
            visit.tie(met[0], ids)
        if len(met) < len(visit.inputs):
            visit.freeze(met[0], f"{visit.path} joins it to values of fixed width")
        return met[0]
