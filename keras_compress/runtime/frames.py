"""The wire format between a caller and its child process.

A frame is `b"KCW1"`, the length of a JSON header (uint32, little-endian), the header, and the raw bytes of
the arrays that the header's `arrays` describes. No object is ever unpickled on either side.
"""

import json
import math
import struct
from collections.abc import Sequence
from io import FileIO
from typing import Any

import numpy as np

Header = dict[str, Any]
Array = np.ndarray[Any, Any]

MAGIC = b"KCW1"
MAX_HEADER_BYTES = 1 << 26
# Number kinds a frame may hold: never objects.
NUMBER_KINDS = "biufc"


class FrameError(RuntimeError):
    """The stream does not follow the protocol: the other side is gone or broken."""


def write_frame(stream: FileIO, header: Header, arrays: Sequence[Array] = ()) -> None:
    """Writes one frame; `stream` is unbuffered."""
    arrays = [np.asarray(array, order="C") for array in arrays]
    described = [{"dtype": array.dtype.str, "shape": list(array.shape)} for array in arrays]
    text = json.dumps({**header, "arrays": described}).encode()
    _write_all(stream, MAGIC + struct.pack("<I", len(text)) + text)
    for array in arrays:
        _write_all(stream, array.reshape(-1).view(np.uint8).data)


def read_frame(stream: FileIO, limit_bytes: int = 1 << 40) -> tuple[Header, list[Array]]:
    """Reads one frame of at most `limit_bytes` of arrays. Raises FrameError on anything else."""
    start = _read_exactly(stream, 8)
    (size,) = struct.unpack("<I", start[4:])
    if bytes(start[:4]) != MAGIC or size > MAX_HEADER_BYTES:
        raise FrameError(f"Expected a frame. Received: {bytes(start)!r}")
    try:
        header = json.loads(bytes(_read_exactly(stream, size)))
        layout = [(_plain_dtype(a["dtype"]), tuple(int(n) for n in a["shape"])) for a in header["arrays"]]
    except (ValueError, TypeError, KeyError) as error:
        raise FrameError(f"Expected a frame header. Received: {error}") from error
    arrays = []
    for dtype, shape in layout:
        count = math.prod(shape) * dtype.itemsize
        limit_bytes -= count
        if count < 0 or min(shape, default=0) < 0 or limit_bytes < 0:
            raise FrameError(f"Expected arrays within the limit. Received: shape={shape}")
        arrays.append(np.frombuffer(_read_exactly(stream, count), dtype).reshape(shape))
    return header, arrays


def _plain_dtype(text: str) -> np.dtype[Any]:
    dtype = np.dtype(text)
    if dtype.kind not in NUMBER_KINDS:
        raise ValueError(f"Expected a number type. Received: {text}")
    return dtype


def _write_all(stream: FileIO, data: Any) -> None:
    view = memoryview(data)
    while len(view):
        view = view[stream.write(view) :]


def _read_exactly(stream: FileIO, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while len(view):
        count = stream.readinto(view)
        if not count:
            raise FrameError("Expected more bytes. Received: end of stream")
        view = view[count:]
    return data
