"""What holds of every codec: messages, checksums, round trips of arguments, what is remembered."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import keras_compress as kc
from keras_compress.core import registry
from keras_compress.gradients.codec import GradientCodec, float_bytes
from keras_compress.gradients.message import Reader, Writer, as_integers, split
from keras_compress.gradients.packing import (
    read_bits,
    read_keys,
    read_trits,
    write_bits,
    write_keys,
    write_trits,
)

SHAPES = {"kernel": (30, 17), "bias": (17,), "scalar": (), "conv": (3, 3, 2, 5)}
EVERY = [
    pytest.param(cls, arguments, id=f"{name}-{index}")
    for name, cls in registry.entries("gradient_codec").items()
    for index, arguments in enumerate(cls.samples())
]


def gradients(seed: int = 0, zeros: float = 0.0) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(seed)
    found = {name: draws.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    return {name: np.where(draws.random(each.shape) < zeros, np.float32(0), each) for name, each in found.items()}


@pytest.mark.parametrize(("cls", "arguments"), EVERY)
class TestEveryCodec:
    def test_arguments_come_back(self, cls: type, arguments: dict) -> None:
        codec = cls(**arguments)
        assert codec.get_config() | arguments == codec.get_config()
        again = registry.resolve("gradient_codec", {"class_name": cls.__name__, "config": codec.get_config()})
        assert type(again) is cls
        assert repr(again) == repr(codec)

    def test_two_workers_read_the_same_and_less_is_sent(self, cls: type, arguments: dict) -> None:
        codec, other = cls(**arguments), cls(**arguments)
        state = codec.start(SHAPES)
        message = codec.encode(gradients(), state)
        found = [each.decode(message, SHAPES) for each in (codec, other)]
        assert len(message) % 4 == 0
        assert state.step == 1
        for name, shape in SHAPES.items():
            assert found[0][name].shape == shape
            assert found[0][name].dtype == np.float32
            np.testing.assert_array_equal(found[0][name], found[1][name])
        assert any(each.any() for each in found[0].values())

    def test_the_same_worker_and_step_give_the_same_message(self, cls: type, arguments: dict) -> None:
        """So that training goes on where it was stopped."""
        codec = cls(**arguments)
        states = [codec.start(SHAPES, worker=1, workers=2) for _ in range(2)]
        for seed in range(3):
            assert len({codec.encode(gradients(seed), state) for state in states}) == 1

    def test_zeros_stay_zeros(self, cls: type, arguments: dict) -> None:
        codec = cls(**arguments)
        zeros = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
        found = codec.decode(codec.encode(zeros, codec.start(SHAPES)), SHAPES)
        assert not any(each.any() for each in found.values())

    def test_any_changed_byte_is_refused(self, cls: type, arguments: dict) -> None:
        codec = cls(**arguments)
        message = codec.encode(gradients(), codec.start(SHAPES))
        for place in {0, 4, 8, 12, 16, len(message) // 2, len(message) - 1}:
            damaged = bytearray(message)
            damaged[place] ^= 0x10
            with pytest.raises(ValueError, match="worker 1's message"):
                codec.decode(bytes(damaged), SHAPES, "worker 1's message")
        for cut in (message[:-4], message[:7], message + bytes(4)):
            with pytest.raises(ValueError, match="Expected"):
                codec.decode(cut, SHAPES)

    def test_other_weights_are_refused(self, cls: type, arguments: dict) -> None:
        codec = cls(**arguments)
        message = codec.encode(gradients(), codec.start(SHAPES))
        with pytest.raises(ValueError, match="same codec"):
            codec.decode(message, {**SHAPES, "bias": (18,)})

    @pytest.mark.parametrize(
        ("values", "error", "says"),
        [
            (np.array([1, 2], np.int32), TypeError, "gradients of floats. Received: int32 for 'w'"),
            (np.array([1.0, np.nan], np.float32), ValueError, "NaN or infinity for 'w'"),
            (np.array([1.0, -np.inf], np.float32), ValueError, "NaN or infinity for 'w'"),
        ],
    )
    def test_gradients_that_are_no_numbers_are_refused(
        self, cls: type, arguments: dict, values: np.ndarray, error: type[Exception], says: str
    ) -> None:
        codec = cls(**arguments)
        with pytest.raises(error, match=re.escape(says)):
            codec.encode({"w": values}, codec.start({"w": (2,)}))

    def test_large_and_small_values_stay_finite(self, cls: type, arguments: dict) -> None:
        codec = cls(**arguments)
        values = {"w": np.array([[1e38, -1e38, 1e-38, -1e-45], [0.0, 1.0, -1.0, 1e20]], np.float32)}
        shapes = {"w": (2, 4)}
        found = codec.decode(codec.encode(values, codec.start(shapes)), shapes)["w"]
        assert np.isfinite(found).all()


def test_a_codec_with_other_arguments_does_not_read() -> None:
    message = kc.QSGD(bits=4).encode(gradients(), kc.QSGD(bits=4).start(SHAPES))
    for other in (kc.QSGD(bits=3), kc.TernGrad()):
        with pytest.raises(ValueError, match="another codec"):
            other.decode(message, SHAPES)


def test_messages_of_several_workers_are_told_apart() -> None:
    codec = kc.DeepGradientCompression(0.9)
    sent = [codec.encode(gradients(worker, 0.5 * worker), codec.start(SHAPES, worker)) for worker in range(3)]
    stream = np.concatenate([as_integers(each) for each in sent])
    assert split(stream, 3) == sent
    for broken in (stream[:-1], np.concatenate([stream, stream[:3]])):
        with pytest.raises(ValueError, match="messages of 3 workers"):
            split(broken, 3)


def test_the_mean_is_what_is_applied() -> None:
    codec = kc.Float16Codec()
    found = codec.combine([{"w": np.array([1.0, 2.0], np.float32)}, {"w": np.array([2.0, 6.0], np.float32)}])
    assert found["w"].tolist() == [1.5, 4.0]
    assert float_bytes(SHAPES) == 4 * (510 + 17 + 1 + 90)


@given(st.integers(0, 16), hnp.arrays(np.uint16, st.integers(0, 60)))
@settings(max_examples=60, deadline=None)
def test_bits_come_back(bits: int, values: np.ndarray) -> None:
    values = values & np.uint16(2**bits - 1)
    writer = Writer()
    write_bits(writer, values, bits)
    assert len(writer.payload()) == -(-len(values) * bits // 8)
    np.testing.assert_array_equal(read_bits(Reader(writer.payload()), len(values), bits), values)


@given(hnp.arrays(np.uint8, st.integers(0, 40), elements=st.integers(0, 2)))
@settings(max_examples=40, deadline=None)
def test_trits_come_back(values: np.ndarray) -> None:
    writer = Writer()
    write_trits(writer, values)
    assert len(writer.payload()) == -(-len(values) // 5)
    np.testing.assert_array_equal(read_trits(Reader(writer.payload()), len(values)), values)


@given(st.lists(st.integers(0, 2**32 - 1), unique=True, max_size=40))
@settings(max_examples=60, deadline=None)
def test_keys_come_back(keys: list[int]) -> None:
    writer = Writer()
    write_keys(writer, np.array(sorted(keys), np.int64))
    assert read_keys(Reader(writer.payload()), len(keys)).tolist() == sorted(keys)


def test_bytes_of_keys() -> None:
    """Differences 5, 255, 256, 65535, 65536, 2^24: 1, 1, 2, 2, 3 and 4 bytes, and 2 bits each, behind their number."""
    keys = np.cumsum([5, 255, 256, 65_535, 65_536, 2**24])
    writer = Writer()
    write_keys(writer, keys)
    found = writer.payload()
    assert len(found) == 4 + 2 + 13
    assert found[:4] == bytes([13, 0, 0, 0])
    assert found[4:6] == bytes([0b01_01_00_00, 0b11_10])
    assert found[6:10] == bytes([5, 255, 0, 1])


class Halves(GradientCodec):
    """A codec of one's own."""

    def write(self, name, gradient, state, writer):
        writer.array(gradient / 2, "<f4")

    def read(self, reader, shape):
        return 2 * reader.array("<f4", int(np.prod(shape))).reshape(shape)


def test_a_codec_of_ones_own() -> None:
    codec = Halves()
    found = codec.decode(codec.encode(gradients(), codec.start(SHAPES)), SHAPES)
    for name, each in gradients().items():
        np.testing.assert_array_equal(found[name], each)


def test_names_of_recipes() -> None:
    for name, cls in [("sketch_ml", kc.SketchML), ("float16", kc.Float16Codec), ("qsgd", kc.QSGD)]:
        assert type(registry.resolve("gradient_codec", name)) is cls
    with pytest.raises(ValueError, match="Expected a gradient_codec out of"):
        registry.resolve("gradient_codec", "zip")
