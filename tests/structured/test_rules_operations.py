"""Every rule for a Keras operation: what is cut is what is masked, and what has to stay says why."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import Input, layers, ops
from tests_structured import Case, checked, half, headed

from keras_compress.structured import surgery
from keras_compress.structured.dependency import channel_graph
from keras_compress.structured.prune import removed_channels
from keras_compress.structured.rules.shapes import blocks


def conv(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    return layers.Conv2D(filters, 1, name=name)(x)


def heads_by_hand() -> keras.Model:
    x = Input((5, 6))
    q, k, v = (ops.transpose(ops.reshape(layers.Dense(8, name=name)(x), (-1, 5, 2, 4)), (0, 2, 1, 3)) for name in "qkv")
    scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / 2.0)
    return headed(x, ops.reshape(ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3)), (-1, 5, 8)))


def einsum() -> keras.Model:
    x = Input((5, 6))
    a, b, c = (layers.Dense(n, name=name)(x) for name, n in (("a", 8), ("b", 8), ("c", 6)))
    return headed(x, ops.einsum("bts,bsc->btc", ops.einsum("btc,bsc->bts", a, b), c))


def splits() -> keras.Model:
    x = Input((2, 2, 3))
    a, b = ops.split(conv(x, 12, "equal"), 2, axis=-1)
    c, d, e = ops.split(conv(x, 12, "uneven"), [2, 6], axis=-1)
    return headed(x, conv(ops.concatenate([a * b, c, d, e], axis=-1), 4, "last"))


def moved() -> keras.Model:
    x = Input((4, 4, 3))
    y = ops.flip(ops.pad(conv(x, 4, "a"), [[0, 0], [1, 1], [0, 0], [0, 0]]), -1)
    y = ops.tile(ops.repeat(y, 2, axis=-1), [1, 1, 1, 2])
    y = ops.transpose(ops.swapaxes(ops.moveaxis(y, -1, 1), 1, 3), (0, 2, 1, 3))
    u, v = ops.unstack(ops.stack([y, conv(y, 16, "b")], axis=1), 2, axis=1)
    y = ops.max_pool(ops.where(u > 0.0, u, v), 2)
    return headed(x, ops.squeeze(ops.expand_dims(y, 1), 1)[:, 0, ::2, None, :])


def reduced() -> keras.Model:
    x = Input((2, 2, 3))
    a, b, c = conv(x, 4, "a"), conv(x, 6, "b"), conv(x, 8, "c")
    parts = [ops.mean(a, (1, 2)), ops.max(a, (1, 2), keepdims=True), ops.sum(b, -1), ops.max(c, axis=-1)]
    return headed(x, layers.Concatenate()([layers.Flatten()(part) for part in parts]))


def pixels() -> keras.Model:
    x = Input((2, 2, 3))
    y = ops.depth_to_space(conv(x, 16, "a"), 2)
    return headed(x, ops.glu(conv(ops.space_to_depth(conv(y, 4, "b"), 2), 8, "gated")))


def elementwise() -> keras.Model:
    x = Input((2, 2, 3))
    y = ops.cumsum(ops.square(ops.tanh(conv(x, 4, "a"))), axis=1)
    z = ops.broadcast_to(ops.mean(y, (0, 1, 2), keepdims=True), (1, 2, 2, 4))
    return headed(x, ops.minimum(y, z) * np.float32(2.0) + ops.clip(y, -1.0, 1.0))


def fixed() -> keras.Model:
    x = Input((2, 2, 3))
    a = conv(x, 4, "a") * np.arange(4, dtype="float32")
    b = ops.concatenate([conv(x, 4, "b"), x], axis=-1)[..., :4]
    c = ops.cumsum(conv(x, 4, "c"), axis=-1)
    d = ops.pad(conv(x, 4, "d"), [[0, 0], [0, 0], [0, 0], [0, 1]])
    e = ops.matmul(conv(x, 4, "e"), np.ones((4, 4), "float32"))
    f = ops.take(conv(x, 4, "f"), np.array([0, 1, 1, 2]), axis=-1)
    g = layers.Flatten()(ops.reshape(conv(x, 4, "g"), (-1, 4, 4)))
    h = ops.reshape(ops.reshape(conv(x, 4, "h"), (-1, 4)), (-1, 16))
    flat = [layers.Flatten()(part) for part in (a, b, c, d, e, f)]
    return headed(x, layers.Concatenate()([*flat, g, h]))


# Half of two heads of size 4 is the same half of each.
CASES = [
    Case(heads_by_hand, {"k": 4, "v": 4}, (720 + 200 + 200 + 120, 360 + 100 + 100 + 60)),
    Case(einsum, {"a": 8, "c": 6}, (660 + 200 + 150 + 90, 330 + 100 + 75 + 45)),
    Case(
        splits,
        # Each part of an uneven split keeps some of its channels.
        {"equal": 6, "uneven": 2, "uneven+2": 4, "uneven+3": 6, "last": 4},
        (4 * 3 * 24 + 4 * 18 * 4 + 48, 4 * 3 * 12 + 4 * 9 * 2 + 24),
    ),
    Case(moved, {"a": 4}, (16 * 12 + 24 * 16 * 16 + 16 * 3, 16 * 6 + 24 * 8 * 8 + 8 * 3)),
    Case(
        reduced,
        {"a": 4, "b": 6},
        (4 * 3 * 18 + 16 * 3, 4 * 3 * (2 + 3 + 8) + 12 * 3),
        {"c": "max_1 takes the Max over it"},
    ),
    Case(
        pixels,
        {"a": 4, "b": 4, "gated": 4},
        (4 * 48 + 16 * 16 + 4 * 16 * 8 + 16 * 3, 4 * 24 + 16 * 4 + 4 * 8 * 4 + 8 * 3),
    ),
    Case(elementwise, {"a": 4}, (48 + 48, 24 + 24)),
    Case(
        fixed,
        {"g": 4},
        (8 * 48 + 4 * 16 + 3 * (16 + 16 + 16 + 20 + 16 + 16 + 16 + 16), 7 * 48 + 24 + 64 + 3 * (132 - 8)),
        {
            "a": "joins it to values of fixed width",
            "b": "takes some of it by their numbers",
            "c": "mixes the values along it",
            "d": "pads it",
            "e": "joins it to values of fixed width",
            "f": "is a Take, for which there is no channel rule",
            "h": "reshapes it to a shape that is not known",
        },
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.build.__name__)
def test_cut_is_masked(case: Case) -> None:
    if case.build is pixels and not hasattr(ops, "depth_to_space"):
        pytest.skip("Keras 3.14 brought these operations, and the right shape of a GLU")
    checked(case)


def test_uneven_splits_end_where_their_last_channel_does() -> None:
    graph = channel_graph(splits())
    removed = removed_channels(graph, {"uneven": [0, 3, 4, 7]})
    (split,) = [op for op in surgery.cut(graph, removed).operations if op.name == "split_1"]
    assert tuple(split.indices_or_sections) == (1, 3)


def test_reshapes_keep_what_is_cut_in_their_configuration() -> None:
    graph = channel_graph(heads_by_hand())
    shapes = [op.newshape for op in surgery.cut(graph, half(graph)).operations if hasattr(op, "newshape")]
    assert shapes == [(-1, 5, 2, 2)] * 3 + [(-1, 5, 4)]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ((None, 4, 4, 8), (None, 128), [([1, 2, 3], [1])]),
        ((None, 1, 1, 8), (None, 8), [([1, 2], []), ([3], [1])]),
        ((None, 6), (None, 1, 2, 3), [([1], [1, 2, 3])]),
        ((None, None, 8), (None, 8, None), [([1, 2], [1, 2])]),
        ((None, None, None, 8), (None, None, 8), None),
        ((None, 4, 8), (None, 8), None),
        ((2, 4), (4, 2), None),
        ((None, 4), (), None),
    ],
)
def test_blocks(old: tuple[int | None, ...], new: tuple[int | None, ...], expected: object) -> None:
    assert blocks(old, new) == expected


def test_a_new_axis_takes_no_channels_and_moves_them() -> None:
    x = Input((2, 2, 3))
    a, b = conv(x, 4, "a")[:, 0, None], conv(x, 6, "b")[..., None, :]
    c = conv(x, 8, "c")[..., 1:]
    graph = channel_graph(headed(x, layers.Concatenate()([layers.Flatten()(part) for part in (a, b, c)])))
    assert {group.name: len(group) for group in graph.prunable} == {"a": 4, "b": 6}
