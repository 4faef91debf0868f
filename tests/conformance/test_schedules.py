"""What every schedule must do. A new one is covered by being registered."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

import keras_compress as kc

RESOLVED = {"steps_per_epoch", "total_steps"}


def test_config_keys_are_the_constructors_arguments(schedule, arguments_of) -> None:
    made = schedule.make()
    config = made.get_config()
    assert set(config) == arguments_of(schedule.cls) - RESOLVED
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    assert type(again) is schedule.cls
    assert again.get_config() == config
    assert [float(again(s)) for s in range(20)] == [float(made(s)) for s in range(20)]


def test_a_pure_function_with_values_in_range(schedule) -> None:
    made = schedule.make()
    first = [float(made(s)) for s in range(30)]
    assert first == [float(made(s)) for s in range(30)]
    assert all(0.0 <= v < 1.0 for v in first)
    assert made(3).dtype == tf.float32
    assert float(made(10_000)) == made.final_value()


def test_acts_between_begin_and_end_only(schedule) -> None:
    made = schedule.make()
    acts = [s for s in range(40) if made.should_update(s)]
    assert acts[0] == made.begin_step
    if made.end_step != -1:
        assert acts[-1] == made.end_step


def test_takes_tensors_in_a_compiled_function(schedule) -> None:
    made = schedule.make()
    program = tf.function(lambda s: (made(s), made.should_update(s)), jit_compile=True)
    for step in (0, 1, 4, 9, 12):
        value, acts = program(tf.constant(step, tf.int64))
        np.testing.assert_allclose(float(value), float(made(step)), rtol=1e-6)
        assert bool(acts) == bool(made.should_update(step))


def test_survives_saving_with_a_model(schedule, tmp_path) -> None:
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    model = kc.prune_low_magnitude(model, schedule.make())
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras").layers[0].transform_list[0].schedule
    assert type(again) is schedule.cls
    assert again.get_config() == schedule.make().get_config()
