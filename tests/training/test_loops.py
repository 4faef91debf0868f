"""Ways to run the same batches: `fit`, `train_on_batch`, loops of one's own, eager, XLA, several steps at once."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from packaging.version import parse as version
from tests_training import (
    assert_moved,
    assert_pruned,
    assert_same,
    batches_of,
    data,
    fit,
    momentum,
    ours,
    pcqat,
    points,
    pruners,
    steps,
    wrappers,
)


@pytest.fixture(scope="module")
def fitted() -> keras.Model:
    return fit(pcqat("conv_bn_relu"))


def train_in_a_loop(model: keras.Model, traced: bool) -> keras.Model:
    model.compile(momentum(), "mse")
    optimizer, loss_of = model.optimizer, keras.losses.MeanSquaredError()
    optimizer.build(model.trainable_variables)

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        found = model.trainable_variables
        optimizer.apply(tape.gradient(loss, [v.value for v in found]), found)

    run = tf.function(step) if traced else step
    for _ in range(2):
        for x, y in batches_of(model):
            run(tf.constant(x), tf.constant(y))
    return model


def test_fit_moves_masks_centroids_and_ranges_once_a_batch(fitted: keras.Model) -> None:
    assert_moved(fitted, pcqat("conv_bn_relu"))
    assert steps(fitted) == ({8}, {8})
    assert_pruned(fitted)


def test_train_on_batch_equals_fit(fitted: keras.Model) -> None:
    model = pcqat("conv_bn_relu")
    model.compile(momentum(), "mse", jit_compile=False)
    for _ in range(2):
        for x, y in batches_of(model):
            model.train_on_batch(x, y)
    assert_same(model, fitted)


def test_a_traced_loop_with_gradient_tape_equals_fit_but_for_rounding(fitted: keras.Model) -> None:
    """Another graph, in which TensorFlow may sum up in another order: the last bit of a float."""
    assert_same(train_in_a_loop(pcqat("conv_bn_relu"), traced=True), fitted, rtol=1e-5, atol=1e-6)


def test_an_eager_loop_with_gradient_tape_equals_fit_but_for_rounding(fitted: keras.Model) -> None:
    """Graph and eager sum up in other orders: floats differ in the last bits, masks and counters do not."""
    assert_same(train_in_a_loop(pcqat("conv_bn_relu"), traced=False), fitted, rtol=1e-3, atol=1e-5)


def test_run_eagerly_equals_fit_but_for_rounding(fitted: keras.Model) -> None:
    assert_same(fit(pcqat("conv_bn_relu"), run_eagerly=True, jit_compile="auto"), fitted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("at_once", [3, 4])
def test_steps_per_execution_equals_fit(fitted: keras.Model, at_once: int) -> None:
    assert_same(fit(pcqat("conv_bn_relu"), steps_per_execution=at_once), fitted)


@pytest.mark.xla
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_jit_compile_equals_fit_but_for_rounding(scope: str) -> None:
    model, expected = (fit(pcqat(scope=scope), jit_compile=jit) for jit in (True, False))
    assert steps(model)[0] == {8}
    assert_same(model, expected, rtol=1e-3, atol=1e-5)


def test_gradient_accumulation_counts_batches_and_moves_latents_each_fourth() -> None:
    model = pcqat()
    start = [np.array(w.latent("kernel").value) for w in wrappers(model)]
    optimizer = keras.optimizers.SGD(0.01, gradient_accumulation_steps=4)
    model.compile(optimizer, "mse", jit_compile=False)
    batches = batches_of(model)
    for number, (x, y) in enumerate(batches, start=1):
        model.train_on_batch(x, y)
        assert steps(model)[0] == {number}
        same = [np.array_equal(a, np.array(w.latent("kernel").value)) for a, w in zip(start, wrappers(model))]
        assert set(same) == {number < 4}
    # Steps 0 and 2 have pruned: 0.6 - 0.4 * (4 / 6) ** 3.
    assert [p.sparsity() for p in pruners(model)] == pytest.approx([0.4815] * 2, abs=0.01)


def test_gradient_accumulation_under_fit_and_xla() -> None:
    def optimizer():
        return keras.optimizers.SGD(0.01, momentum=0.9, gradient_accumulation_steps=4)

    model, expected = (fit(pcqat(), optimizer(), jit_compile=jit) for jit in (True, False))
    assert_same(model, expected, rtol=1e-3, atol=1e-5)
    assert_pruned(model)


def test_a_point_in_a_model_called_twice_takes_both_calls_into_account() -> None:
    """Its average has two terms a batch: a range has to hold for both places."""
    model = fit(pcqat("nested_twice"))
    assert steps(model) == ({8}, {8, 16})


@pytest.mark.skipif(
    version(keras.__version__) < version("3.12"),
    reason="Keras 3.11 fails there",
)
def test_data_parallel_of_keras_changes_nothing_on_this_backend() -> None:
    """Keras's TensorFlow backend takes the setting and leaves every variable on one device (Keras 3.15)."""
    expected = fit(pcqat())
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=["cpu:0"]))
    try:
        model = fit(pcqat())
    finally:
        keras.distribution.set_distribution(None)
    assert_same(model, expected)


def test_a_train_step_of_ones_own_counts_one_step() -> None:
    class Halved(keras.Model):
        """Trains on half of each batch: still one step of the schedule."""

        def train_step(self, batch):
            x, y = batch
            return super().train_step((x[:4], y[:4]))

    inner = pcqat()
    model = Halved(inner.inputs, inner.outputs)
    model.compile(momentum(), "mse", jit_compile=False)
    x, y = data(model)
    model.fit(x, y, batch_size=8, verbose=0, shuffle=False)
    assert steps(model) == ({4}, {4})


def test_evaluating_between_epochs_moves_nothing() -> None:
    model = pcqat()
    model.compile(momentum(), "mse", jit_compile=False)
    x, y = data(model)
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, validation_data=(10 * x, y))
    assert_same(model, fit(pcqat()))
    assert set(ours(model)) == {"mask", "step", "centroids", "minimum", "maximum", "batches"}
    assert all(float(point.quantizer.range()[1]) < 10 for point in points(model))
