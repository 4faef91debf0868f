"""Operations that move values: pooling, padding, resizing, flattening, reshaping, permuting."""

from __future__ import annotations

import numpy as np

from keras_compress.core.registry import register
from keras_compress.structured.channel_ids import Axes, Ids
from keras_compress.structured.rules.rule import Rule, Shape, Visit


@register("channel_rule")
class SpatialRule(Rule):
    """What works on the axes between the batch and the channels."""

    handles = (
        *("MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "AveragePooling1D", "AveragePooling2D", "AveragePooling3D"),
        *("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D"),
        *("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D"),
        *("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D", "Cropping1D", "Cropping2D", "Cropping3D"),
        *("UpSampling1D", "UpSampling2D", "UpSampling3D", "Resizing"),
    )

    def outputs(self, visit: Visit) -> list[Axes]:
        last = visit.only_last("works along it")
        return [{} if last is None else {len(visit.output_shape) - 1: last}]


@register("channel_rule")
class FlattenRule(Rule):
    """`(positions..., channels) -> (positions * channels)`."""

    handles = ("Flatten",)

    def outputs(self, visit: Visit) -> list[Axes]:
        return [reshaped(visit)]


@register("channel_rule")
class ReshapeRule(Rule):
    """As far as channels stay together: see `reshaped`."""

    handles = ("Reshape",)

    def outputs(self, visit: Visit) -> list[Axes]:
        made = reshaped(visit)
        operation = visit.operation
        is_layer = hasattr(operation, "target_shape")
        for axis, ids in made.items():
            visit.setting(("target_shape", axis - 1) if is_layer else ("newshape", axis), ids)
        return [made]


@register("channel_rule")
class PermuteRule(Rule):
    """Axes in another order."""

    handles = ("Permute",)

    def outputs(self, visit: Visit) -> list[Axes]:
        order = (0, *visit.operation.dims)
        return [{new: visit.inputs[0][old] for new, old in enumerate(order) if old in visit.inputs[0]}]


def reshaped(visit: Visit) -> Axes:
    """Channel axes after a reshape, which is taken apart into the smallest blocks of axes of equal size.

    In a block, an axis that stays whole keeps its channels; several that become one are laid out one behind the other;
    one that is split carries its channels on the last of the new axes, the same ones in every row. Whatever else
    happens to channels freezes them.
    """
    made: Axes = {}
    for old, new in blocks(visit.shape, visit.output_shape):
        channels = {axis: ids for axis, ids in visit.inputs[0].items() if axis in old}
        if not channels:
            continue
        wide = [axis for axis in new if visit.output_shape[axis] != 1] or new[-1:]
        axis = max(channels)
        for other in channels.keys() - {axis}:
            visit.freeze(channels[other], f"{visit.path} mixes it with other channels")
        ids = _laid_out(channels[axis], [visit.shape[each] or 1 for each in old], old.index(axis))
        if len(wide) == 1:
            made[wide[0]] = ids
        elif len([each for each in old if visit.shape[each] != 1]) == 1:
            width = int(visit.output_shape[wide[-1]] or 1)
            visit.record.ids.tie_rows(ids, len(ids) // width)
            made[wide[-1]] = ids[:width]
        else:
            visit.freeze(ids, f"{visit.path} reshapes it together with other axes")
    return made


def _laid_out(ids: Ids, shape: list[int], axis: int) -> Ids:
    """Ids of all the values in a block of axes, flat, of which one axis has the channels."""
    around = [len(ids) if each == axis else 1 for each in range(len(shape))]
    return np.broadcast_to(ids.reshape(around), shape).ravel()


def blocks(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Axes before and after a reshape, in the smallest blocks of equal size, without the batch.

    >>> blocks((None, 4, 4, 8), (None, 16, 2, 4))
    [([1, 2], [1]), ([3], [2, 3])]
    """
    made: list[tuple[list[int], list[int]]] = []
    first, second = 1, 1
    while first < len(old) or second < len(new):
        left: list[int] = []
        right: list[int] = []
        sizes = [1, 1]
        while not (left or right) or sizes[0] != sizes[1]:
            if (sizes[0] <= sizes[1] and first < len(old)) or second >= len(new):
                left, sizes[0], first = [*left, first], sizes[0] * (old[first] or 1), first + 1
            else:
                right, sizes[1], second = [*right, second], sizes[1] * (new[second] or 1), second + 1
        while first < len(old) and old[first] == 1:
            left, first = [*left, first], first + 1
        while second < len(new) and new[second] == 1:
            right, second = [*right, second], second + 1
        made.append((left, right))
    return made
