"""Nothing of a program's state is changed by a call, however that ends."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.common import global_state
from tensorflow.python.eager import context

import keras_compress as kc
from keras_compress.core.global_state import global_state_kept, set_seeds

L = keras.layers


def state() -> dict[str, Any]:
    """All that a program could have set for itself."""
    kept = vars(global_state.GLOBAL_STATE_TRACKER).items()
    scopes = {k: list(v) if isinstance(v, list) else v for k, v in kept if "scope" in k or "seed" in k or "ctx" in k}
    loggers = [logging.getLogger(name) for name in (None, "tensorflow", "absl", "keras")]
    generator = getattr(context.context(), "_rng", None)
    return {
        **scopes,
        "random": random.getstate(),
        "numpy": str(np.random.get_state()),  # noqa: NPY002
        "tensorflow": (context.context()._seed, generator and generator.getstate(), context.context().scope_name),
        "loggers": [(each.level, list(each.handlers), list(each.filters), each.disabled) for each in loggers],
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "policy": (keras.config.dtype_policy().name, keras.config.floatx()),
        "descriptors": [(os.fstat(n).st_dev, os.fstat(n).st_ino) for n in (1, 2)],
        "streams": (sys.stdout, sys.stderr, sys.unraisablehook, signal.getsignal(signal.SIGINT), os.getcwd()),
    }


@contextmanager
def unchanged() -> Iterator[None]:
    before = state()
    try:
        yield
    finally:
        after = state()
        assert {key for key in {*before, *after} if before.get(key) != after.get(key)} == set()


def net(name: str = "first") -> keras.Model:
    first = [L.Dense(4, name=name), L.BatchNormalization(), L.ReLU(), L.Dropout(0.5)]
    return keras.Sequential([keras.Input((8,)), *first, L.Dense(3, activation="softmax")])


X = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
Y = np.arange(32) % 3


def test_every_entry_point_leaves_the_state_alone(tmp_path, monkeypatch, recwarn) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's own would hide one that is added
    keras.utils.set_random_seed(7)
    model = net()
    with unchanged():
        artifact = kc.convert(model, representative_dataset=X)
    quantized = kc.quantize_model(model)
    calls: list[Callable[[], Any]] = [
        lambda: kc.prune_low_magnitude(model),
        lambda: kc.cluster_weights(model, number_of_clusters=4),
        lambda: kc.quantize_model(model),
        lambda: kc.quantize_post_training(model),
        lambda: kc.combine_columns(model),
        lambda: kc.prune_channels(model, round_to=1),
        lambda: kc.mask_channels(model),
        lambda: kc.add_slimming(model),
        lambda: kc.merge_channels(model),
        lambda: kc.hash_weights(model),
        lambda: kc.strip(quantized),
        lambda: kc.freeze(model, X),
        lambda: kc.convert(model, mode="float32"),
        lambda: kc.verify(artifact, model, X, kernels=("reference",)),
        lambda: kc.measure(artifact, X, Y),
        lambda: kc.sensitivity(model, lambda each: 1.0, ratios=(0.5,)),
    ]
    for call in calls:
        with unchanged():
            call()
    recwarn.clear()


def test_a_pipeline_that_is_interrupted_gives_the_seeds_back() -> None:
    def interrupt(model: keras.Model, stage: Any) -> None:
        raise KeyboardInterrupt

    model = net()
    with unchanged(), pytest.raises(KeyboardInterrupt):
        kc.deep_compression(
            model, X, Y, validation_data=(X, Y), training=kc.Training(fit=interrupt), pruning=kc.Pruning((0.5,))
        )


def test_a_failed_conversion_leaves_no_scope_open() -> None:
    """TensorFlow refuses the name when Keras has its scope open: the next training fails in it."""
    odd = keras.Sequential([keras.Input((3, 2), name="a b"), keras.layers.LSTM(2, name="a b c")])
    model = net()
    with unchanged(), pytest.raises((RuntimeError, ValueError), match="a b c"):
        kc.convert(odd, mode="float32")
    with unchanged(), pytest.raises(ValueError, match="finite"):
        kc.convert(model, representative_dataset=X * np.nan)
    assert keras.Variable(0.0, name="fresh").path == "fresh"


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError, None])
def test_all_is_restored_however_it_ends(failure: type[BaseException] | None) -> None:
    @global_state_kept()
    def call() -> None:
        keras.utils.set_random_seed(1)
        tf.random.uniform((1,))
        keras.name_scope("left").__enter__()
        keras.saving.custom_object_scope({"mine": net}).__enter__()
        logging.getLogger().addHandler(logging.NullHandler())
        logging.getLogger("tensorflow").setLevel(1)
        if failure is not None:
            raise failure

    with unchanged():
        try:
            call()
        except (KeyboardInterrupt, ValueError):
            assert failure is not None


def test_seeds_hold_for_a_model_that_is_loaded_again(tmp_path) -> None:
    """Dropout draws its seed when it is made, and no file keeps it."""
    net().save(tmp_path / "m.keras")
    weights = []
    for _ in range(2):
        model = keras.models.load_model(tmp_path / "m.keras")
        set_seeds(3, model)
        model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
        model.train_on_batch(X, Y)
        weights.append(np.array(model.layers[0].kernel))
    np.testing.assert_array_equal(*weights)
    fixed = L.Dropout(0.5, seed=11)
    set_seeds(3, keras.Sequential([keras.Input((2,)), fixed]))
    assert list(np.array(fixed.seed_generator.state)) == [11, 0]
