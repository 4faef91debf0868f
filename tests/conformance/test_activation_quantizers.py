"""What every activation quantizer must do. A new one is covered by being registered."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.quantizers.activation import ActivationQuantizer
from keras_compress.testing.activation_quantizers import CHECKS, quantizers_in, values_lie_on_its_grid


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_quantizer(quantizer, check) -> None:
    check(quantizer)


@pytest.mark.xla
def test_its_compiled_programs_round_to_its_grid(quantizer) -> None:
    values_lie_on_its_grid(quantizer)


def test_gradient_passes_inside_and_stops_outside(quantizer) -> None:
    layer = kc.QuantizeActivation(quantizer.make())
    layer(np.array([-1.0, 1.0], np.float32), training=True)
    x = tf.constant([-1e4, 0.01, 1e4])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    gradient = tape.gradient(y, x).numpy()
    assert gradient[1] == 1.0 or quantizer.cls.replaces_relu
    assert gradient[1] > 0
    if not quantizer.cls.__name__.startswith("Moving"):  # its range takes part of the step at once
        assert gradient[[0, 2]].tolist() == [0.0, 0.0]


def test_one_step_moves_its_variables(quantizer, bench) -> None:
    model = bench.with_points(quantizer)
    points = quantizers_in(model, quantizer.cls)
    before = [[np.array(v) for v in made.variables] for made in points]
    bench.fit(model)
    moved = [
        [v.name for v, old in zip(made.variables, values) if (np.array(v) != old).any()]
        for made, values in zip(points, before)
    ]
    # The lowest value behind a ReLU is 0 and stays there.
    assert {name for names in moved for name in names} == {v.name for v in points[0].variables} - {"not_finite"}
    assert all(names or not made.variables for names, made in zip(moved, points))


def test_trains_in_float16(quantizer, bench) -> None:
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = bench.with_points(quantizer)
        bench.fit(model, run_eagerly=True)
        outputs = np.array(model(bench.x))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert np.isfinite(outputs).all()
    assert outputs.dtype == np.float16
    for made in quantizers_in(model, ActivationQuantizer):
        assert {v.dtype for v in made.variables} <= {"float32", "int64"}


def test_all_train_in_one_compiled_step(all_quantizers, bench) -> None:
    """A model with a branch for each: XLA takes as long for it as for two of them alone."""
    x = keras.Input((6,))
    branches = [
        kc.QuantizeActivation(sample.make())(keras.layers.Dense(4, name=name.replace("-", "_"))(x))
        for name, sample in all_quantizers.items()
    ]
    model = keras.Model(x, keras.layers.Dense(3)(keras.layers.Concatenate()(branches)))
    bench.fit(model, run_eagerly=False, jit_compile=True)
    assert np.isfinite(np.array(model(bench.x))).all()
    points = quantizers_in(model, ActivationQuantizer)
    assert len(points) == len(all_quantizers)
    for made in points:
        assert made.trained(), made
        assert all(np.isfinite(np.array(v)).all() for v in made.variables), made
        assert {v.dtype for v in made.variables} <= {"float32", "int64"}
