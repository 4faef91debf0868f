from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_compress import ConstantSparsity, CosineDecay, PolynomialDecay, Schedule
from keras_compress.core.schedule import resolve_step

CASES = [
    # initial, final, begin, end, power, frequency
    (0.3, 0.9, 0, 40, 3, 10),
    (0.0, 0.8, 5, 47, 3, 7),
    (0.5, 0.95, 3, 50, 2, 1),
    (0.2, 0.6, 10, 33, 1, 5),
]


def tfmot_polynomial(
    step: int, initial: float, final: float, begin: int, end: int, power: float, frequency: int
) -> tuple[bool, float]:
    """`PolynomialDecay` and `PruningSchedule._should_prune_in_step` of tfmot 0.8.1, as scalar Python."""
    in_range = step >= begin and (step <= end or end < 0)
    turn = (step - begin) % frequency == 0
    p = min(1.0, max(0.0, (step - begin) / (end - begin)))
    return in_range and turn, (initial - final) * (1 - p) ** power + final


@pytest.mark.parametrize("case", CASES)
def test_polynomial_decay_equals_tfmots_formula(case: tuple) -> None:
    *values, frequency = case
    schedule = PolynomialDecay(*values, frequency=frequency)
    end = case[3]
    for step in range(60):
        prunes, sparsity = tfmot_polynomial(step, *case)
        assert float(schedule(step)) == pytest.approx(sparsity, abs=1e-6), step
        # The one documented deviation: the last change is made at `end_step`, met by `frequency` or not.
        assert bool(schedule.should_update(step)) == (prunes or step == end), step


_TFMOT = """
import json, sys
import tensorflow_model_optimization as tfmot
import numpy as np
out = []
for case in json.loads(sys.argv[1]):
    *values, frequency = case
    schedule = tfmot.sparsity.keras.PolynomialDecay(*values, frequency=frequency)
    rows = []
    for step in range(60):
        prunes, sparsity = schedule(np.int64(step))
        rows.append([bool(prunes), float(sparsity)])
    out.append(rows)
print("RESULT" + json.dumps(out))
"""


