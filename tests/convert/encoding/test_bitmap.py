"""The bitmap codec, byte by byte."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
from absl import flags

import keras_compress as kc
from keras_compress.cli.flags import COMMANDS
from keras_compress.tflite.encoding.bitmap import Bitmap
from keras_compress.tflite.encoding.codec import Form
from keras_compress.tflite.storage import EARLIER, STORAGES, current_storage

BITMAP = Bitmap()
X = np.random.default_rng(0).normal(size=(8, 64)).astype("float32")


@pytest.fixture(scope="module")
def sparse():
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])
    kernel = np.random.default_rng(1).normal(size=(64, 64))
    model.layers[0].set_weights([kernel * (np.abs(kernel) > 1.6), np.zeros(64)])
    return model


@pytest.fixture(scope="module")
def sparse_file(sparse):
    return kc.convert(sparse, "tflm", representative_dataset=X).content


def check(values, form, data, payload):
    encoded = BITMAP.encode(values, form)
    assert encoded.data.tolist() == data
    assert encoded.ancillary.tolist() == [2, 1, 0, 0, 1, *[0] * 11, *payload]
    assert BITMAP.size(values, form) == 16 + len(data) + len(payload)
    assert BITMAP.decode(encoded.data, encoded.ancillary, form).tobytes() == values.tobytes()


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
    assert "its zero point is 3" in BITMAP.refusal(np.int16([0, 3]), form)
    encoded = BITMAP.encode(np.int16([0, 3]), Form((2,), "int16"))
    with pytest.raises(ValueError, match="zero point 0"):
        BITMAP.decode(encoded.data, encoded.ancillary, form)


def test_a_bit_too_many():
    encoded = BITMAP.encode(np.int8([0, 5, 0]), Form((3,)))
    with pytest.raises(ValueError, match="2 bytes of kept values. Received: 1 bytes"):
        BITMAP.decode(np.uint8([0b01100000]), encoded.ancillary, Form((3,)))


@pytest.mark.parametrize(
    "call",
    [
        lambda content: kc.compress_tflite(content, "prune"),
        lambda content: kc.Conversion(weights_storage="prune"),
        lambda content: current_storage("prune"),
    ],
)
def test_the_earlier_name_is_warned_of(call, sparse_file):
    with pytest.warns(DeprecationWarning, match="weights_storage='prune' is weights_storage='bitmap' now"):
        found = call(sparse_file)
    expected = {bytes: lambda: kc.compress_tflite(sparse_file, "bitmap"), str: lambda: "bitmap"}
    assert found == expected.get(type(found), lambda: kc.Conversion(weights_storage="bitmap"))()


def test_convert_takes_the_earlier_name(sparse, sparse_file):
    with pytest.warns(DeprecationWarning, match="'bitmap' now"):
        made = kc.convert(sparse, "tflm", representative_dataset=X, weights_storage="prune")
    assert made.storage.wanted == "bitmap"
    assert [weight.storage for weight in kc.inspect_tflite(made.content).weights] == ["bitmap"]


def test_the_command_line_takes_the_earlier_name():
    values = COMMANDS["convert"].flags()
    with pytest.warns(FutureWarning, match="'prune' is 'bitmap' now"):
        values(["convert", "--weights_storage=prune"])
    assert values.weights_storage == "bitmap"
    assert not re.search(r"\bprune\b", values.get_help())
    with pytest.raises(flags.IllegalFlagValueError, match="<auto|int8|int4|int2|lut|bitmap|huffman>"):
        values(["convert", "--weights_storage=zip"])


def test_names_on_the_command_line_are_those_of_the_library():
    parser = COMMANDS["convert"].flags()["weights_storage"].parser
    assert set(parser.enum_values) == set(STORAGES)
    assert parser.earlier == EARLIER
