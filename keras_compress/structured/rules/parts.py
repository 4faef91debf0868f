"""Operations that take parts of a tensor, or add to it: indexing, splitting, padding, channels to pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_compress.core.registry import register
from keras_compress.structured.channel_ids import Axes, Ids
from keras_compress.structured.rules.rule import Rule, Visit


@register("channel_rule")
class GetItemRule(Rule):
    """`x[:, 0]`, `x[..., None]`: an axis that is taken whole keeps its channels."""

    handles = ("GetItem",)

    def outputs(self, visit: Visit) -> list[Axes]:
        key = visit.argument("key")
        keys = list(key) if isinstance(key, tuple) else [key]
        if not all(k is None or k is Ellipsis or isinstance(k, (int, np.integer, slice)) for k in keys):
            return visit.freeze_all("takes indices from a tensor")
        made: Axes = {}
        old = 0
        for new, each in _steps(keys, len(visit.shape)):
            if each is None:
                continue
            ids = visit.inputs[0].get(old)
            if ids is not None and isinstance(each, slice) and _whole(each, len(ids)):
                made[new] = ids
            else:
                visit.freeze(ids, f"{visit.path} takes some of it by their numbers")
            old += 1
        return [made]


def _steps(keys: list[Any], rank: int) -> list[tuple[int, Any]]:
    """`(axis of the result, key)`, with a key for every axis."""
    given = sum(k is not None and k is not Ellipsis for k in keys)
    rest = [slice(None)] * (rank - given)
    dots = [position for position, k in enumerate(keys) if k is Ellipsis]
    at = dots[0] if dots else len(keys)
    filled = [*keys[:at], *rest, *keys[at + 1 :]]
    steps, new = [], 0
    for each in filled:
        steps.append((new, each))
        new += isinstance(each, slice) or each is None
    return steps


def _whole(part: slice, width: int) -> bool:
    bounds = (part.start, part.stop, part.step)
    if not all(b is None or isinstance(b, (int, np.integer)) for b in bounds):
        return False
    return part.indices(width) == (0, width, 1)


@register("channel_rule")
class SplitRule(Rule):
    """Parts along an axis. Equal parts stay equally wide; others end where their last channel does."""

    handles = ("Split",)

    def outputs(self, visit: Visit) -> list[Axes]:
        operation, count = visit.operation, len(visit.outputs)
        axis = operation.axis % len(visit.shape)
        beside = {each: ids for each, ids in visit.inputs[0].items() if each != axis}
        ids = visit.inputs[0].get(axis)
        if ids is None:
            return [dict(beside) for _ in range(count)]
        if isinstance(operation.indices_or_sections, int):
            visit.record.ids.tie_rows(ids, count)
            parts = np.split(ids, count)
        else:
            ends = operation.indices_or_sections
            for number, end in enumerate(ends):
                visit.setting(("indices_or_sections", number), ids[:end])
            parts = np.split(ids, ends)
            visit.record.parts.extend(parts)
        return [{**beside, axis: part} for part in parts]


@register("channel_rule")
class PadRule(Rule):
    """Values added around positions."""

    handles = ("Pad",)

    def outputs(self, visit: Visit) -> list[Axes]:
        made = dict(visit.inputs[0])
        for axis in visit.inputs[0]:
            if visit.output_shape[axis] != visit.shape[axis]:
                visit.freeze(made.pop(axis), f"{visit.path} pads it")
        return [made]


@register("channel_rule")
class GluRule(Rule):
    """The first half of the channels times a gate for each in the second."""

    handles = ("Glu",)

    def outputs(self, visit: Visit) -> list[Axes]:
        axis = visit.operation.axis % len(visit.shape)
        made = dict(visit.inputs[0])
        if axis in made:
            visit.record.ids.tie_rows(made[axis], 2)
            made[axis] = made[axis][: len(made[axis]) // 2]
        return [made]


@register("channel_rule")
class DepthToSpaceRule(Rule):
    """Each pixel becomes a block of pixels; its channels are those of the pixels in the block, one behind the other."""

    handles = ("DepthToSpace",)

    def outputs(self, visit: Visit) -> list[Axes]:
        ids = _image_channels(visit)
        if ids is None:
            return [{}]
        block = visit.operation.block_size**2
        visit.record.ids.tie_rows(ids, block)
        return [{3: ids[: len(ids) // block]}]


@register("channel_rule")
class SpaceToDepthRule(Rule):
    """Each block of pixels becomes one pixel, with the channels of all."""

    handles = ("SpaceToDepth",)

    def outputs(self, visit: Visit) -> list[Axes]:
        ids = _image_channels(visit)
        return [{} if ids is None else {3: np.tile(ids, visit.operation.block_size**2)}]


def _image_channels(visit: Visit) -> Ids | None:
    if visit.operation.data_format == "channels_first":
        visit.freeze_all("works on channels_first")
        return None
    return visit.only_last("works along it")
