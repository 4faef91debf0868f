"""Huffman: bytes by hand, the best code and tables, and reading with the tables alone."""

from __future__ import annotations

import functools
import heapq
import itertools

import numpy as np
import pytest

from keras_compress.tflite.encoding.codec import Form, header
from keras_compress.tflite.encoding.huffman import Huffman
from keras_compress.tflite.encoding.huffman_code import code_lengths, with_tables

HUFFMAN = Huffman()


def words(*numbers):
    return np.array(numbers, ">u4").view(np.uint8)


def ancillary(first_bits, *entries, wide=False):
    tables = np.array(entries, "<u4" if wide else "<u2").view(np.uint8)
    return np.concatenate([header(1, (first_bits - 1) << 4 | wide), tables])


def check(values, data, tables):
    form = Form(values.shape, values.dtype.name)
    encoded = HUFFMAN.encode(values, form)
    assert encoded.data.tolist() == data.tolist()
    assert encoded.ancillary.tolist() == tables.tolist()
    assert HUFFMAN.size(values, form) == data.size + tables.size
    np.testing.assert_array_equal(HUFFMAN.decode(data, tables, form), values)


def test_one_table():
    # 0 is 0, -1 is 10, 5 is 11; leaves of 1, 1, 2 and 2 bits.
    values = np.int8([0, 0, 5, 0, -1, 0])
    check(values, words(0b00110100 << 24), ancillary(2, 0x8800, 0x8800, 0x90FF, 0x9005))


def test_32_bit_entries_for_int16():
    values = np.int16([0, 0, 500, 0, -1, 0])
    leaves = [0x88000000, 0x88000000, 0x9000FFFF, 0x900001F4]
    check(values, words(0b00110100 << 24), ancillary(2, *leaves, wide=True))


def test_a_table_below_a_table_where_the_wide_one_looks_into_another_word():
    # 28 + 2 + 2 bits. With one table of 2 bits, the last 0 at bit 31 would look at bit 32.
    values = np.zeros(30, np.int8)
    values[[0, 3]] = -1, 5
    check(values, words(0b1000110 << 25), ancillary(1, 0x8800, 0x0001, 0x88FF, 0x8805))


def test_look_ahead_takes_a_word_more():
    values = np.zeros(30, np.int8)
    values[:2] = -1, 5
    tables = ancillary(2, 0x8800, 0x8800, 0x90FF, 0x9005)
    with pytest.raises(ValueError, match="end of the stream"):
        HUFFMAN.decode(words(0b1011 << 28), tables, Form((30,)))
    np.testing.assert_array_equal(HUFFMAN.decode(words(0b1011 << 28, 0), tables, Form((30,))), values)


def test_one_symbol_takes_a_bit_each():
    check(np.full(40, 7, np.int8), words(0, 0), ancillary(1, 0x8807, 0x8807))


def tree_cost(counts):
    """Bits of a Huffman code by the textbook: join the two lightest."""
    heap, total = [int(c) for c in counts], 0
    heapq.heapify(heap)
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        total += joined
        heapq.heappush(heap, joined)
    return total


def limited_cost(counts, limit):
    """Bits of the best code up to `limit` bits a codeword, among all lengths that fit into a tree."""
    return min(
        int(np.dot(counts, lengths))
        for lengths in itertools.combinations_with_replacement(range(1, limit + 1), len(counts))
        if sum(2.0**-length for length in lengths) <= 1
    )


@pytest.mark.parametrize(
    "counts", [[9, 1], [40, 20, 11, 5, 2, 1], [3, 3, 3, 3, 3], [100, 1, 1, 1, 1], [8, 5, 3, 2, 1, 1]]
)
def test_lengths_are_the_best_for_each_limit(counts):
    falling = np.array(counts, np.int64)
    found = list(code_lengths(falling))
    first = (len(counts) - 1).bit_length()
    for limit, lengths in enumerate(found, first):
        assert lengths.max() <= limit
        assert np.dot(falling, lengths) == limited_cost(counts, limit)
    assert np.dot(falling, found[-1]) == tree_cost(counts)


def test_unlimited_lengths_of_many_symbols():
    counts = np.sort(np.random.default_rng(2).zipf(1.3, 200).clip(1, 10**6))[::-1]
    lengths = list(code_lengths(counts))[-1]
    assert np.dot(counts, lengths) == tree_cost(counts)
    assert (2.0**-lengths).sum() == 1


def fewest_entries(lengths):
    """Entries of the best tables, from the codewords themselves."""
    codewords, code = [], 0
    for index, length in enumerate(lengths):
        code <<= length - (lengths[index - 1] if index else 0)
        codewords.append(format(code, f"0{length}b"))
        code += 1

    @functools.cache
    def below(prefix):
        longer = [c for c in codewords if c.startswith(prefix) and c != prefix]
        if not longer:
            return 0
        deepest = max(len(c) for c in longer) - len(prefix)
        return min(
            2**bits + sum(below(p) for p in {c[: len(prefix) + bits] for c in longer if len(c) >= len(prefix) + bits})
            for bits in range(1, deepest + 1)
        )

    return below("")


