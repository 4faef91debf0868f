from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc


def test_clips_literal() -> None:
    weight = np.float32([[-3.0, -1.0], [0.2, 1.5]])
    assert np.array(kc.WeightClip()(weight)).tolist() == [[-1, -1], [np.float32(0.2), 1]]
    assert np.array(kc.WeightClip(0.5)(weight)).tolist() == [[-0.5, -0.5], [np.float32(0.2), 0.5]]


@pytest.mark.parametrize("clip_value", [0.0, -1.0, float("nan")])
def test_bad_clip_value(clip_value: float) -> None:
    with pytest.raises(ValueError, match="Expected `clip_value` above 0. Received: clip_value="):
        kc.WeightClip(clip_value)


def test_survives_serialisation() -> None:
    again = keras.constraints.deserialize(keras.constraints.serialize(kc.WeightClip(0.25)))
    assert type(again) is kc.WeightClip
    assert again.get_config() == {"clip_value": 0.25}


def test_keeps_latent_weights_of_a_wrapped_layer_in_reach(tmp_path) -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, kernel_constraint=kc.WeightClip())])
    model = kc.quantize_model(model, weights="ste_sign", activations=None)
    wrapper = model.layers[0]
    model.compile(keras.optimizers.SGD(10.0), "mse", run_eagerly=True)
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    model.fit(x, 100.0 + np.zeros((8, 3), np.float32), verbose=0)
    latent = np.array(wrapper.latent("kernel"))
    assert np.abs(latent).max() == 1.0
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras").layers[0].layer
    assert again.kernel_constraint.get_config() == {"clip_value": 1.0}
