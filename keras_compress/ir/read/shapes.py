"""Layers and operations that move values: no arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_compress.ir.builder import integers
from keras_compress.ir.graph import Tensor
from keras_compress.ir.read.reader import Reader
from keras_compress.ir.read.table import reads
from keras_compress.ir.read.weighted import reshaped


@reads("Reshape")
def reshape(reader: Reader, operation: Any, inputs: Tensor, *args: Any) -> Any:
    """The layer, whose shape is that of a sample, and the operation, whose shape has the batch."""
    if args:
        return NotImplemented
    if hasattr(operation, "target_shape"):
        return reshaped(reader, inputs, _resolved(inputs, (inputs.shape[0], *operation.target_shape)))
    wanted = operation.newshape
    if any(n is None for n in wanted[1:]):
        return NotImplemented
    first = inputs.shape[0] if wanted[0] is None else wanted[0]
    return reshaped(reader, inputs, _resolved(inputs, (first, *wanted[1:])))


def _resolved(inputs: Tensor, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape with its -1 worked out."""
    return tuple(np.empty(inputs.shape, np.bool_).reshape(shape).shape)


@reads("Flatten")
def flatten(reader: Reader, layer: Any, inputs: Tensor) -> Any:
    """All axes of a sample as one."""
    if layer.data_format == "channels_first":
        return NotImplemented
    return reshaped(reader, inputs, _resolved(inputs, (inputs.shape[0], -1)))


@reads("Permute")
def permute(reader: Reader, layer: Any, inputs: Tensor) -> Any:
    """The layer, which counts axes from 1, the batch left out."""
    return with_order(reader, inputs, (0, *layer.dims))


@reads("Transpose")
def transpose(reader: Reader, operation: Any, inputs: Tensor) -> Any:
    """The operation."""
    rank = len(inputs.shape)
    axes = range(rank)[::-1] if operation.axes is None else [a % rank for a in operation.axes]
    return with_order(reader, inputs, axes)


def with_order(reader: Reader, tensor: Tensor, order: Sequence[int]) -> Tensor:
    """A tensor with its axes in another order; where only axes of length 1 move, a reshape."""
    moved = [a for a in order if tensor.shape[a] != 1]
    if moved == sorted(moved):
        return reshaped(reader, tensor, tuple(tensor.shape[a] for a in order))
    return reader.add("TRANSPOSE", tensor, integers(*order))


@reads("Squeeze")
def squeeze(reader: Reader, operation: Any, inputs: Tensor) -> Any:
    """Without axes of length 1."""
    axis = operation.axis
    axes = [a for a, n in enumerate(inputs.shape) if n == 1] if axis is None else np.atleast_1d(axis).tolist()
    if axis is None and inputs.shape[0] == 1:
        return NotImplemented
    dropped = {a % len(inputs.shape) for a in axes}
    return reshaped(reader, inputs, tuple(n for a, n in enumerate(inputs.shape) if a not in dropped))


@reads("ExpandDims")
def expand_dims(reader: Reader, operation: Any, inputs: Tensor) -> Any:
    """With an axis of length 1."""
    if not isinstance(operation.axis, int):
        return NotImplemented
    axis = operation.axis % (len(inputs.shape) + 1)
    return reshaped(reader, inputs, (*inputs.shape[:axis], 1, *inputs.shape[axis:]))


@reads("ZeroPadding1D", "ZeroPadding2D")
def zero_padding(reader: Reader, layer: Any, inputs: Tensor) -> Any:
    """PAD."""
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        return NotImplemented
    ends = [layer.padding] if len(inputs.shape) == 3 else layer.padding
    return reader.add("PAD", inputs, np.array([(0, 0), *ends, (0, 0)], np.int32))


@reads("Cropping1D", "Cropping2D")
def cropping(reader: Reader, layer: Any, inputs: Tensor) -> Any:
    """A slice."""
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        return NotImplemented
    ends = [layer.cropping] if len(inputs.shape) == 3 else layer.cropping
    slices = [slice(before, inputs.shape[axis] - behind) for axis, (before, behind) in enumerate(ends, 1)]
    return sliced(reader, inputs, [slice(None), *slices, slice(None)])


