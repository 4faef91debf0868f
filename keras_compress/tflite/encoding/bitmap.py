"""A bitmap of what is kept, and the kept values: the codec of sparse tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.core.registry import register
from keras_compress.tflite.encoding.codec import (
    HEADER_BYTES,
    Bytes,
    Codec,
    Encoded,
    Form,
    bit_patterns,
    expect_bytes,
    header,
    split,
)


@register("codec", "bitmap")
class Bitmap(Codec):
    """Stores a bit for each value, and the values that differ from the zero point. TFLite-Micro calls this form prune.

    Data is the bitmap, element i at byte `i // 8`, the highest bit first; the ancillary tensor's payload is the kept
    values in the tensor's own type, little-endian. In all `16 + ceil(N / 8) + kept * itemsize` bytes.

    What the kernel does: it writes bool, int8, int16, int32, int64 and float32, the zero point as an int8; types other
    than int8 it refuses unless their (first) zero point is 0. Scales must run along the first or the last axis. With
    several scales on int8 it reads one zero point a channel and keeps them all in the arena, a byte each; here they
    are all `form.zero_point`. A float32 -0.0 is kept: only +0.0 comes back from the bitmap.
    """

    name = "bitmap"
    type_code = 2
    dtypes = ("bool", "int8", "int16", "int32", "int64", "float32")

    def _refusal(self, values: NDArray[Any], form: Form) -> str | None:
        if form.zero_point and form.dtype != "int8":
            return f"the kernel fills {form.dtype} with 0, and its zero point is {form.zero_point}"
        return form.axis_refusal

    def size(self, values: NDArray[Any], form: Form) -> int:
        """See `Codec.size`."""
        self.require(values, form)
        kept = int(np.count_nonzero(bit_patterns(values) != form.zero_point))
        return HEADER_BYTES + _bitmap_bytes(form) + kept * values.itemsize

    def encode(self, values: NDArray[Any], form: Form) -> Encoded:
        """See `Codec.encode`."""
        self.require(values, form)
        patterns = bit_patterns(values)
        kept = patterns != form.zero_point
        payload = patterns[kept].astype(patterns.dtype.newbyteorder("<"))
        return Encoded(self.name, np.packbits(kept), np.concatenate([header(self.type_code), payload.view(np.uint8)]))

    def decode(self, data: Bytes, ancillary: Bytes, form: Form) -> NDArray[Any]:
        """See `Codec.decode`."""
        payload, _ = split(ancillary, self, form)
        if form.zero_point and form.dtype != "int8":
            raise ValueError(f"Expected zero point 0 for a {form.dtype} tensor. Received: {form.zero_point}")
        expect_bytes("bitmap", _bitmap_bytes(form), data.size)
        kept = np.unpackbits(data, count=form.elements).view(bool)
        dtype = np.dtype(form.dtype)
        expect_bytes("kept values", int(np.count_nonzero(kept)) * dtype.itemsize, payload.size)
        patterns = np.full(form.elements, form.zero_point, f"i{dtype.itemsize}")
        patterns[kept] = np.ascontiguousarray(payload).view(f"<i{dtype.itemsize}")
        return patterns.view(dtype).reshape(form.shape)


def _bitmap_bytes(form: Form) -> int:
    return -(-form.elements // 8)
