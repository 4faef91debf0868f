"""Ranges of the steps of unrolled layers."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc


def db(reference, values):
    reference, values = (np.asarray(each, np.float64) for each in (reference, values))
    return 10 * np.log10(np.square(reference - reference.mean(axis=0)).mean() / np.square(reference - values).mean())


def scales(frozen, place):
    """Of the point of this name in each step."""
    names = [layer.name for layer in frozen.layers]
    found = [name for name in names if name.startswith("rnn.step") and name.endswith(f".{place}_quantized")]
    return [frozen.get_layer(name).quantizer.scale for name in found]


def model_of(layer):
    inputs = keras.Input((6, 3))
    model = keras.Model(inputs, layer(inputs))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape) / 2)
    return model


@pytest.mark.parametrize("layer", [layers.GRU, layers.SimpleRNN])
def test_steps_that_are_alike_share_their_integers(layer):
    model = model_of(layer(4, name="rnn"))
    frozen = kc.freeze(model, np.random.default_rng(0).normal(size=(256, 6, 3)).astype(np.float32))
    place = {"GRU": "reset", "SimpleRNN": "state"}[layer.__name__]
    # The state is zero before the first step.
    assert len(scales(frozen, place)) == 5
    assert len(set(scales(frozen, place))) == 1


def padded(count=256):
    """Six steps, of which the last two are zero."""
    x = np.random.default_rng(0).normal(size=(count, 6, 3)) * 9
    x[:, 4:] = 0
    return x.astype(np.float32)


@pytest.mark.parametrize(("units", "least"), [(2, 22.0), (4, 25.0)])
def test_steps_of_small_values_have_small_integers(units, least):
    """With the ranges of the other steps, 3.9 and 14.0 dB were left of the outputs: the padding moves them little."""
    model, x = model_of(layers.GRU(units, name="rnn")), padded()
    artifact = kc.convert(model, representative_dataset=x)
    assert kc.verify(artifact, model, x).ok
    assert db(model(x), artifact.frozen(x)) > least


def test_rows_of_small_values_are_computed_apart():
    frozen = kc.freeze(model_of(layers.LSTM(4, name="rnn")), padded(), recurrent="unrolled")
    names = [layer.name for layer in frozen.layers if ".row" in layer.name and layer.name.endswith("_quantized")]
    assert names == ["rnn.input_gates.row4_quantized", "rnn.input_gates.row5_quantized"]
