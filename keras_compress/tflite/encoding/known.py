"""Which codecs there are, and reading what one of them wrote."""

from __future__ import annotations

import functools
import math
from typing import Any

from numpy.typing import NDArray

from keras_compress.core.registry import entries
from keras_compress.tflite.encoding.codec import HEADER_BYTES, Bytes, Codec, Form

# TFLite-Micro's name of the operator.
DECODE = "TFLM_DECODE"
# No codec stores a value in less than a bit, so a tensor of more values than its stream has bits is a lie.
_MOST_VALUES_IN_A_BYTE = 8


@functools.cache
def codecs() -> dict[str, Codec]:
    """Name -> codec."""
    return {name: made() for name, made in entries("codec").items()}


def sizes(values: NDArray[Any], form: Form) -> dict[str, int]:
    """Codec -> bytes that it would store, for the codecs that can hold the values."""
    return {name: codec.size(values, form) for name, codec in codecs().items() if codec.refusal(values, form) is None}


def codec_of(ancillary: Bytes) -> Codec:
    """The codec that an ancillary tensor names.

    Raises:
        ValueError: If there is none of that number.
    """
    code = int(ancillary[0]) if ancillary.size >= HEADER_BYTES else None
    for codec in codecs().values():
        if codec.type_code == code:
            return codec
    raise ValueError(f"Expected a codec out of {sorted(codecs())}. Received: an ancillary tensor of type {code}")


def decoded(data: Bytes, ancillary: Bytes, form: Form) -> NDArray[Any]:
    """The values, whatever codec stored them.

    Raises:
        ValueError: For tables or a stream that are damaged, or a shape that they cannot hold.
    """
    elements = math.prod(form.shape)
    if min(form.shape, default=1) < 1 or elements > _MOST_VALUES_IN_A_BYTE * data.size:
        raise ValueError(f"Expected a shape for {data.size} encoded bytes. Received: {form.shape}")
    return codec_of(ancillary).decode(data, ancillary, form)