def test_polynomial_decay_equals_tfmot_itself() -> None:
    """In a process of its own: importing tfmot turns `tf.keras` into Keras 2."""
    python = os.environ.get("KERAS_COMPRESS_TFMOT_PYTHON", sys.executable)
    probe = "import importlib.util as u, sys; sys.exit(u.find_spec('tensorflow_model_optimization') is None)"
    if subprocess.run([python, "-c", probe], check=False, timeout=60).returncode:
        pytest.skip("install keras-compress[tfmot], or point KERAS_COMPRESS_TFMOT_PYTHON to a Python that has tfmot")
    done = subprocess.run(
        [python, "-c", _TFMOT, json.dumps(CASES)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(done.stdout.partition("RESULT")[2])
    for case, rows in zip(CASES, theirs, strict=True):
        *values, frequency = case
        schedule = PolynomialDecay(*values, frequency=frequency)
        for step, (prunes, sparsity) in enumerate(rows):
            assert float(schedule(step)) == pytest.approx(sparsity, abs=1e-6)
            assert bool(schedule.should_update(step)) == (prunes or step == case[3])


def test_polynomial_decay_literal() -> None:
    schedule = PolynomialDecay(0.3, 0.9, begin_step=0, end_step=4)
    assert [round(float(schedule(s)), 6) for s in range(6)] == [0.3, 0.646875, 0.825, 0.890625, 0.9, 0.9]


def test_cosine_decay_literal() -> None:
    schedule = CosineDecay(0.2, 0.8, begin_step=10, end_step=14)
    expected = [0.8 - 0.6 * (1 + math.cos(math.pi * p)) / 2 for p in (0, 0, 0.25, 0.5, 0.75, 1, 1)]
    assert [float(schedule(s)) for s in (0, 10, 11, 12, 13, 14, 20)] == pytest.approx(expected, abs=1e-6)
    assert expected[3] == pytest.approx(0.5)


def test_constant_sparsity_acts_from_begin_on() -> None:
    schedule = ConstantSparsity(0.5, begin_step=3, frequency=4)
    assert [s for s in range(20) if schedule.should_update(s)] == [3, 7, 11, 15, 19]
    assert [float(schedule(s)) for s in (0, 3, 1000)] == [0.5, 0.5, 0.5]
    bounded = ConstantSparsity(0.5, begin_step=3, end_step=9, frequency=4)
    assert [s for s in range(20) if bounded.should_update(s)] == [3, 7, 9]


def test_begin_equal_to_end_acts_once() -> None:
    schedule = ConstantSparsity(0.5, begin_step=3, end_step=3)
    assert [s for s in range(10) if schedule.should_update(s)] == [3]


def test_final_value() -> None:
    assert PolynomialDecay(0.3, 0.9, 0, 100).final_value() == pytest.approx(0.9)
    assert CosineDecay(0.3, 0.7, 5, 100).final_value() == pytest.approx(0.7)
    assert ConstantSparsity(0.4, begin_step=3).final_value() == pytest.approx(0.4)


def test_units() -> None:
    assert resolve_step(7, None, None, "x") == 7
    assert resolve_step(7.0, None, None, "x") == 7
    assert resolve_step(1.5, 469, None, "x") == 704  # 703.5 to even
    assert resolve_step(0.25, None, 1000, "x") == 250
    schedule = PolynomialDecay(0.0, 0.5, 0.5, 2, steps_per_epoch=10)
    assert (schedule.begin_step, schedule.end_step) == (5, 20)
    schedule = CosineDecay(0.0, 0.5, 0.1, 0.9, total_steps=200)
    assert (schedule.begin_step, schedule.end_step) == (20, 180)
    schedule = ConstantSparsity(0.5, 1, steps_per_epoch=10)
    assert (schedule.begin_step, schedule.end_step) == (10, -1)
    schedule = ConstantSparsity(0.5, 0.0, 1.0, total_steps=30)
    assert (schedule.begin_step, schedule.end_step) == (0, 29)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConstantSparsity(1.0, 0), r"`target_sparsity` in \[0, 1\). Received: target_sparsity=1.0"),
        (lambda: ConstantSparsity(-0.1, 0), "target_sparsity=-0.1"),
        (lambda: PolynomialDecay(0.0, 1.0, 0, 10), "final_sparsity=1.0"),
        (lambda: PolynomialDecay(1.5, 0.5, 0, 10), "initial_sparsity=1.5"),
        (lambda: PolynomialDecay(0.0, 0.5, 10, 10), "`end_step` after `begin_step`"),
        (lambda: PolynomialDecay(0.0, 0.5, 0, -1), "`end_step` after `begin_step`"),
        (lambda: PolynomialDecay(0.0, 0.5, 0, 10, frequency=0), "frequency=0"),
        (lambda: ConstantSparsity(0.5, -1), "begin_step=-1"),
        (lambda: ConstantSparsity(0.5, 5, 4), "end_step=4"),
        (lambda: ConstantSparsity(0.5, 0.5), "whole number of steps .*begin_step=0.5"),
        (lambda: ConstantSparsity(0.5, 2, total_steps=10), "fraction .*begin_step=2"),
        (lambda: ConstantSparsity(0.5, 0, steps_per_epoch=1, total_steps=1), "one of `steps_per_epoch`"),
    ],
)
def test_bad_arguments(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_symbolic_steps_give_the_same_values() -> None:
    schedule = PolynomialDecay(0.3, 0.9, 2, 42, frequency=8)
    traced = tf.function(lambda step: (schedule(step), schedule.should_update(step)))
    for step in (0, 2, 9, 10, 41, 42, 43):
        value, acts = traced(tf.constant(step, tf.int64))
        assert float(value) == pytest.approx(float(schedule(step)), rel=1e-6)
        assert bool(acts) == bool(schedule.should_update(step))


def test_a_users_own_schedule_round_trips() -> None:
    @keras.saving.register_keras_serializable(package="test_schedule")
    class Steps(Schedule):
        def __init__(self, levels: list[float]) -> None:
            super().__init__(0, len(levels) - 1, 1)
            self.levels = list(levels)

        def __call__(self, step):
            return np.float32(self.levels[min(int(step), len(self.levels) - 1)])

        def get_config(self):
            return {"levels": self.levels}

    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(Steps([0.1, 0.4])))
    assert isinstance(again, Steps)
    assert again.levels == [0.1, 0.4]
    assert float(again(1)) == pytest.approx(0.4)
