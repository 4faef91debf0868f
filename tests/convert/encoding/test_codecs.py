"""What holds for every codec: the values come back, the size is known before, damage is refused."""

from __future__ import annotations

import numpy as np
import pytest

from keras_compress.tflite.encoding.codec import Form
from keras_compress.tflite.encoding.known import codecs

NAMES = ("bitmap", "huffman", "lut")


def geometric(shape, dtype, most=9, seed=0):
    """Values from -1 to `most - 1`, the small ones far more often."""
    rng = np.random.default_rng(seed)
    return (rng.geometric(0.45, shape).clip(1, most + 1) - 2).astype(dtype)


def forms(shape, dtype):
    yield Form(shape, dtype, 0)
    yield Form(shape, dtype)
    if shape[0] > 1:
        yield Form(shape, dtype, shape[0])
    if shape[-1] > 1:
        yield Form(shape, dtype, shape[-1], len(shape) - 1)


def test_there_are_three():
    assert sorted(codecs()) == list(NAMES)


@pytest.mark.parametrize("dtype", ["bool", "int8", "int16", "int32", "int64", "float32"])
@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3), (5, 3, 3, 4), (1, 3, 3, 11)])
@pytest.mark.parametrize("name", NAMES)
def test_round_trip_and_size(name, shape, dtype):
    codec = codecs()[name]
    for form in forms(shape, dtype):
        for most in (0, 1, 4, 60):
            values = geometric(shape, dtype, most)
            if dtype not in codec.dtypes:
                assert dtype in codec.refusal(values, form)
                continue
            encoded = codec.encode(values, form)
            back = codec.decode(encoded.data, encoded.ancillary, form)
            assert back.dtype == values.dtype
            np.testing.assert_array_equal(back, values)
            assert codec.size(values, form) == encoded.bytes
            assert encoded.ancillary[0] == codec.type_code


@pytest.mark.parametrize("name", NAMES)
def test_what_no_codec_stores(name):
    codec, values = codecs()[name], geometric((4, 5), "int8")
    empty = np.zeros((0, 3), np.int8)
    assert "empty" in codec.refusal(empty, Form((0, 3)))
    assert "uint8" in codec.refusal(values.astype(np.uint8), Form((4, 5), "uint8"))
    assert "(4, 5)" in codec.refusal(values, Form((5, 4)))
    for call in (codec.size, codec.encode):
        with pytest.raises(ValueError, match="empty"):
            call(empty, Form((0, 3)))


@pytest.mark.parametrize("name", ["lut", "bitmap"])
@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (Form((4, 5, 6), "int8", 5, 1), "not first, not last"),
        (Form((4, 5, 6), "int8", 3, 0), "3 scales for 4 channels"),
        (Form((4, 5, 6), "int8", 1, 2), "must be 0"),
    ],
)
def test_scales_along_an_axis_that_the_kernel_does_not_know(name, form, reason):
    values = geometric(form.shape, "int8")
    assert reason in codecs()[name].refusal(values, form)
    assert codecs()["huffman"].refusal(values, form) is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale_count", [1, 12])
def test_damage_is_refused_or_gives_other_values_of_the_same_shape(name, scale_count):
    codec, form = codecs()[name], Form((12, 25), "int8", scale_count)
    values = geometric(form.shape, "int8", 20)
    encoded, rng = codec.encode(values, form), np.random.default_rng(5)
    refusals, other = [], 0
    for _ in range(150):
        data, ancillary = encoded.data.copy(), encoded.ancillary.copy()
        for _ in range(rng.integers(1, 4)):
            damaged = data if rng.random() < 0.5 else ancillary
            damaged[rng.integers(damaged.size)] ^= rng.integers(1, 256)
        if rng.random() < 0.2:
            data = data[: rng.integers(data.size)]
        try:
            back = codec.decode(data, ancillary, form)
        except ValueError as error:
            refusals.append(str(error))
        else:
            assert back.shape == form.shape
            assert back.dtype == np.int8
            other += not np.array_equal(back, values)
    assert len(refusals) > 20
    assert all(refusal.startswith("Expected") for refusal in refusals)
    assert other > 5


@pytest.mark.parametrize("name", NAMES)
def test_wrong_header_length_and_shape(name):
    codec, form = codecs()[name], Form((3, 11))
    encoded = codec.encode(geometric((3, 11), "int8"), form)
    for byte in (0, 1, 2, 4, 9, 15):
        damaged = encoded.ancillary.copy()
        damaged[byte] ^= 64
        with pytest.raises(ValueError, match="begins with"):
            codec.decode(encoded.data, damaged, form)
    with pytest.raises(ValueError, match="begins with"):
        codec.decode(encoded.data, encoded.ancillary[:15], form)
    longer = np.concatenate([encoded.data, np.zeros(4, np.uint8)])
    for data in (longer, encoded.data[:-1], encoded.data[:0]):
        with pytest.raises(ValueError, match="Expected"):
            codec.decode(data, encoded.ancillary, form)
    with pytest.raises(ValueError, match="Expected"):
        codec.decode(encoded.data, np.append(encoded.ancillary, np.zeros(16, np.uint8)), form)
    with pytest.raises(ValueError, match="Expected"):
        codec.decode(encoded.data, encoded.ancillary, Form((3, 1 << 40)))
