"""The integer program of bits: optima that are known, and every choice tried."""

import itertools

import numpy as np
import pytest

from keras_compress.pipelines.bit_choice import (
    InfeasibleError,
    Item,
    LinearCost,
    best,
    greedy,
    total_loss,
    uniform,
)

# A budget of 10 is the knapsack whose optimum greedy steps miss: 4 + 2 + 4.
ITEMS = [
    Item("a", {2: 10.0, 4: 4.0, 8: 0.0}),
    Item("b", {2: 1.0, 4: 0.5, 8: 0.0}),
    Item("c", {2: 9.0, 4: 3.0, 8: 0.0}),
]
BITS = {number: {2: 2.0, 4: 4.0, 8: 8.0} for number in range(3)}


def test_a_known_optimum() -> None:
    cost = LinearCost("bits", 10.0, terms=BITS)
    assert best(ITEMS, [cost]) == (4, 2, 4)
    assert total_loss(ITEMS, (4, 2, 4)) == 8.0
    assert best(ITEMS, [LinearCost("bits", 24.0, terms=BITS)]) == (8, 8, 8)
    assert best(ITEMS, [LinearCost("bits", 14.0, terms=BITS)]) == (8, 2, 4)
    assert best(ITEMS, [LinearCost("bits", 14.0, constant=4.0, terms=BITS)]) == (4, 2, 4)
    assert best(ITEMS, []) == (8, 8, 8)


def test_every_choice_of_random_parts_and_products_tried() -> None:
    random = np.random.default_rng(0)
    for _ in range(5):
        losses = random.random((6, 3))
        items = [Item(str(n), dict(zip((2, 4, 8), row, strict=True))) for n, row in enumerate(losses)]
        macs = random.integers(1, 100, 4)
        pairs = {(0, 3): float(macs[0]), (1, 3): float(macs[1]), (2, 4): float(macs[2]), (2, 5): float(macs[3])}
        costs = [
            LinearCost("bops", 0.4 * 64 * float(macs.sum()), pairs=pairs),
            LinearCost("bits", 16.0, terms={n: {2: 2, 4: 4, 8: 8} for n in range(3)}),
        ]
        feasible = [
            choice
            for choice in itertools.product((2, 4, 8), repeat=6)
            if sum(m * choice[a] * choice[b] for (a, b), m in pairs.items()) <= costs[0].most and sum(choice[:3]) <= 16
        ]
        expected = min(feasible, key=lambda choice: sum(losses[n][(2, 4, 8).index(w)] for n, w in enumerate(choice)))
        assert best(items, costs) == expected


def test_the_nearest_is_named() -> None:
    with pytest.raises(InfeasibleError, match="Received: bits <= 5; the nearest that is feasible: bits 6$") as raised:
        best(ITEMS, [LinearCost("bits", 5.0, terms=BITS)])
    assert raised.value.nearest == (2, 2, 2)
    for baseline in (greedy, uniform):
        with pytest.raises(ValueError, match="the nearest that is feasible: bits 6$"):
            baseline(ITEMS, [LinearCost("bits", 5.0, terms=BITS)])


def test_baselines() -> None:
    cost = LinearCost("bits", 14.0, terms=BITS)
    # Steps for each bit saved: b 8 -> 4 for 0.125, b 4 -> 2 for 0.25, c 8 -> 4 for 0.75.
    assert greedy(ITEMS, [cost]) == (8, 2, 4)
    assert uniform(ITEMS, [cost]) == (4, 4, 4)
    points = [Item("p", {4: 1.0, 8: 0.0}, "activations"), Item("mean", {8: 0.0}, "activations")]
    assert uniform([*ITEMS, *points], [cost]) == (4, 4, 4, 8, 8)


def test_of_two_that_are_as_near_the_narrower_is_named() -> None:
    items = [Item("a", {2: 1.0, 4: 0.5, 8: 0.0}), Item("b", {4: 0.5, 8: 0.0})]
    with pytest.raises(InfeasibleError) as raised:
        best(items, [LinearCost("bytes", 5.0, terms={0: {2: 16, 4: 16, 8: 32}, 1: {4: 16, 8: 16}})])
    assert raised.value.nearest == (2, 4)
