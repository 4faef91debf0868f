"""Operations that give axes another order, add or drop some, or work along one."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_compress.core.registry import register
from keras_compress.structured.channel_ids import Axes
from keras_compress.structured.rules.rule import Rule, Visit


def axes_in(axis: Any, rank: int) -> set[int]:
    """An `axis` argument as non-negative axes; `None` means all.

    >>> axes_in(-1, 3), axes_in(None, 2), axes_in((1, -1), 3)
    ({2}, {0, 1}, {1, 2})
    """
    if axis is None:
        return set(range(rank))
    return {each % rank for each in (axis if isinstance(axis, (list, tuple)) else [axis])}


@register("channel_rule")
class OrderRule(Rule):
    """Axes in another order."""

    handles = ("Permute", "Transpose", "Swapaxes", "Moveaxis")

    def outputs(self, visit: Visit) -> list[Axes]:
        order = _order(visit.operation, len(visit.shape))
        return [{new: visit.inputs[0][old] for new, old in enumerate(order) if old in visit.inputs[0]}]


def _order(operation: Any, rank: int) -> list[int]:
    """For each new axis, the old one."""
    numbers = np.empty(range(1, rank + 1))  # each axis is as long as its number plus one
    if hasattr(operation, "dims"):
        return [0, *operation.dims]
    if hasattr(operation, "axis1"):
        moved = np.swapaxes(numbers, operation.axis1, operation.axis2)
    elif hasattr(operation, "source"):
        moved = np.moveaxis(numbers, operation.source, operation.destination)
    else:
        moved = np.transpose(numbers, operation.axes)
    return [n - 1 for n in moved.shape]


@register("channel_rule")
class ExpandDimsRule(Rule):
    """New axes of length 1."""

    handles = ("ExpandDims",)

    def outputs(self, visit: Visit) -> list[Axes]:
        rank = len(visit.output_shape)
        new = axes_in(visit.operation.axis, rank)
        left = [axis for axis in range(rank) if axis not in new]
        return [{left[axis]: ids for axis, ids in visit.inputs[0].items()}]


@register("channel_rule")
class SqueezeRule(Rule):
    """Axes of length 1 dropped. Where it is not said which, one of channels would be too, once one is left."""

    handles = ("Squeeze",)

    def outputs(self, visit: Visit) -> list[Axes]:
        gone = axes_in(visit.operation.axis, len(visit.shape))
        if visit.operation.axis is None:
            gone = {axis for axis, n in enumerate(visit.shape) if n == 1}
            visit.freeze_axes(0, f"{visit.path} drops all axes of length 1")
        return [dropped(visit, gone, "drops it")]


def dropped(visit: Visit, gone: set[int], why: str) -> Axes:
    """Channel axes of a tensor without some axes, whose channels are frozen."""
    left = [axis for axis in range(len(visit.shape)) if axis not in gone]
    for axis in gone:
        visit.freeze(visit.inputs[0].get(axis), f"{visit.path} {why}")
    return {left.index(axis): ids for axis, ids in visit.inputs[0].items() if axis not in gone}


@register("channel_rule")
class AlongAxisRule(Rule):
    """What mixes the values along an axis, and leaves others alone: a softmax, sums up to each position, an order."""

    handles = (
        *("Softmax", "LogSoftmax", "Sparsemax", "Cumprod", "Cumsum", "Nancumprod", "Nancumsum"),
        *("Argsort", "Normalize", "Roll", "Sort"),
    )

    def outputs(self, visit: Visit) -> list[Axes]:
        if len(visit.tensors) > 1:
            return visit.freeze_all("works along an axis of it under a mask")
        what = "takes a softmax over it" if "max" in type(visit.operation).__name__ else "mixes the values along it"
        for axis in axes_in(visit.operation.axis, len(visit.shape)):
            visit.freeze(visit.inputs[0].get(axis), f"{visit.path} {what}")
        flat = len(visit.output_shape) != len(visit.shape)
        return [{} if flat else dict(visit.inputs[0])]


@register("channel_rule")
class FlipRule(Rule):
    """Axes back to front."""

    handles = ("Flip",)

    def outputs(self, visit: Visit) -> list[Axes]:
        turned = axes_in(visit.operation.axis, len(visit.shape))
        return [{axis: ids[::-1] if axis in turned else ids for axis, ids in visit.inputs[0].items()}]


@register("channel_rule")
class ReductionRule(Rule):
    """One value from all along some axes. Only a sum is the same without channels that are 0."""

    handles = (
        *("All", "Amax", "Amin", "Any", "Argmax", "Argmin", "CountNonzero", "Logsumexp", "Max", "Mean", "Median"),
        *("Min", "Nanmax", "Nanmean", "Nanmin", "Nansum", "Prod", "Ptp", "Std", "Sum", "Var"),
    )

    def outputs(self, visit: Visit) -> list[Axes]:
        operation = visit.operation
        gone = axes_in(operation.axis, len(visit.shape))
        axes = visit.inputs[0]
        for axis in gone & axes.keys():
            if type(operation).__name__ == "Sum":
                visit.read(axis=axis)
            else:
                visit.freeze(axes[axis], f"{visit.path} takes the {type(operation).__name__} over it")
        left = {axis: ids for axis, ids in axes.items() if axis not in gone}
        if getattr(operation, "keepdims", False):
            return [left]
        return [{axis - sum(each < axis for each in gone): ids for axis, ids in left.items()}]


@register("channel_rule")
class RepeatVectorRule(Rule):
    """The same features at every position."""

    handles = ("RepeatVector",)

    def outputs(self, visit: Visit) -> list[Axes]:
        return [{2: visit.inputs[0][1]} if 1 in visit.inputs[0] else {}]


@register("channel_rule")
class RepeatRule(Rule):
    """Each value some times in a row; each channel with its copies."""

    handles = ("Repeat",)

    def outputs(self, visit: Visit) -> list[Axes]:
        times = visit.operation.repeats
        if visit.operation.axis is None or not isinstance(times, (int, np.integer)):
            return visit.freeze_all("repeats values one by one")
        repeated = visit.operation.axis % len(visit.shape)
        return [{axis: np.repeat(ids, times) if axis == repeated else ids for axis, ids in visit.inputs[0].items()}]


@register("channel_rule")
class TileRule(Rule):
    """The whole tensor some times in a row; each channel with its copies."""

    handles = ("Tile",)

    def outputs(self, visit: Visit) -> list[Axes]:
        rank, times = len(visit.output_shape), visit.operation.repeats
        times = list(times) if isinstance(times, (list, tuple)) else [times]
        times = [1] * (rank - len(times)) + times
        axes = {axis + rank - len(visit.shape): ids for axis, ids in visit.inputs[0].items()}
        return [{axis: np.tile(ids, times[axis]) for axis, ids in axes.items()}]


@register("channel_rule")
class BroadcastToRule(Rule):
    """Axes of length 1 repeated; others keep their channels."""

    handles = ("BroadcastTo",)

    def outputs(self, visit: Visit) -> list[Axes]:
        more = len(visit.output_shape) - len(visit.shape)
        made = {axis + more: ids for axis, ids in visit.inputs[0].items() if visit.output_shape[axis + more] != 1}
        made = {axis: ids for axis, ids in made.items() if len(ids) == visit.output_shape[axis]}
        for axis, ids in made.items():
            visit.setting(("shape", axis), ids)
        return [made]
