"""What every schedule must do. A new one is covered by being registered."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_compress.testing.schedules import CHECKS


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_schedule(schedule, check) -> None:
    check(schedule)


def test_takes_tensors_in_a_compiled_function(schedule) -> None:
    made = schedule.make()
    program = tf.function(lambda s: (made(s), made.should_update(s)), jit_compile=True)
    for step in (0, 1, 4, 9, 12):
        value, acts = program(tf.constant(step, tf.int64))
        np.testing.assert_allclose(float(value), float(made(step)), rtol=1e-6)
        assert bool(acts) == bool(made.should_update(step))
