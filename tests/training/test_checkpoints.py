"""Stop and go on: from a saved model, from saved weights, and after the process was killed."""

from __future__ import annotations

import json
import signal

import keras
import pytest
from tests_training import (
    array,
    assert_moved,
    assert_pruned,
    assert_same,
    fit,
    fit_with_backup,
    momentum,
    pcqat,
    pruners,
    resume,
    run_python,
    steps,
)


@pytest.fixture(scope="module")
def uninterrupted() -> keras.Model:
    return fit(pcqat("conv_bn_relu", scope="global"), keras.optimizers.Adam(0.01), epochs=3)


def first_epoch(path, **settings) -> keras.Model:
    checkpoint = keras.callbacks.ModelCheckpoint(path, **settings)
    model = pcqat("conv_bn_relu", scope="global")
    return fit(model, keras.optimizers.Adam(0.01), epochs=1, callbacks=[checkpoint])


def test_a_saved_model_goes_on_as_if_nothing_had_been(uninterrupted: keras.Model, tmp_path) -> None:
    first = first_epoch(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert_same(again, first)
    assert steps(again) == ({4}, {4})
    resume(again, epochs=3, initial_epoch=1)
    assert_same(again, uninterrupted)
    assert_pruned_together(again)


def test_saved_weights_go_on_in_a_model_made_anew(uninterrupted: keras.Model, tmp_path) -> None:
    first_epoch(tmp_path / "model.weights.h5", save_weights_only=True)
    again = pcqat("conv_bn_relu", scope="global")
    again.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    # Keras loads an optimizer only where it has been built.
    again.optimizer.build(again.trainable_variables)
    again.load_weights(tmp_path / "model.weights.h5")
    assert steps(again) == ({4}, {4})
    resume(again, epochs=3, initial_epoch=1)
    assert_same(again, uninterrupted)


def test_the_best_model_only_is_that_of_its_epoch(tmp_path) -> None:
    """By a measure that says the first epoch was the best."""
    path = tmp_path / "best.keras"
    best = keras.callbacks.ModelCheckpoint(path, monitor="loss", mode="max", save_best_only=True)
    latest = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    model = fit(pcqat(), momentum(), epochs=2, callbacks=[best, latest])
    saved = keras.models.load_model(path)
    assert steps(saved) == ({4}, {4})
    assert steps(model) == ({8}, {8})
    assert_same(saved, keras.models.load_model(tmp_path / "1.keras"))
    # Its schedule has two more batches to go, and ends as the one that was not interrupted.
    assert any("stopped at step 4" in str(p.pending()) for p in pruners(saved))
    resume(saved, epochs=2, initial_epoch=1)
    assert_same(saved, model)
    assert_pruned(saved)


def assert_pruned_together(model: keras.Model) -> None:
    masks = [array(p.mask) for p in pruners(model)]
    total = sum(mask.size for mask in masks)
    assert sum(int(mask.sum()) for mask in masks) == round(0.4 * total)


@pytest.mark.parametrize("eager", [False, True], ids=["graph", "eager"])
def test_a_killed_training_ends_bit_for_bit_as_an_uninterrupted_one(eager: bool, tmp_path) -> None:
    backup = tmp_path / "backup"
    code = "import sys, tests_training as t; from tests_xla import xla; xla.turn(False); "
    code += "t.fit_with_backup(sys.argv[1], eager=sys.argv[2] == 'True', kill=(2, 1))"
    killed = run_python(code, backup, eager)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert json.loads((backup / "training_metadata.json").read_text())["epoch"] == 2
    resumed, expected = fit_with_backup(backup, eager=eager), fit_with_backup(eager=eager)
    assert steps(resumed) == ({16}, {16})
    assert_same(resumed, expected)
    assert_moved(resumed, pcqat("conv_bn_relu", scope="global"))
    assert_pruned_together(resumed)
