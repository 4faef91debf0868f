"""Files with masked recurrent layers: near Keras's float model for every padding, and the frozen model's integers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.convert.distance import sqnr_db
from keras_compress.runtime.litert import LiteRT
from keras_compress.runtime.tflm import TFLM

STEPS, INPUTS = 5, 3
TARGETS = {"litert": LiteRT(), "tflm": TFLM()}


def padded(where: str) -> np.ndarray:
    """Sequences of 0 to 5 steps."""
    x = np.random.default_rng(0).normal(size=(60, STEPS, INPUTS)).astype(np.float32)
    for row, length in zip(x, np.arange(60) % (STEPS + 1), strict=True):
        (row[length:] if where == "behind" else row[: STEPS - length])[:] = 0
    return x


def model_of(build) -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((STEPS, INPUTS), name="x")
    return keras.Model(inputs, layers.Dense(4, name="dense")(build(layers.Masking(name="masking")(inputs))))


def check(made, model, x, target: str, least_db: float) -> None:
    (outputs,) = TARGETS[target].run(made.content, [x])
    assert sqnr_db(model.predict(x, verbose=0), outputs) > least_db
    found = kc.verify(made, model, x)
    assert found, str(found)
    if (target, made.mode) == ("tflm", "int8"):
        assert {row.fraction_differing for row in found.rows} == {0.0}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("build", "where"),
    [
        (lambda x: layers.LSTM(8, name="lstm")(x), "behind"),
        (lambda x: layers.GRU(8, name="gru")(x), "in front"),
        (lambda x: layers.Bidirectional(layers.SimpleRNN(6), name="both")(x), "behind"),
    ],
    ids=["lstm", "gru", "both"],
)
def test_converted_and_verified(build, where, target):
    model, x = model_of(build), padded(where)
    made = kc.convert(model, target, representative_dataset=x)
    check(made, model, x, target, 25)
    # A sequence that is padding only leaves the first state: what the dense layer makes of zeros.
    empty = np.arange(60) % (STEPS + 1) == 0
    bias = np.asarray(model.get_layer("dense").bias)
    np.testing.assert_allclose(TARGETS[target].run(made.content, [x[empty]])[0], np.tile(bias, (10, 1)), atol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mode", ["int8", "16x8"])
def test_tokens(mode, target):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((STEPS,), name="tokens", dtype="int32")
    rows = layers.Embedding(9, 6, mask_zero=True, embeddings_initializer=keras.initializers.RandomNormal(0, 1))(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="dense")(layers.GRU(8, name="gru")(rows)))
    tokens = np.random.default_rng(0).integers(1, 9, (60, STEPS))
    tokens[np.arange(STEPS) >= (np.arange(60) % (STEPS + 1))[:, None]] = 0
    tokens = tokens.astype(np.int32)
    made = kc.convert(model, target, mode=mode, representative_dataset=tokens)
    check(made, model, tokens, target, 25 if mode == "int8" else 35)


def test_a_frozen_model_is_saved(tmp_path):
    frozen, x = kc.freeze(model_of(lambda x: layers.GRU(3, name="gru")(x)), padded("behind")), padded("in front")
    frozen.save(tmp_path / "frozen.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "frozen.keras")(x), frozen(x))


def test_with_ranges_of_training():
    model, x = model_of(lambda x: layers.SimpleRNN(8, name="rnn")(x)), padded("behind")
    model = kc.quantize_model(model)
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(x, np.zeros((60, 4)), verbose=0)
    made = kc.convert(model, "tflm", representative_dataset=x)
    check(made, model, x, "tflm", 25)


def test_masks_of_16_bits_are_of_tokens():
    model = model_of(lambda x: layers.SimpleRNN(3, name="rnn")(x))
    with pytest.raises(ValueError, match="mode='int8' for the mask of a Masking layer.* Received: 'rnn.mask.present'"):
        kc.freeze(model, padded("behind"), activation_bits=16)


def test_the_operator_is_refused_and_steps_are_unrolled():
    model, x = model_of(lambda x: layers.LSTM(3, name="lstm")(x)), padded("behind")
    made = kc.convert(model, "tflm", representative_dataset=x, recurrent="fused")
    assert any("lstm: unrolled over 5 steps: there is no operator for a layer with a mask" in n for n in made.notes)
    with pytest.raises(ValueError, match="lstm: unrolled over 5 steps.*with a mask"):
        kc.convert(model, "tflm", representative_dataset=x, recurrent="fused", strict=True)


@pytest.mark.parametrize("mode", ["float32", "float16"])
def test_float_files_keep_masks(mode):
    model, x = model_of(lambda x: layers.GRU(8, name="gru")(x)), padded("behind")
    (outputs,) = TARGETS["litert"].run(kc.convert(model, "litert", mode=mode).content, [x])
    assert sqnr_db(model.predict(x, verbose=0), outputs) > (100 if mode == "float32" else 50)
