"""Files with LSTMs over images: near the float model, and the frozen model's integers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.convert.distance import sqnr_db
from keras_compress.runtime.litert import LiteRT
from keras_compress.runtime.tflm import TFLM

SHAPE = (3, 7, 7, 2)
TARGETS = {"litert": LiteRT(), "tflm": TFLM()}


def sequences(x):
    return layers.ConvLSTM2D(3, 3, padding="same", return_sequences=True, name="images")(x)


def last_of_coarse_images(x):
    x = layers.ConvLSTM2D(3, 3, strides=2, go_backwards=True, dropout=0.5, name="images")(x)
    return layers.Dense(4, name="dense")(layers.Flatten(name="flat")(x))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mode", ["int8", "16x8"])
@pytest.mark.parametrize("build", [sequences, last_of_coarse_images])
def test_converted_and_verified(build, mode, target):
    keras.utils.set_random_seed(1)
    inputs = keras.Input(SHAPE, name="x")
    model = keras.Model(inputs, build(inputs))
    x = np.random.default_rng(0).normal(size=(48, *SHAPE)).astype(np.float32)
    made = kc.convert(model, target, mode=mode, representative_dataset=x)
    (outputs,) = TARGETS[target].run(made.content, [x])
    assert sqnr_db(model.predict(x, verbose=0), outputs) > (25 if mode == "int8" else 40)
    found = kc.verify(made, model, x[:8])
    assert found, str(found)
    if (target, mode) == ("tflm", "int8"):
        assert {row.fraction_differing for row in found.rows} == {0.0}


def test_volumes_are_refused_by_name():
    inputs = keras.Input((2, 4, 4, 4, 1))
    model = keras.Model(inputs, layers.ConvLSTM3D(2, 2, name="volumes")(inputs))
    with pytest.raises(ValueError, match="ConvLSTM3D at 'volumes', for CONV_3D, which .* mode='float32'"):
        kc.freeze(model, np.random.default_rng(0).normal(size=(4, 2, 4, 4, 4, 1)).astype(np.float32))
