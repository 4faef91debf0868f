"""What cannot be converted is named before any converter runs."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.quantizers.kinds import INFERENCE_IDENTITY


def model_of(layer, dtype="float32"):
    return keras.Sequential([keras.Input((4,), dtype=dtype), layer, layers.Embedding(8, 2), layers.Flatten()])


@pytest.fixture(autouse=True)
def no_converter(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tf.lite.TFLiteConverter, "from_saved_model", None)


@pytest.mark.parametrize("mode", ["int8", "float32"])
@pytest.mark.parametrize(
    ("layer", "dtype"),
    [
        (lambda: layers.StringLookup(vocabulary=["a", "b"], name="here"), "string"),
        (lambda: layers.IntegerLookup(vocabulary=[1, 2], name="here"), "int32"),
        (lambda: layers.Hashing(5, name="here"), "int32"),
        (lambda: layers.CategoryEncoding(5, output_mode="multi_hot", name="here"), "int32"),
    ],
)
def test_look_ups_are_refused_by_name(layer, dtype, mode):
    with pytest.raises(ValueError, match=r"Received: (\w+) at 'here': it .* before the model"):
        kc.convert(model_of(layer(), dtype), mode=mode, representative_dataset=np.ones((4, 4), "int32"))


def test_text_is_refused_inside_a_nested_model():
    text = layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=4, name="words")
    nested = keras.Sequential([keras.Input((1,), dtype="string"), text], name="front")
    model = keras.Sequential([keras.Input((1,), dtype="string"), nested, layers.Embedding(8, 2)])
    with pytest.raises(ValueError, match="TextVectorization at 'front/words'"):
        kc.freeze(model)


def test_unknown_sizes_are_refused_by_name():
    model = keras.Sequential(
        [keras.Input((None, None, 3), name="photo"), layers.Conv2D(2, 3), layers.GlobalAveragePooling2D()]
    )
    data = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    with pytest.raises(ValueError, match=r"static shapes except for the batch.*'photo'"):
        kc.convert(model, representative_dataset=data)
    with pytest.raises(ValueError, match=r"static shapes except for the batch.*'global_average_pooling2d"):
        kc.freeze(model, data)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    "entry",
    [
        lambda model: kc.convert(model, mode="float32"),
        lambda model: kc.freeze(model, np.eye(4, dtype="float32")),
        kc.prune_low_magnitude,
        lambda model: kc.cluster_weights(model, number_of_clusters=2),
        kc.quantize_model,
    ],
)
def test_weights_that_are_not_finite_are_named(entry, value):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="first"), layers.Dense(3)], name="net")
    model.layers[0].bias.assign([0.0, value, 0.0, 0.0])
    with pytest.raises(ValueError, match="finite weights.* 'bias' of layer 'first'"):
        entry(model)


SETTINGS = (
    {},
    {"factor": 0.5},
    {"rate": 0.5},
    {"stddev": 0.5},
    {"factor": 0.5, "value_range": (0, 1)},
    {"value_range": (0, 1)},
    {"height_factor": 0.5, "width_factor": 0.5},
    {"height_factor": 0.5},
    {"factor": 3},
)


def made(name):
    for settings in SETTINGS:
        try:
            return getattr(layers, name)(**settings)
        except (TypeError, ValueError):
            continue
    raise AssertionError(f"no settings for {name}")


def test_what_is_left_out_does_nothing_in_inference():
    shapes = {"SpatialDropout1D": (2, 4, 3), "SpatialDropout3D": (2, 3, 3, 3, 2)}
    for name in INFERENCE_IDENTITY:
        if hasattr(layers, name):
            x = np.random.default_rng(0).uniform(size=shapes.get(name, (2, 8, 8, 3))).astype("float32")
            np.testing.assert_array_equal(made(name)(x, training=False), x, err_msg=name)


def test_augmentations_are_no_part_of_the_frozen_model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6, 6, 3)), layers.RandomRotation(0.5), layers.RandomFlip(), layers.Conv2D(2, 3)]
    )
    x = np.random.default_rng(0).normal(size=(16, 6, 6, 3)).astype("float32")
    frozen = kc.freeze(model, x)
    assert not [layer for layer in frozen.layers if type(layer).__name__.startswith("Random")]
    expected = model.predict(x, verbose=0)
    assert np.abs(frozen.predict(x, verbose=0) - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("mode", ["int8", "16x8", "dynamic"])
def test_a_refusal_names_the_mode_that_was_asked_for(mode):
    inputs = keras.Input((4, 3))
    model = keras.Model(inputs, keras.layers.MultiHeadAttention(1, 2)(inputs, inputs, use_causal_mask=True))
    with pytest.raises(ValueError, match=f"Expected no mask in {mode}: "):
        kc.convert(model, mode=mode, representative_dataset=np.ones((4, 4, 3), np.float32))
