"""Channels in an order for N:M pruning: the same function, more magnitude."""

from __future__ import annotations

from itertools import permutations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.pruning.permutation import best_order, kept_magnitude


def test_kept_magnitude_literal() -> None:
    rows = np.array([[4.0, 1.0], [3.0, 2.0], [2.0, 3.0], [1.0, 4.0]])
    assert kept_magnitude(rows, (2, 4)) == 7 + 7
    assert kept_magnitude(rows, (1, 2)) == 4 + 2 + 2 + 4
    assert kept_magnitude(rows[[0, 2, 1, 3]], (1, 2)) == 4 + 3 + 3 + 4


@pytest.mark.parametrize("m_by_n", [(1, 2), (1, 3), (2, 3)])
def test_near_the_best_of_all_orders(m_by_n) -> None:
    """All 720 orders of six rows: half of what there is to gain, or more."""
    for seed in range(4):
        rows = np.abs(np.random.default_rng(seed).normal(size=(6, 3)))
        every = [kept_magnitude(rows[list(order)], m_by_n) for order in permutations(range(6))]
        found = kept_magnitude(rows[best_order(rows, m_by_n)], m_by_n)
        start = kept_magnitude(rows, m_by_n)
        assert start <= found <= max(every) + 1e-9
        assert found - start >= 0.5 * (max(every) - start) - 1e-9


def net() -> keras.Model:
    """Additions, a normalization, a depthwise convolution, a concatenation, flattening: channels in many places."""
    keras.utils.set_random_seed(0)
    x = keras.Input((4, 4, 3))
    a = layers.Conv2D(8, 3, padding="same", name="a")(x)
    a = layers.ReLU(name="ra")(layers.BatchNormalization(name="na")(a))
    b = layers.Conv2D(8, 1, use_bias=False, name="b")(x)
    s = layers.Add(name="sum")([a, b])
    d = layers.DepthwiseConv2D(3, name="d")(s)
    c = layers.Conv2D(12, 3, activation="relu", name="c")(s)
    joined = layers.Concatenate(name="joined")([d, c])
    e = layers.Conv2D(8, 1, name="e", activation="relu")(joined)
    f = layers.Dense(16, name="f", activation="relu")(layers.Flatten(name="flat")(e))
    model = keras.Model(x, layers.Dense(3, name="g")(f))
    rng = np.random.default_rng(1)
    for variable in model.weights:
        value = rng.normal(size=variable.shape)
        variable.assign(np.abs(value) + 0.5 if variable.name == "moving_variance" else value)
    return model


def test_the_same_function_and_more_magnitude() -> None:
    model = net()
    x = np.random.default_rng(2).normal(size=(5, 4, 4, 3)).astype(np.float32)
    before = model.get_weights()
    permuted = kc.permute_channels(model, (2, 4))
    outputs = np.array(model(x))
    np.testing.assert_allclose(np.array(permuted(x)), outputs, rtol=0, atol=1e-5 * np.abs(outputs).max())
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    for name in "cefg":
        changed = np.array(permuted.get_layer(name).kernel)
        assert not np.array_equal(changed, np.array(model.get_layer(name).kernel)), name
    record = kc.summary(permuted, print_fn=None)
    assert "Permuted for 2 zeros in 4: c" in str(record)

    def kept(each: keras.Model) -> float:
        pruned = kc.prune_one_shot(each, sparsity_m_by_n=(2, 4), rules=[{"layers": list("abd"), "skip": True}])
        return sum(np.abs(np.array(pruned.get_layer(n).weight("kernel"))).sum() for n in "cefg")

    assert kept(permuted) > 1.01 * kept(model)


def test_a_group_that_does_not_divide_is_left_and_said() -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(6, name="a"), layers.Dense(8, name="b"), layers.Dense(2)])
    permuted = kc.permute_channels(model)
    told = str(kc.summary(permuted, print_fn=None))
    assert "a: left as it is: its 6 channels are no multiple of 4" in told
    np.testing.assert_array_equal(np.array(permuted.get_layer("a").kernel), np.array(model.get_layer("a").kernel))
    skipped = kc.permute_channels(model, rules=[{"layers": "b", "skip": True}])
    np.testing.assert_array_equal(np.array(skipped.get_layer("b").kernel), np.array(model.get_layer("b").kernel))


def test_what_is_refused() -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8, name="a"), layers.Dense(2, name="b")])
    with pytest.raises(ValueError, match=r"Expected `sparsity_m_by_n` as \(m, n\)"):
        kc.permute_channels(model, (4, 4))
    with pytest.raises(ValueError, match="in which nothing is in training"):
        kc.permute_channels(kc.prune_one_shot(model, 0.5))
