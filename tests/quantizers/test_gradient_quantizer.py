from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.core.registry import resolve


def backward(layer, gradient: np.ndarray, training: bool = True) -> np.ndarray:
    """What comes out of the layer where `gradient` arrives."""
    inputs = tf.zeros(gradient.shape, gradient.dtype)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=training)
    return tape.gradient(outputs, inputs, output_gradients=tf.constant(gradient)).numpy()


def noise(shape: tuple[int, ...], seed: int, step: int) -> np.ndarray:
    count = int(np.prod(shape))
    seeds = tf.constant([seed, step], "int64")
    integers = tf.random.stateless_uniform([(count + 1) // 2], seeds, None, None, "uint32", "philox").numpy()
    return (np.concatenate([integers // 65536, integers % 65536])[:count] / 65536 - 0.5).reshape(shape)


@pytest.mark.parametrize("bits", [1, 2, 6, 8])
def test_equation_12(bits: int) -> None:
    gradient = np.random.default_rng(0).normal(size=(5, 3, 5)).astype(np.float32) * 1e-3
    layer = kc.DoReFaGradient(bits, seed=7)
    top = 2**bits - 1
    for step in range(3):
        found = backward(layer, gradient)
        largest = np.abs(gradient).max(axis=(1, 2), keepdims=True).astype(np.float64)
        quantized = np.round(top * (gradient / (2 * largest) + 0.5 + noise(gradient.shape, 7, step) / top)) / top
        expected = 2 * largest * (np.clip(quantized, 0, 1) - 0.5)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-9)
        for sample in found:
            assert len(np.unique(sample)) <= 2**bits
    assert int(layer.step) == 3


def test_literal_one_bit_is_plus_or_minus_the_largest() -> None:
    gradient = np.array([[3.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-2.0, 2.0, 0.0]], np.float32)
    found = backward(kc.DoReFaGradient(1), gradient)
    assert set(np.abs(found[0])) == {3.0}
    assert found[0, 0] == 3.0
    assert found[1].tolist() == [0, 0, 0]  # no NaN
    assert found[2, :2].tolist() == [-2, 2]
    assert abs(found[2, 2]) == 2


@pytest.mark.parametrize("bits", [1, 3])
def test_unbiased(bits: int) -> None:
    gradient = np.array([[1.0, -0.7, 0.3, 0.05, 0.0, -1.0]], np.float32)
    layer = kc.DoReFaGradient(bits)
    mean = np.mean([backward(layer, np.tile(gradient, (200, 1))).mean(axis=0) for _ in range(20)], axis=0)
    # One draw has a standard deviation of at most half the distance of two levels, 2 / (2^bits - 1).
    np.testing.assert_allclose(mean, gradient[0], atol=5 / (2**bits - 1) / 4000**0.5)


def test_identity_forward_and_untouched_in_inference_or_frozen() -> None:
    layer = kc.DoReFaGradient(2)
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    np.testing.assert_array_equal(np.array(layer(x, training=True)), x)
    np.testing.assert_array_equal(np.array(layer(x)), x)
    np.testing.assert_array_equal(backward(layer, x, training=False), x)
    layer.trainable = False
    np.testing.assert_array_equal(backward(layer, x), x)
    assert int(layer.step) == 1


def test_seeds_and_steps_change_the_noise() -> None:
    gradient = np.random.default_rng(0).normal(size=(4, 50)).astype(np.float32)
    first, again, other = kc.DoReFaGradient(2), kc.DoReFaGradient(2), kc.DoReFaGradient(2, seed=1)
    at_zero = backward(first, gradient)
    np.testing.assert_array_equal(at_zero, backward(again, gradient))
    assert (at_zero != backward(other, gradient)).mean() > 0.2
    assert (at_zero != backward(first, gradient)).mean() > 0.2


def test_float16_in_and_out() -> None:
    gradient = np.array([[6e4, -6e4, 1.0]], np.float16)
    found = backward(kc.DoReFaGradient(8), gradient)
    assert found.dtype == np.float16
    assert np.isfinite(found).all()
    assert found[0, :2].tolist() == [float(np.float16(6e4)), -float(np.float16(6e4))]


def model_with(bits: int | None, dtype: str = "float32") -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    y = layers.Dense(16, activation="relu", dtype=dtype)(inputs)
    y = y if bits is None else kc.DoReFaGradient(bits, name="g")(y)
    return keras.Model(inputs, layers.Dense(2, dtype="float32")(y))


def data() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    return x, np.stack([x[:, 0] * x[:, 1], np.abs(x[:, 2])], axis=1)


def fit(model: keras.Model, epochs: int, jit_compile: bool = False) -> list[float]:
    if not model.compiled:
        model.compile(keras.optimizers.Adam(0.02), "mse", jit_compile=jit_compile)
    return model.fit(*data(), batch_size=32, epochs=epochs, shuffle=False, verbose=0).history["loss"]


@pytest.mark.parametrize(("jit_compile", "dtype"), [(False, "float32"), (True, "float32"), (False, "mixed_float16")])
def test_trains(jit_compile: bool, dtype: str) -> None:
    model = model_with(2, dtype)
    losses = fit(model, 12, jit_compile)
    assert losses[-1] < 0.4 * losses[0]
    assert int(model.get_layer("g").step) == 24


def test_a_model_without_it_trains_otherwise() -> None:
    assert fit(model_with(2), 2)[-1] != fit(model_with(None), 2)[-1]


def test_training_goes_on_bit_equal_after_saving_and_loading(tmp_path) -> None:
    model = model_with(2)
    fit(model, 1)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    fit(model, 2)
    fit(again, 2)
    for old, new in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(np.array(old), np.array(new))
    assert int(again.get_layer("g").step) == 6


def test_a_layer_in_two_places_counts_one_step() -> None:
    inputs = keras.Input((3,))
    layer = kc.DoReFaGradient(4)
    model = keras.Model(inputs, layer(layer(inputs)))
    model(np.ones((2, 3), np.float32), training=True)
    assert int(layer.step) == 1


def test_nothing_is_left_of_it_in_a_stripped_model() -> None:
    model = model_with(4)
    plain = kc.strip(model)
    assert not [layer for layer in plain.layers if isinstance(layer, kc.DoReFaGradient)]
    x, _ = data()
    np.testing.assert_array_equal(np.array(model(x)), np.array(plain(x)))


def test_configuration_and_names() -> None:
    for arguments in kc.DoReFaGradient.samples():
        made = kc.DoReFaGradient(**arguments)
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
        assert type(again) is kc.DoReFaGradient
        assert again.get_config() == made.get_config()
        assert set(made.get_config()) == {"bits", "seed", "name", "trainable"}
    assert type(resolve("gradient_quantizer", "dorefa_gradient")) is kc.DoReFaGradient


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 0}, "Expected `bits` to be an integer from 1 to 8. Received: bits=0"),
        ({"bits": 9}, "Received: bits=9"),
        ({"seed": -1}, "Expected `seed` to be an integer from 0. Received: seed=-1"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kc.DoReFaGradient(**arguments)


def test_anything_else_is_refused() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="Expected a gradient quantizer.*Received: gradients=6"):
        kc.quantize_model(model, gradients=6)
