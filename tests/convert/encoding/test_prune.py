"""Prune, byte by byte."""

from __future__ import annotations

import numpy as np
import pytest

from keras_compress.tflite.encoding.codec import Form
from keras_compress.tflite.encoding.prune import Prune

PRUNE = Prune()


def check(values, form, data, payload):
    encoded = PRUNE.encode(values, form)
    assert encoded.data.tolist() == data
    assert encoded.ancillary.tolist() == [2, 1, 0, 0, 1, *[0] * 11, *payload]
    assert PRUNE.size(values, form) == 16 + len(data) + len(payload)
    assert PRUNE.decode(encoded.data, encoded.ancillary, form).tobytes() == values.tobytes()


def test_bitmap_and_kept_values():
    check(np.int8([0, 5, 0, 0, -1, 0, 0, 0, 7]), Form((9,)), [0b01001000, 0b10000000], [5, 255, 7])


def test_the_zero_point_is_what_is_left_out():
    check(np.int8([3, 0, 3, -1]), Form((4,), zero_point=3), [0b01010000], [0, 255])
    check(np.int8([[3, 0], [3, -1]]), Form((2, 2), "int8", 2, 0, 3), [0b01010000], [0, 255])


def test_nothing_and_everything_kept():
    check(np.zeros(10, np.int8), Form((10,)), [0, 0], [])
    check(np.int8([1, 2]), Form((2,)), [0b11000000], [1, 2])


def test_wide_types_are_little_endian():
    check(np.int16([0, -2]), Form((2,), "int16"), [0b01000000], [0xFE, 0xFF])
    check(np.int32([258, 0]), Form((2,), "int32"), [0b10000000], [2, 1, 0, 0])


def test_minus_zero_is_kept():
    check(np.float32([0.0, -0.0]), Form((2,), "float32", 0), [0b01000000], [0, 0, 0, 0x80])


def test_only_int8_has_another_zero_point_than_0():
    form = Form((2,), "int16", zero_point=3)
    assert "its zero point is 3" in PRUNE.refusal(np.int16([0, 3]), form)
    encoded = PRUNE.encode(np.int16([0, 3]), Form((2,), "int16"))
    with pytest.raises(ValueError, match="zero point 0"):
        PRUNE.decode(encoded.data, encoded.ancillary, form)


def test_a_bit_too_many():
    encoded = PRUNE.encode(np.int8([0, 5, 0]), Form((3,)))
    with pytest.raises(ValueError, match="2 bytes of kept values. Received: 1 bytes"):
        PRUNE.decode(np.uint8([0b01100000]), encoded.ancillary, Form((3,)))
