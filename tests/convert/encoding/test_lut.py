"""LUT, byte by byte."""

from __future__ import annotations

import numpy as np
import pytest

from keras_compress.tflite.encoding.codec import Form
from keras_compress.tflite.encoding.lut import Lut

LUT = Lut()


def check(values, form, data, head, payload):
    encoded = LUT.encode(values, form)
    assert encoded.data.tolist() == data
    assert encoded.ancillary.tolist() == [0, 1, 0, 0, 1, *head, *[0] * 9, *payload]
    np.testing.assert_array_equal(LUT.decode(encoded.data, encoded.ancillary, form), values)


def test_one_table_of_two_bits():
    # Indices 1, 0, 1, 2 into (-3, 5, 7).
    check(np.array([5, -3, 5, 7], np.int8), Form((4,)), [0b01000110], [2, 0], [253, 5, 7])


def test_three_bits_cross_bytes():
    check(np.arange(5, dtype=np.int8), Form((5,)), [0b00000101, 0b00111000], [3, 0], [0, 1, 2, 3, 4])


def test_one_distinct_value_takes_a_bit():
    check(np.full(9, -1, np.int8), Form((9,)), [0, 0], [1, 0], [255])


def test_wide_types_are_little_endian():
    check(np.array([300, -2], np.int16), Form((2,), "int16"), [0b10000000], [1, 0], [0xFE, 0xFF, 0x2C, 0x01])
    check(np.array([1, 0], np.int32), Form((2,), "int32", 0), [0b10000000], [1, 0], [0, 0, 0, 0, 1, 0, 0, 0])


def test_floats_keep_their_bits():
    values = np.array([0.0, -0.0, np.nan, 0.0], np.float32)
    encoded = LUT.encode(values, Form((4,), "float32", 0))
    assert encoded.bytes == 16 + 3 * 4 + 1
    assert LUT.decode(encoded.data, encoded.ancillary, Form((4,), "float32", 0)).tobytes() == values.tobytes()


def test_a_table_for_each_channel_where_that_is_smaller():
    rows = np.array([[1, 2] * 4, [4, 3] * 4], np.int8)
    # One bit each instead of two: 16 + 4 + 2 bytes instead of 16 + 4 + 4.
    check(rows, Form((2, 8), "int8", 2, 0), [0b01010101, 0b10101010], [1, 2], [1, 2, 3, 4])
    check(rows.T.copy(), Form((8, 2), "int8", 2, 1), [0b01100110] * 2, [1, 2], [1, 2, 3, 4])
    # Too few values for two tables of the same three.
    check(np.int8([[1, 2, 3], [3, 2, 1]]), Form((2, 3), "int8", 2), [0b00011010, 0b01000000], [2, 0], [1, 2, 3])


def test_more_values_than_a_table_holds():
    values = np.arange(-65, 65).astype(np.int8).repeat(8).reshape(2, 520)
    assert "130 distinct values, and a table holds 128" in LUT.refusal(values, Form((2, 520)))
    with pytest.raises(ValueError, match="130 distinct values"):
        LUT.encode(values, Form((2, 520)))
    per_channel = Form((2, 520), "int8", 2)
    assert LUT.refusal(values, per_channel) is None
    assert LUT.size(values, per_channel) == 16 + 2 * 65 + 1040 * 7 // 8
    assert "65 of them" not in str(LUT.refusal(np.arange(-128, 127).astype(np.int8)[None], Form((1, 255))))
    rows = np.tile(np.arange(-128, 128).astype(np.int8), (2, 1))
    assert "256 distinct values, 256 of them in one channel" in LUT.refusal(rows, Form((2, 256), "int8", 2))


def test_an_index_beyond_the_table():
    encoded = LUT.encode(np.array([5, -3, 5, 7], np.int8), Form((4,)))
    with pytest.raises(ValueError, match="indices below"):
        LUT.decode(np.array([0b01001110], np.uint8), encoded.ancillary, Form((4,)))
    for head in ([0, 0], [8, 0], [2, 129], [2, 2]):
        damaged = encoded.ancillary.copy()
        damaged[5:7] = head
        with pytest.raises(ValueError, match="Expected"):
            LUT.decode(encoded.data, damaged, Form((4,)))
