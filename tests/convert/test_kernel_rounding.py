"""Sums brought to the grid of the output as TFLite-Micro's kernels do it: by hand, and on the kernels."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.convert.kernel_rounding import TwiceRoundedGrid, round_twice
from keras_compress.quantizers.activation import FixedGrid
from keras_compress.tflite.multiplier import multiplier_of


def rounded(sums: list[int], scale: float) -> list[int]:
    found = round_twice(np.array(sums), *multiplier_of(np.full(len(sums), scale)))
    assert found.dtype == tf.int64
    return found.numpy().tolist()


@pytest.mark.parametrize(
    ("scale", "factor", "exponent"),
    [(0.5, 2**30, 0), (0.25, 2**30, -1), (0.75, 3 * 2**29, 0), (1.0, 2**30, 1), (1 - 2.0**-40, 2**30, 1)],
)
def test_multipliers(scale: float, factor: int, exponent: int) -> None:
    found = multiplier_of(np.array([scale]))
    assert [int(each[0]) for each in found] == [factor, exponent]


def test_ties_of_the_high_product_go_upwards() -> None:
    # Halves: one rounding, and ties below zero go up too.
    assert rounded([1, -1, 3, -3, 2, -2], 0.5) == [1, 0, 2, -1, 1, -1]


def test_ties_of_the_shift_go_away_from_zero() -> None:
    # Quarters: halves first, upwards, then halves of these, away from zero: -5, -2.5, -2, -1, and -6, -3, -1.5, -2.
    assert rounded([1, 2, 3, 5, 6, 7], 0.25) == [1, 1, 1, 2, 2, 2]
    assert rounded([-1, -2, -3, -5, -6, -7], 0.25) == [0, -1, -1, -1, -2, -2]


def test_factors_of_one_and_more_shift_first() -> None:
    assert rounded([-7, 5], 1.0) == [-7, 5]
    assert rounded([-7, 5], 6.0) == [-42, 30]


def gate(x: Any) -> Any:
    made = layers.Dense(8)(x)
    return layers.Dense(3)(layers.Reshape((-1,))(layers.ReLU()(layers.Multiply()([made, layers.Dense(8)(x)]))))


def joined(x: Any) -> Any:
    one, other = layers.Dense(8)(x), layers.Dense(8)(x)
    return layers.Concatenate()([one, layers.Multiply()([one, other]), other * 0.3])


@pytest.mark.parametrize(
    ("build", "recurrent"),
    [
        (lambda x: layers.Dense(3)(layers.LSTM(12, return_sequences=True)(x)), "unrolled"),
        (lambda x: layers.Dense(3)(layers.LSTM(12, return_sequences=True)(x)), "fused"),
        (lambda x: layers.GRU(5)(x), "unrolled"),
        (lambda x: layers.Dense(3)(layers.MultiHeadAttention(2, 4)(x, x)), "auto"),
        (gate, "auto"),
        (joined, "auto"),
    ],
    ids=["lstm", "fused_lstm", "gru", "attention", "gate", "joined"],
)
def test_the_kernels_give_the_frozen_models_integers(build: Callable[[Any], Any], recurrent: str) -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6))
    model = keras.Model(inputs, build(inputs))
    x = np.random.default_rng(0).normal(size=(100, 6, 6)).astype(np.float32)
    made = kc.convert(model, "tflm", representative_dataset=x, recurrent=recurrent, io="int8")
    found = kc.verify(made, model, x)
    assert {row.name: row.fraction_differing for row in found.rows if row.max_lsb} == {}
    assert [row.fraction_differing for row in found.outputs] == [0.0]
    assert len(np.unique(np.asarray(made.frozen(x)))) > 50


@pytest.mark.parametrize(("combine", "clipped"), [(layers.Add, False), (layers.Subtract, False), (layers.Add, True)])
def test_sums_of_scales_a_power_of_two_apart_are_exact_on_their_ties(combine: Any, clipped: bool) -> None:
    # Steps of 2 and 4 (8 with the ReLU) units and sums on steps of 4: every other sum lies on a tie.
    one, other = keras.Input((4,), name="one"), keras.Input((4,), name="other")
    total = combine()([one, other])
    model = keras.Model([one, other], layers.Flatten()(layers.ReLU()(total) if clipped else total))
    end, sign = (4.0 if clipped else 2.0), (-1.0 if combine is layers.Subtract else 1.0)
    rows = np.array([[1, -1, 0, 0], [sign, -sign, sign * end, -sign * end]], np.float32)
    ranges = {name: np.repeat(row[:, None], 4, axis=1) for name, row in zip(("one", "other"), rows, strict=True)}
    made = kc.convert(model, "tflm", representative_dataset=ranges)
    draw = np.random.default_rng(0).uniform
    x = {"one": draw(-1, 1, (300, 4)).astype("float32"), "other": draw(-end, end, (300, 4)).astype("float32")}
    found = kc.verify(made, model, x)
    assert {row.name: row.fraction_differing for row in found.rows if row.max_lsb} == {}
    assert [row.fraction_differing for row in found.outputs] == [0.0]


def test_a_sum_on_its_grid_by_hand() -> None:
    # Sums of 1, 2, 3 and 5 quarters on steps of 1: halves away from zero by the second rounding.
    grid = TwiceRoundedGrid.behind_sum(FixedGrid(1.0, 0), (0.25, 0.5))
    values = np.float32([0.5, -0.5, 1.5, -1.5, 0.75, 0.25, 2.5, -2.5])
    assert grid(values[:, None]).numpy()[:, 0].tolist() == [1, -1, 2, -2, 1, 0, 3, -3]
    plain = FixedGrid(1.0, 0)
    assert TwiceRoundedGrid.behind_sum(plain, (0.25, 0.75)) is plain
    assert TwiceRoundedGrid.behind_sum(plain, (1.0, 2.0**13)) is plain