@reads("GetItem")
def get_item(reader: Reader, operation: Any, inputs: Tensor, key: Any = None, **named: Any) -> Any:
    """Numbers, slices, an ellipsis and new axes."""
    key = named.get("key", key)
    keys = list(key) if isinstance(key, (tuple, list)) else [key]
    if not all(k is None or k is Ellipsis or isinstance(k, int) or _is_plain(k) for k in keys):
        return NotImplemented
    taken = sum(k is not None and k is not Ellipsis for k in keys)
    full = [slice(None)] * (len(inputs.shape) - taken)
    at = next((i for i, k in enumerate(keys) if k is Ellipsis), None)
    keys = [*keys, *full] if at is None else [*keys[:at], *full, *keys[at + 1 :]]
    made = sliced(reader, inputs, [k for k in keys if k is not None])
    kept = [k for k in keys if k is None or isinstance(k, slice)]
    sizes = iter(made.shape)
    return reshaped(reader, made, tuple(1 if k is None else next(sizes) for k in kept))


def _is_plain(key: Any) -> bool:
    return isinstance(key, slice) and all(n is None or isinstance(n, int) for n in (key.start, key.stop, key.step))


def sliced(reader: Reader, tensor: Tensor, keys: Sequence[int | slice]) -> Tensor:
    """STRIDED_SLICE by a number or slice for each axis; the tensor itself where all of it is taken."""
    if all(isinstance(k, slice) and range(n)[k] == range(n) for k, n in zip(keys, tensor.shape, strict=True)):
        return tensor
    spans: list[tuple[int, int, int]] = []
    shrunk = open_end = 0
    for axis, (key, size) in enumerate(zip(keys, tensor.shape, strict=True)):
        if isinstance(key, slice):
            places = range(size)[key]
            # Backwards to the first place: an end of -1 would be the last one.
            open_end |= (1 << axis) if places.stop < 0 else 0
            spans.append((places.start, places.stop, places.step))
        else:
            place = key % size
            spans.append((place, place + 1, 1))
            shrunk |= 1 << axis
    operands = [integers(*column) for column in zip(*spans, strict=True)]
    return reader.add("STRIDED_SLICE", tensor, *operands, shrink_axis_mask=shrunk, end_mask=open_end)


@reads("Flip")
def flip(reader: Reader, operation: Any, inputs: Tensor) -> Any:
    """One axis in the other order: REVERSE_V2."""
    if not isinstance(operation.axis, int):
        return NotImplemented
    return reader.add("REVERSE_V2", inputs, integers(operation.axis % len(inputs.shape)))


@reads("Split")
def split(reader: Reader, operation: Any, inputs: Tensor) -> Any:
    """Equal parts by SPLIT, others by slices."""
    axis, parts = operation.axis % len(inputs.shape), operation.indices_or_sections
    size = inputs.shape[axis]
    if isinstance(parts, int):
        return reader.build.add_many("SPLIT", np.array(axis, np.int32), inputs, num_splits=parts)
    ends = [0, *[int(p) for p in parts], size]
    whole = [slice(None)] * len(inputs.shape)
    return [
        sliced(reader, inputs, [*whole[:axis], slice(a, b), *whole[axis + 1 :]])
        for a, b in zip(ends[:-1], ends[1:], strict=True)
    ]


@reads("Unstack")
def unstack(reader: Reader, operation: Any, inputs: Tensor) -> Any:
    """An axis taken apart."""
    axis = operation.axis % len(inputs.shape)
    return reader.build.add_many("UNPACK", inputs, axis=axis, num=inputs.shape[axis])


@reads("Concatenate")
def concatenate(reader: Reader, operation: Any, inputs: Any) -> Any:
    """The layer and the operation."""
    if not all(isinstance(t, Tensor) for t in inputs):
        return NotImplemented
    axis = 0 if operation.axis is None else operation.axis % len(inputs[0].shape)
    return inputs[0] if len(inputs) == 1 else reader.add("CONCATENATION", *inputs, axis=axis)


@reads("Stack")
def stack(reader: Reader, operation: Any, inputs: Any) -> Any:
    """PACK."""
    if not all(isinstance(t, Tensor) for t in inputs):
        return NotImplemented
    axis = operation.axis % (len(inputs[0].shape) + 1)
    return reader.add("PACK", *inputs, axis=axis, values_count=len(inputs))


@reads("PerSample")
def per_sample(reader: Reader, layer: Any, inputs: Tensor) -> Any:
    """The same values for each sample: a constant."""
    values = np.asarray(layer.values, np.float32)
    return reader.build.constant(np.broadcast_to(values, (inputs.shape[0], *values.shape)).copy())
