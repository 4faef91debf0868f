"""Operations on several tensors: element by element, one behind the other, or on a new axis."""

from __future__ import annotations

import numpy as np

from keras_compress.core.registry import register
from keras_compress.structured.channel_ids import Axes, Ids
from keras_compress.structured.rules.rule import Rule, Visit, shape_of


def met_channels(visit: Visit, met: list[Ids | None]) -> Ids | None:
    """What is left of channels that meet: they are tied; `None`, a fixed width, freezes them."""
    channels = [ids for ids in met if ids is not None]
    if not channels:
        return None
    for ids in channels[1:]:
        visit.tie(channels[0], ids)
    if len(channels) < len(met):
        visit.freeze(channels[0], f"{visit.path} joins it to values of fixed width")
    return channels[0]


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
        ids = met_channels(visit, met)
        if ids is not None:
            made[axis] = ids
    return made


@register("channel_rule")
class MergeRule(Rule):
    """Add, multiply and the like, as layers and as Keras operations; ConvNeXt's and Inception's own too."""

    handles = (
        *("Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract", "CustomScaleLayer"),
        *("Arctan2", "BitwiseAnd", "BitwiseLeftShift", "BitwiseOr", "BitwiseRightShift", "BitwiseXor", "Divide"),
        *("DivideNoNan", "Equal", "FloorDivide", "Fmax", "Fmin", "Fmod", "Greater", "GreaterEqual", "Heaviside"),
        *("Hypot", "Isclose", "Ldexp", "Less", "LessEqual", "Logaddexp", "Logaddexp2", "LogicalAnd", "LogicalOr"),
        *("LogicalXor", "Mod", "NotEqual", "Power", "TrueDivide", "Where"),
    )

    def outputs(self, visit: Visit) -> list[Axes]:
        if type(visit.operation).__module__.endswith("ops.numpy") and type(visit.operation).__name__ == "Average":
            return visit.freeze_all("takes a weighted mean over it")
        constants = visit.constants()
        shapes = [tuple(t.shape) for t in visit.tensors] + constants
        return [merged_axes(visit, [*visit.inputs, *({} for _ in constants)], shapes)]


@register("channel_rule")
class ConcatenateRule(Rule):
    """Channels behind channels."""

    handles = ("Concatenate",)

    def outputs(self, visit: Visit) -> list[Axes]:
        axis = visit.operation.axis % len(visit.output_shape)
        parts = [(visit.axes_of(part), shape_of(part)) for part in visit.parts]
        made: Axes = {}
        if any(axis in axes for axes, _ in parts):
            made[axis] = np.concatenate([axes[axis] if axis in axes else visit.fixed(s[axis]) for axes, s in parts])
        made.update(_beside(visit, [axes for axes, _ in parts], but=axis))
        return [made]


@register("channel_rule")
class StackRule(Rule):
    """Tensors of the same shape on a new axis: their channels are tied."""

    handles = ("Stack",)

    def outputs(self, visit: Visit) -> list[Axes]:
        new = visit.operation.axis % len(visit.output_shape)
        joined = _beside(visit, [visit.axes_of(part) for part in visit.parts])
        return [{axis + (axis >= new): ids for axis, ids in joined.items()}]


@register("channel_rule")
class UnstackRule(Rule):
    """A tensor for each index on an axis."""

    handles = ("Unstack",)

    def outputs(self, visit: Visit) -> list[Axes]:
        old = visit.operation.axis % len(visit.shape)
        visit.freeze(visit.inputs[0].get(old), f"{visit.path} takes it apart")
        return [{axis - (axis > old): ids for axis, ids in visit.inputs[0].items() if axis != old}] * len(visit.outputs)


def _beside(visit: Visit, inputs: list[Axes], but: int | None = None) -> Axes:
    """Channel axes of tensors that lie side by side."""
    made: Axes = {}
    for axis in {axis for axes in inputs for axis in axes} - {but}:
        ids = met_channels(visit, [axes.get(axis) for axes in inputs])
        if ids is not None:
            made[axis] = ids
    return made