@pytest.mark.parametrize(
    "lengths",
    [[1, 1], [1, 2, 2], [1, 3, 3, 3, 3], [2, 2, 2, 3, 4, 4], [1, 2, 3, 4, 5, 6, 7, 7], [2] * 3 + [6] * 16, [4] * 16],
)
@pytest.mark.parametrize("wide", [True, False])
def test_tables_have_the_fewest_entries(lengths, wide):
    assert with_tables(np.array(lengths), wide=wide).entries == fewest_entries(lengths)


def read_as_the_kernel(data, tables, count):
    """16-bit tables, one codeword after the other, bits put back as the kernel does."""
    bits = "".join(format(byte, "08b") for byte in data)
    first_bits, entries = (int(tables[5]) >> 4) + 1, tables[16:].view("<u2").astype(int).tolist()
    position, found = 0, []
    for _ in range(count):
        used, base = first_bits, 0
        while True:
            index = base + int(bits[position : position + used], 2)
            position += used
            entry = entries[index]
            if entry >> 15:
                break
            used, base = (entry >> 11 & 15) + 1, index + (entry & 0x7FF)
        position -= used - (entry >> 11 & 15)
        found.append(entry & 0xFF)
    return np.array(found, np.uint8).view(np.int8)


@pytest.mark.parametrize("case", ["steep", "flat", "fibonacci"])
def test_reading_side_by_side_is_reading_one_after_the_other(case):
    rng = np.random.default_rng(8)
    values = {
        "steep": lambda: (rng.geometric(0.6, 9000) - 1).astype(np.int8),
        # All of eight bits: readers that begin at a wrong bit never meet the right one.
        "flat": lambda: rng.permutation(np.arange(256).repeat(20)).astype(np.int8),
        # Codewords of up to 19 bits, longer than a look-up.
        "fibonacci": lambda: rng.permutation(np.arange(20).repeat(fibonacci(20))).astype(np.int8),
    }[case]()
    encoded = HUFFMAN.encode(values, Form(values.shape))
    np.testing.assert_array_equal(HUFFMAN.decode(encoded.data, encoded.ancillary, Form(values.shape)), values)
    np.testing.assert_array_equal(read_as_the_kernel(encoded.data, encoded.ancillary, values.size), values)


def fibonacci(count):
    numbers = [1, 1]
    while len(numbers) < count:
        numbers.append(numbers[-1] + numbers[-2])
    return numbers


def test_a_stream_of_several_pieces():
    rng = np.random.default_rng(9)
    values = rng.normal(0, 30, 900_000).round().clip(-127, 127).astype(np.int8)
    encoded = HUFFMAN.encode(values, Form(values.shape))
    assert 8 * encoded.data.size > 2048 * 2048
    np.testing.assert_array_equal(HUFFMAN.decode(encoded.data, encoded.ancillary, Form(values.shape)), values)
    probability = np.unique(values, return_counts=True)[1] / values.size
    entropy_bytes = -(probability * np.log2(probability)).sum() * values.size / 8
    assert entropy_bytes < encoded.bytes < 1.01 * entropy_bytes


def test_a_leaf_may_look_further_than_it_takes():
    # 0 and 10 take one bit, 11 two: of 1 0 0 the first 1 sees the 0 that the next value is read from.
    tables = ancillary(2, 0x8800, 0x8800, 0x8807, 0x9005)
    np.testing.assert_array_equal(HUFFMAN.decode(words(0b10011000 << 24), tables, Form((6,))), [7, 0, 0, 5, 0, 0])


@pytest.mark.parametrize(
    ("first_bits", "entries", "match"),
    [
        (1, [0x0000, 0x8800], "lead back"),  # a branch to itself
        (1, [0x8800, 0x0002, 0x8800, 0x8801], "lead back or outside"),  # a branch to the last entry and beyond
        (1, [0x0002, 0x0001, 0x8800, 0x8801], "overlap"),  # two branches to one table
        (2, [0x8800, 0x8801], "outside"),  # a first table that is larger
        (1, [0x8800, 0x8801, 0x8800, 0x8800], "Expected 2 entries"),
        (1, [0x8000, 0x8801], "take 1 bit at least"),
        (1, [0x8800, 0x9001], "no more than their table"),
        (1, [], "outside"),
    ],
)
def test_tables_that_lead_nowhere(first_bits, entries, match):
    with pytest.raises(ValueError, match=match):
        HUFFMAN.decode(words(0), ancillary(first_bits, *entries), Form((3,)))


def test_forms_that_do_not_fit():
    tables = ancillary(1, 0x8800, 0x8801)
    with pytest.raises(ValueError, match="int8 only"):
        HUFFMAN.decode(words(0), tables, Form((3,), "int16"))
    with pytest.raises(ValueError, match="Received: more|Expected 4 bytes"):
        HUFFMAN.decode(words(*[0] * 40), tables, Form((3,)))
    with pytest.raises(ValueError, match="whole 32-bit words"):
        HUFFMAN.decode(words(0)[:3], tables, Form((3,)))
    with pytest.raises(ValueError, match="end of the stream"):
        HUFFMAN.decode(words(*[0] * 40), tables, Form((3, 1000, 1000, 1000)))
