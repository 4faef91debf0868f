"""WrapNet: the cyclic activation and the penalty by literal numbers, and sums that wrap in NumPy."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.quantizers.wrapped_sums import cyclic, knee
from keras_compress.runtime.integer_model import wrapped

RNG = np.random.default_rng(3)
X = RNG.normal(size=(48, 8, 8, 2)).astype(np.float32)


def quantized(pool: bool = True) -> keras.Model:
    keras.utils.set_random_seed(2)
    net = [
        keras.Input((8, 8, 2)),
        layers.Conv2D(6, 3, use_bias=False, name="first"),
        layers.BatchNormalization(),
        layers.ReLU(),
        *([layers.MaxPooling2D(2)] if pool else []),
        layers.Conv2D(5, 3, use_bias=False, name="middle"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(3, name="last"),
    ]
    ends = [{"layers": ["first", "last"], "weights": "int8"}]
    model = kc.quantize_model(keras.Sequential(net), "bwn", {"class_name": "Pact", "config": {"bits": 2}}, rules=ends)
    model(X, training=True)
    return model


def test_the_cyclic_activation_is_that_of_the_paper() -> None:
    # 4 bits: sums from -8 to 7; slope 3: as they are up to 6, then down by 3 for each 1, to 0 at 8.
    sums = np.array([0, 5, 6, 7, 8, 9, 10, 11, 16, -6, -7, -8, -9, 21, -16], np.float32)
    wanted = [0, 5, 6, 3, 0, -3, -6, -5, 0, -6, -3, 0, 3, 5, 0]
    np.testing.assert_allclose(cyclic(tf.constant(sums), 4, 3.0), wanted, atol=1e-5)
    assert knee(4, 3.0) == 6
    # The same, whatever an accumulator of 4 bits has lost.
    many = np.arange(-200, 200)
    over = cyclic(tf.constant(wrapped(many, 4), tf.float32), 4, 3.0)
    np.testing.assert_allclose(cyclic(tf.constant(many, tf.float32), 4, 3.0), over, atol=1e-4)
    at = tf.Variable([2.0, 7.0, -7.5, 18.0])
    with tf.GradientTape() as tape:
        outputs = cyclic(at, 4, 3.0)
    np.testing.assert_allclose(tape.gradient(outputs, at), [1, -3, -3, 1])


@pytest.mark.parametrize("pool", [True, False])
def test_a_layer_computes_what_wrapped_sums_in_integers_make(pool: bool) -> None:
    model = quantized(pool)
    found = kc.wrap_sums(model, 4, slope=2.0)
    layer = found.get_layer("middle")
    assert isinstance(layer, kc.WrappedSums)
    integers = layer.transforms["kernel"][0].integer_weight(layer.latent("kernel"))
    grid = layer.input_point.quantizer
    scale, zero = (float(p) for p in grid.parameters())
    x = np.abs(RNG.normal(size=(4, 3, 3, 6))).astype(np.float32)
    codes = np.clip(np.rint(x / scale) + zero, grid.spec.minimum, grid.spec.maximum) - zero
    sums = np.einsum("nijc,ijco->no", codes, integers.integers.astype(float))
    assert np.abs(sums).max() > 8
    held = wrapped(np.rint(sums).astype(int), 4)
    # c with k = 2 and 4 bits: as it is up to 16/3, beyond 2 (8 - |m|).
    wanted = np.where(np.abs(held) <= 16 / 3, held, np.sign(held) * 2 * (8 - np.abs(held)))
    outputs = np.asarray(layer(x)).reshape(4, 5)
    np.testing.assert_allclose(outputs, wanted * integers.scale.reshape(-1) * scale, atol=1e-4)
    # The penalty is the mean of what is beyond the fold.
    layer(x, training=True)
    assert float(sum(layer.losses)) >= 1e-3 * np.maximum(np.abs(sums) - 16 / 3, 0).mean() - 1e-5
    assert float(sum(layer.losses)) > 0


@pytest.mark.parametrize(
    "made", [layers.Dense(4), layers.Conv2D(4, 2), layers.DepthwiseConv2D(2, depth_multiplier=2)], ids=lambda m: m.name
)
def test_the_bias_is_added_behind_the_sums(made: keras.layers.Layer) -> None:
    keras.utils.set_random_seed(4)
    tail = [layers.Flatten()] if isinstance(made, layers.Dense) else []
    net = keras.Sequential([keras.Input((3, 3, 2)), layers.ReLU(), *tail, type(made).from_config(made.get_config())])
    model = kc.quantize_model(net, "bwn", {"class_name": "Pact", "config": {"bits": 2}})
    model(X[:, :3, :3], training=True)
    layer = next(each for each in kc.wrap_sums(model, 4).layers if isinstance(each, kc.WrappedSums))
    x = np.abs(RNG.normal(size=(4, *layer.input.shape[1:]))).astype(np.float32)
    plain, losses = np.asarray(layer(x, training=True)), float(sum(layer.losses))
    assert losses > 0
    # Far beyond what 4 bits hold, another for each channel; its gradient is that of an addition.
    bias = np.array([5.0, -50.0, 0.3, 20.0], np.float32)
    layer.layer.bias.assign(bias)
    with tf.GradientTape() as tape:
        outputs = layer(x, training=True)
    np.testing.assert_allclose(outputs, plain + bias, atol=1e-4)
    assert float(sum(layer.losses)) == pytest.approx(losses, rel=1e-3)
    gradient = tape.gradient(outputs, layer.layer.bias.value)
    np.testing.assert_allclose(gradient, np.full(4, plain.size / 4), rtol=1e-5)


def test_wide_accumulators_change_nothing_and_first_and_last_layer_are_left(tmp_path: Path) -> None:
    model = quantized()
    found = kc.wrap_sums(model, 12, filters="middle")
    np.testing.assert_allclose(found.predict(X, verbose=0), model.predict(X, verbose=0), atol=1e-4)
    narrow = kc.wrap_sums(model, 4)
    kinds = {layer.name: type(layer).__name__ for layer in narrow.layers}
    assert [kinds[name] for name in ("first", "middle", "last")] == ["Compressed", "WrappedSums", "Compressed"]
    outputs = narrow.predict(X, verbose=0)
    assert np.abs(outputs - model.predict(X, verbose=0)).max() > 0.01
    narrow.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(outputs, again.predict(X, verbose=0))


def test_training_brings_the_sums_of_the_file_into_the_width() -> None:
    model, bits = quantized(), 5

    def overflows(found: keras.Model) -> float:
        artifact = kc.convert(found, representative_dataset=X[:8])
        (row,) = [row for row in kc.accumulator_bits(artifact, X, bits=bits, bias=False).rows if row.terms == 54]
        return float(row.overflows or 0.0)

    found = kc.wrap_sums(model, bits, slope=4.0, penalty=0.1)
    with pytest.raises(ValueError, match=r"Expected a model after `kc.unwrap_sums\(model\)`"):
        kc.convert(found, representative_dataset=X[:8])
    found.compile(keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    found.fit(X, RNG.integers(0, 3, len(X)), batch_size=16, epochs=12, verbose=0)
    before, after = overflows(model), overflows(kc.unwrap_sums(found))
    print(before, after)
    assert before > 0.05
    assert after < before / 2


def test_what_has_no_integer_sums_is_an_error() -> None:
    model = quantized()
    with pytest.raises(ValueError, match="Expected a model with integer weights and activations of few bits"):
        kc.wrap_sums(model, 2)
    with pytest.raises(ValueError, match=r"Expected `bits` as an integer in \[2, 31\]. Received: bits=40"):
        kc.wrap_sums(model, 40)
    with pytest.raises(ValueError, match="Expected `slope` > 0 and `penalty` >= 0"):
        kc.wrap_sums(model, 8, slope=0.0)
    with pytest.raises(ValueError, match="matches none of"):
        kc.wrap_sums(model, 8, filters="re:^first$")
    with pytest.raises(ValueError, match=r"Expected a model made by kc.wrap_sums"):
        kc.unwrap_sums(model)
