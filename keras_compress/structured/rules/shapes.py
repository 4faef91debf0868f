"""Operations on positions, and those that lay values out anew: flattening, reshaping."""

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
        *("AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D", "AdaptiveAveragePooling3D"),
        *("AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D", "AdaptiveMaxPooling3D"),
        # Keras operations.
        *("AdaptiveAveragePool", "AdaptiveMaxPool", "AveragePool", "CropImages", "MaxPool", "PadImages", "Resize"),
    )

    def outputs(self, visit: Visit) -> list[Axes]:
        if getattr(visit.operation, "data_format", None) == "channels_first":
            return visit.freeze_all("works on channels_first")
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
            if is_layer:
                visit.setting(("target_shape", axis - 1), ids)
            elif not isinstance(operation.newshape, int):
                visit.setting(("newshape", axis), ids)
        return [made]


def reshaped(visit: Visit) -> Axes:
    """Channel axes after a reshape, which is taken apart into the smallest blocks of axes of equal size.

    In a block, an axis that stays whole keeps its channels; several that become one are laid out one behind the other;
    one that is split carries its channels on the last of the new axes, the same ones in every row. Whatever else
    happens to channels freezes them, and so does a shape that is not known.
    """
    parts = blocks(visit.shape, visit.output_shape)
    if parts is None:
        visit.freeze_all("reshapes it to a shape that is not known")
        return {}
    made: Axes = {}
    for old, new in parts:
        channels = {axis: ids for axis, ids in visit.inputs[0].items() if axis in old}
        if channels:
            _reshape_block(visit, old, new, channels, made)
    return made


def _reshape_block(visit: Visit, old: list[int], new: list[int], channels: Axes, made: Axes) -> None:
    wide = [axis for axis in new if visit.output_shape[axis] != 1] or new[-1:]
    axis = max(channels)
    for other in channels.keys() - {axis}:
        visit.freeze(channels[other], f"{visit.path} mixes it with other channels")
    around = [visit.shape[each] for each in old]
    if None in around and len([n for n in around if n != 1]) > 1:
        visit.freeze(channels[axis], f"{visit.path} reshapes it together with an axis of unknown length")
        return
    ids = _laid_out(channels[axis], [n or 1 for n in around], old.index(axis))
    if len(wide) == 1:
        made[wide[0]] = ids
    elif len([n for n in around if n != 1]) == 1:
        width = int(visit.output_shape[wide[-1]] or 1)
        visit.record.ids.tie_rows(ids, len(ids) // width)
        made[wide[-1]] = ids[:width]
    else:
        visit.freeze(ids, f"{visit.path} reshapes it together with other axes")


def _laid_out(ids: Ids, shape: list[int], axis: int) -> Ids:
    """Ids of all the values in a block of axes, flat, of which one axis has the channels."""
    around = [len(ids) if each == axis else 1 for each in range(len(shape))]
    return np.broadcast_to(ids.reshape(around), shape).ravel()


def blocks(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]] | None:
    """Axes before and after a reshape, in the smallest blocks of equal size, without the batch.

    `None` where that is not known: the batch changes, or a length that is not known is not the only one.

    >>> blocks((None, 4, 4, 8), (None, 16, 2, 4))
    [([1, 2], [1]), ([3], [2, 3])]
    >>> blocks((None, None, 8), (None, None, 2, 4))
    [([1], [1]), ([2], [2, 3])]
    >>> blocks((None, None, 8), (None, 8)) is None
    True
    """
    before, after = [_size(n) for n in old], [_size(n) for n in new]
    if not new or before[0] != after[0] or np.prod(before, dtype=object) != np.prod(after, dtype=object):
        return None
    if max(old[1:].count(None), new[1:].count(None)) > 1:
        return None
    pairs: list[tuple[list[int], list[int]]] = []
    first, second = 1, 1
    while first < len(old) or second < len(new):
        left: list[int] = []
        right: list[int] = []
        sizes = [1, 1]
        while not (left or right) or sizes[0] != sizes[1]:
            if (sizes[0] <= sizes[1] and first < len(old)) or second >= len(new):
                left, sizes[0], first = [*left, first], sizes[0] * before[first], first + 1
            else:
                right, sizes[1], second = [*right, second], sizes[1] * after[second], second + 1
        while first < len(old) and old[first] == 1:
            left, first = [*left, first], first + 1
        while second < len(new) and new[second] == 1:
            right, second = [*right, second], second + 1
        pairs.append((left, right))
    return pairs


def _size(length: int | None) -> int:
    """A length, or for one that is not known a prime that no other length is a multiple of."""
    return 2**61 - 1 if length is None else int(length)
