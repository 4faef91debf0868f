"""Shapes of operators' outputs from those of their inputs, as the kernels compute them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
# Shapes of the inputs, values of those that are constant integers, attributes -> shapes of the outputs.
Infer = Callable[[Sequence[Any], Sequence[Any], Mapping[str, Any]], list[Shape]]


def first(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """That of the first input."""
    return [shapes[0]]


def recurrent(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """States of all steps, of a sequence `(batch, steps, inputs)`."""
    batch, steps, _ = shapes[0]
    return [(batch, steps, settings["units"])]


def broadcast(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """All inputs broadcast."""
    return [tuple(np.broadcast_shapes(*shapes))]


def window(size: int, extent: int, stride: int, padding: str) -> int:
    """Places of a window of `extent` on `size` values."""
    return -(-size // stride) if padding == "SAME" else (size - extent) // stride + 1


def convolution(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """Data NHWC, weights OHWI."""
    (batch, height, width, channels), (outputs, *kernel, taken) = shapes[0], shapes[1]
    if channels % taken or outputs % (channels // taken):
        raise ValueError(f"weights for {taken} channels, on {channels}")
    return [(batch, *_dilated((height, width), kernel, settings), outputs)]


def depthwise(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """Data NHWC, weights 1HWO."""
    (batch, height, width, channels), (_, *kernel, outputs) = shapes[0], shapes[1]
    if channels * settings["depth_multiplier"] != outputs:
        raise ValueError(f"weights for {outputs} outputs, on {channels} channels")
    return [(batch, *_dilated((height, width), kernel, settings), outputs)]


def _dilated(sizes: Sequence[int], kernel: Sequence[int], settings: Mapping[str, Any]) -> Shape:
    factors = settings["dilation_h_factor"], settings["dilation_w_factor"]
    strides = settings["stride_h"], settings["stride_w"]
    return tuple(
        window(size, (extent - 1) * factor + 1, stride, settings["padding"])
        for size, extent, factor, stride in zip(sizes, kernel, factors, strides, strict=True)
    )


def transposed_convolution(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """Output shape, weights OHWI, data, maybe a bias."""
    found = _integers(values[0])
    if found[0] != shapes[2][0] or found[3] != shapes[1][0] or shapes[1][3] != shapes[2][3]:
        raise ValueError(f"output {found}, weights {shapes[1]}, data {shapes[2]}")
    return [found]


def pooling(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """Data NHWC."""
    batch, height, width, channels = shapes[0]
    made = (
        window(height, settings["filter_height"], settings["stride_h"], settings["padding"]),
        window(width, settings["filter_width"], settings["stride_w"], settings["padding"]),
    )
    return [(batch, *made, channels)]


def fully_connected(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """Data of any rank, weights OI."""
    outputs, taken = shapes[1]
    if shapes[0][-1] != taken:
        raise ValueError(f"weights for {taken} inputs, on {shapes[0][-1]}")
    if settings["keep_num_dims"]:
        return [(*shapes[0][:-1], outputs)]
    return [(math.prod(shapes[0]) // taken, outputs)]


def batch_matmul(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """Matrices in the last two axes."""
    one, two = shapes[0], shapes[1]
    rows, inner = (one[-1], one[-2]) if settings["adj_x"] else (one[-2], one[-1])
    other, columns = (two[-1], two[-2]) if settings["adj_y"] else (two[-2], two[-1])
    if inner != other:
        raise ValueError(f"matrices {one} and {two}")
    return [(*np.broadcast_shapes(one[:-2], two[:-2]), rows, columns)]


def concatenation(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """Along one axis."""
    axis = settings["axis"] % len(shapes[0])
    others = {(*s[:axis], *s[axis + 1 :]) for s in shapes}
    if len(others) != 1:
        raise ValueError(f"shapes {list(shapes)}")
    made = list(shapes[0])
    made[axis] = sum(s[axis] for s in shapes)
    return [tuple(made)]


def pack(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """Along a new axis."""
    if len(set(shapes)) != 1:
        raise ValueError(f"shapes {list(shapes)}")
    axis = settings["axis"] % (len(shapes[0]) + 1)
    return [(*shapes[0][:axis], len(shapes), *shapes[0][axis:])]


def unpack(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """An axis taken apart."""
    axis = settings["axis"] % len(shapes[0])
    return [(*shapes[0][:axis], *shapes[0][axis + 1 :])] * settings["num"]


def split(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """Axis, data: equal parts."""
    axis, count = int(np.asarray(values[0]).item()) % len(shapes[1]), settings["num_splits"]
    if shapes[1][axis] % count:
        raise ValueError(f"{count} parts of {shapes[1][axis]}")
    part = shapes[1][axis] // count
    return [(*shapes[1][:axis], part, *shapes[1][axis + 1 :])] * count


def reshape(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """Data, new shape."""
    made = _integers(values[1])
    if math.prod(made) != math.prod(shapes[0]):
        raise ValueError(f"{math.prod(shapes[0])} values as {made}")
    return [made]


def given(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """Data, output shape that it broadcasts to."""
    made = _integers(values[1])
    if np.broadcast_shapes(shapes[0], made) != made:
        raise ValueError(f"{shapes[0]} broadcast to {made}")
    return [made]


def transpose(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """Data, order of its axes."""
    order = _integers(values[1])
    if sorted(order) != list(range(len(shapes[0]))):
        raise ValueError(f"axes {order} of {len(shapes[0])}")
    return [tuple(shapes[0][a] for a in order)]


def pad(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """Data, `(rank, 2)` values before and behind, maybe the value."""
    ends = np.asarray(values[1])
    if ends.shape != (len(shapes[0]), 2) or (ends < 0).any():
        raise ValueError(f"padding {ends.tolist()} of rank {len(shapes[0])}")
    return [tuple(int(n + a + b) for n, (a, b) in zip(shapes[0], ends, strict=True))]


def strided_slice(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """Data, begin, end, strides; one of each for every axis."""
    begin, end, strides = (_integers(v) for v in values[1:4])
    if not len(begin) == len(end) == len(strides) == len(shapes[0]) or 0 in strides:
        raise ValueError(f"{begin}, {end}, {strides} for rank {len(shapes[0])}")
    sizes = []
    for axis, size in enumerate(shapes[0]):
        bit = 1 << axis
        start = None if settings["begin_mask"] & bit else begin[axis]
        stop = None if settings["end_mask"] & bit else end[axis]
        if settings["shrink_axis_mask"] & bit:
            if not -size <= begin[axis] < size:
                raise ValueError(f"place {begin[axis]} of {size}")
            continue
        sizes.append(len(range(size)[slice(start, stop, strides[axis])]))
    return [tuple(sizes)]


def resize(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """Data NHWC, height and width."""
    return [(shapes[0][0], *_integers(values[1]), shapes[0][3])]


def reduction(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """Data, axes."""
    rank = len(shapes[0])
    axes = {a % rank for a in np.asarray(values[1]).reshape(-1).tolist()}
    kept = [1 if a in axes else n for a, n in enumerate(shapes[0]) if settings["keep_dims"] or a not in axes]
    return [tuple(kept)]


def extreme(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """Data, one axis, which goes."""
    return reduction(shapes, values, {"keep_dims": False})


def gather(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """Data, indices along one axis."""
    axis = settings["axis"] % len(shapes[0])
    return [(*shapes[0][:axis], *shapes[1], *shapes[0][axis + 1 :])]


def parametric_relu(shapes: Sequence[Any], values: Sequence[Any], settings: Mapping[str, Any]) -> list[Shape]:
    """Data, slopes that broadcast to it."""
    if tuple(np.broadcast_shapes(*shapes)) != shapes[0]:
        raise ValueError(f"slopes {shapes[1]} for {shapes[0]}")
    return [shapes[0]]


def _integers(values: Any) -> Shape:
    if values is None:
        raise ValueError("an operand is computed that must be constant")
    array: NDArray[Any] = np.asarray(values)
    return tuple(int(v) for v in array.reshape(-1))
