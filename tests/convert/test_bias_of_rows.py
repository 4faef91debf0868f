"""A Dense layer on five dimensions: its bias belongs to FULLY_CONNECTED."""

import keras
import numpy as np

import keras_compress as kc


def test_no_float_operator_is_left(lab):
    inputs = keras.Input((2, 2, 2, 3), name="x")
    model = keras.Model(inputs, keras.layers.Dense(2, activation="relu", name="dense")(inputs))
    model.get_layer("dense").bias.assign([0.5, -0.25])
    x = np.random.default_rng(0).normal(size=(16, 2, 2, 2, 3)).astype(np.float32)
    artifact = kc.convert(model, representative_dataset=x)
    assert artifact.float_ops == ()
    assert lab.operators(artifact.content).count("FULLY_CONNECTED") == 1
    assert "ADD" not in lab.operators(artifact.content)
    got = lab.run(artifact.content, {"x": x}, "reference")
    step = artifact.frozen.layers[-1].quantizer.scale
    assert np.abs(next(iter(got.values())) - np.asarray(artifact.frozen(x))).max() <= 1.01 * step
