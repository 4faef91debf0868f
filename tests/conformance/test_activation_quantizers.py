"""What every activation quantizer must do. A new one is covered by being registered."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.quantizers.activation import ActivationQuantizer


def quantizers(model: keras.Model, cls: type = ActivationQuantizer) -> list:
    found = [layer.quantizer for layer in model.layers if isinstance(layer, kc.QuantizeActivation)]
    return [quantizer for quantizer in found if isinstance(quantizer, cls)]


def test_config_keys_are_the_constructors_arguments(quantizer, arguments_of) -> None:
    made = quantizer.make()
    config = made.get_config()
    assert set(config) == arguments_of(quantizer.cls)
    assert type(made).from_config(config).get_config() == config
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    assert type(again) is quantizer.cls
    assert again.get_config() == config


def test_training_goes_on_bit_equal_after_saving_and_loading(quantizer, bench, tmp_path) -> None:
    model = bench.fit(bench.with_points(quantizer))
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(np.array(model(bench.x)), np.array(again(bench.x)))
    bench.fit(model)
    bench.fit(again)
    for old, new in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(np.array(old), np.array(new))


def test_grid(quantizer, bench) -> None:
    """At most 2^bits values, all of them on `scale * (integer - zero_point)`, 0.0 among them, idempotent."""
    made = quantizer.make()
    layer = kc.QuantizeActivation(made)
    x = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    layer(x, training=True)
    assert made.trained()
    y = np.array(layer(x))
    scale, zero_point = (float(p) for p in made.parameters())
    integers = y / scale + zero_point
    np.testing.assert_allclose(integers, np.round(integers), atol=1e-3)
    assert np.round(integers).min() >= made.spec.minimum
    assert np.round(integers).max() <= made.spec.maximum
    assert 1 < len(np.unique(y)) <= 2**made.bits
    assert np.array(layer(np.zeros(1, np.float32))).tolist() == [1.0 if made.replaces_relu else 0.0]
    np.testing.assert_array_equal(np.array(layer(y)), y)


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
    points = quantizers(model, quantizer.cls)
    before = [[np.array(v) for v in made.variables] for made in points]
    bench.fit(model)
    moved = [
        [v.name for v, old in zip(made.variables, values) if np.array(v) != old] for made, values in zip(points, before)
    ]
    # The lowest value behind a ReLU is 0 and stays there.
    assert {name for names in moved for name in names} == {v.name for v in points[0].variables} - {"not_finite"}
    assert all(names or not made.variables for names, made in zip(moved, points))


def test_strip_leaves_the_outputs(quantizer, bench) -> None:
    model = bench.with_points(quantizer)
    model(bench.x, training=True)
    plain = kc.strip(model)
    assert not quantizers(plain)
    np.testing.assert_array_equal(np.array(model(bench.x)), np.array(plain(bench.x)))
    assert np.abs(np.array(plain(bench.x))).max() > 0


@pytest.mark.parametrize("how", ["jit", "mixed_float16"])
def test_trains_compiled_and_in_float16(quantizer, bench, how: str) -> None:
    keras.mixed_precision.set_global_policy("mixed_float16" if how == "mixed_float16" else "float32")
    try:
        model = bench.with_points(quantizer)
        bench.fit(model, jit_compile=how == "jit", run_eagerly=how == "mixed_float16")
        outputs = np.array(model(bench.x))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert np.isfinite(outputs).all()
    assert outputs.dtype == (np.float16 if how == "mixed_float16" else np.float32)
    for made in quantizers(model):
        assert {v.dtype for v in made.variables} <= {"float32", "int64"}
