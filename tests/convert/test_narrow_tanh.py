"""Hyperbolic tangents of small values, on a grid of their own."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.convert.narrow_tanh import tanh_grid
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.quantizers.activation import FixedGrid
from keras_compress.runtime import deployed
from keras_compress.runtime.target import target
from keras_compress.tflite.flatbuffer import Graph, read_model


def test_a_grid_of_literal_numbers():
    # -0.5 to 127/256, whose tangents are -0.462117 and 0.459045.
    found = tanh_grid(FixedGrid(1 / 256, 0))
    assert found is None
    # -0.25 to 127/512, and 0 to 255/512: -0.244919 to 0.243081, and 0 to 0.460580.
    found = tanh_grid(FixedGrid(1 / 512, 0))
    assert found is not None
    assert (found.scale, found.zero_point) == (pytest.approx(0.488000 / 255, rel=1e-5), 0)
    found = tanh_grid(FixedGrid(1 / 512, -128))
    assert found is not None
    assert (found.scale, found.zero_point) == (pytest.approx(0.460580 / 255, rel=1e-5), -128)


def test_other_widths_and_unknown_grids_keep_the_kernel():
    assert tanh_grid(FixedGrid(1 / 32768, 0, bits=16)) is None
    assert tanh_grid(None) is None


@pytest.mark.parametrize("runtime", ["litert", "tflm"])
def test_small_values_keep_theirs(runtime):
    """Values of up to 0.1 have 28.2 dB in steps of 1/128: 12 * 128^2 * 0.1^2 / 3."""
    x = np.random.default_rng(0).uniform(-0.1, 0.1, (256, 4)).astype(np.float32)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Activation("tanh")(inputs))
    artifact = kc.convert(model, target=runtime, representative_dataset=x)
    kc.verify(artifact, model, x)
    (found,) = deployed.run(target(runtime), artifact.content, [x], "tanh")
    assert sqnr_db(model.predict(x, verbose=0), found) > 38


def test_trained_grids_and_large_values_keep_the_kernel():
    def operators(model, x):
        graph = Graph(read_model(kc.convert(model, representative_dataset=x).content))
        return [graph.kind(op) for op in graph.operators]

    x = np.random.default_rng(0).uniform(-0.1, 0.1, (64, 4)).astype(np.float32)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(4, kernel_initializer="identity")(inputs)
    model = keras.Model(inputs, keras.layers.Activation("tanh")(hidden))
    assert "TANH" in operators(model, 10 * x)
    trained = kc.quantize_model(model)
    trained(x, training=True)
    assert "TANH" in operators(trained, x)
    assert "TANH" not in operators(model, x)
