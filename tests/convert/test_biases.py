"""Biases belong to the product, whatever the shape of its inputs, and where two products share them."""

import keras
import numpy as np
import pytest

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


@pytest.mark.parametrize("layer", ["Conv1D", "DepthwiseConv2D"])
def test_two_dilated_convolutions_of_one_input_keep_their_biases(layer, lab):
    def dilated(**options):
        options |= {"dilation_rate": 2, "bias_initializer": keras.initializers.RandomNormal(stddev=0.5)}
        if layer == "Conv1D":
            return keras.layers.Conv1D(4, 2, padding="causal", **options)
        return keras.layers.DepthwiseConv2D(3, padding="same", **options)

    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 4) if layer == "Conv1D" else (6, 6, 4), name="x")
    gate = [dilated(activation="relu")(inputs), dilated(activation="sigmoid")(inputs)]
    model = keras.Model(inputs, keras.layers.Multiply()(gate))
    x = np.random.default_rng(0).normal(size=(32, *inputs.shape[1:])).astype(np.float32)
    artifact = kc.convert(model, representative_dataset=x)
    assert artifact.float_ops == ()
    assert "ADD" not in lab.operators(artifact.content)
    got = next(iter(lab.run(artifact.content, {"x": x}, "reference").values()))
    wanted = np.asarray(model(x))
    assert np.square(got - wanted).mean() < 1e-3 * np.square(wanted - wanted.mean()).mean()
    assert kc.verify(artifact, model, x, kernels=["reference"]).ok
