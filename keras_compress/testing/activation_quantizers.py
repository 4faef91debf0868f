"""What every activation quantizer must do."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from keras_compress.graph.model import strip
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.testing.sample import Bench, Sample, constructor_arguments, saved_again, serialized_again


def quantizers_in(model: keras.Model, cls: type) -> list[object]:
    """The quantizers of a class that stand in a model."""
    found = [layer.quantizer for layer in model.layers if isinstance(layer, QuantizeActivation)]
    return [quantizer for quantizer in found if isinstance(quantizer, cls)]


def config_gives_back_the_arguments(sample: Sample) -> None:
    """`get_config` has the constructor's arguments, and Keras makes the same quantizer of it."""
    config = sample.make().get_config()
    assert set(config) == constructor_arguments(sample.cls), f"{sample}: get_config() gives {sorted(config)}"
    assert sample.cls.from_config(config).get_config() == config
    again = serialized_again(sample.make())
    assert type(again) is sample.cls
    assert set(again.get_config()) == set(config)


def training_goes_on_after_loading(sample: Sample) -> None:
    """A model that was saved and loaded is trained to the same bits as one that was not."""
    bench = Bench()
    model = bench.fit(bench.with_points(sample))
    again = saved_again(model)
    np.testing.assert_array_equal(np.array(model(bench.x)), np.array(again(bench.x)))
    for old, new in zip(bench.fit(model).variables, bench.fit(again).variables, strict=True):
        np.testing.assert_array_equal(np.array(old), np.array(new), err_msg=f"{sample}: {old.path}")


def values_lie_on_its_grid(sample: Sample) -> None:
    """At most 2^bits values `scale * (integer - zero_point)`, 0.0 among them; on the grid they stay as they are.

    What takes the place of a ReLU need not have 0.0; a sign makes 1 of it.
    """
    quantizer = sample.make()
    layer = QuantizeActivation(quantizer)
    x = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    layer(x, training=True)
    assert quantizer.trained(), f"{sample}: trained() is false behind a batch of training"
    y = np.array(layer(x))
    scale, zero_point = (float(p) for p in quantizer.parameters())
    integers = y / scale + zero_point
    np.testing.assert_allclose(integers, np.round(integers), atol=1e-3, err_msg=f"{sample}: off its grid")
    lowest, highest = np.round(integers).min(), np.round(integers).max()
    assert quantizer.spec.minimum <= lowest, f"{sample}: integers from {lowest}"
    assert highest <= quantizer.spec.maximum, f"{sample}: integers to {highest}"
    assert 1 < len(np.unique(y)) <= 2**quantizer.bits, f"{sample}: {len(np.unique(y))} values"
    zero = np.array(layer(np.zeros(1, np.float32))).tolist()
    expected = zero if quantizer.replaces_relu and not quantizer.is_sign else [1.0 if quantizer.is_sign else 0.0]
    assert zero == expected, f"{sample}: 0.0 becomes {zero}"
    np.testing.assert_array_equal(np.array(layer(y)), y, err_msg=f"{sample}: not idempotent")


def gradients_pass_inside(sample: Sample) -> None:
    """A value well inside the range has a gradient above 0, in training and in inference."""
    layer = QuantizeActivation(sample.make())
    layer(np.array([-1.0, 1.0], np.float32), training=True)
    x = tf.constant([0.01])
    for training in (True, False):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
        gradient = tape.gradient(y, x)
        assert gradient is not None, f"{sample}: no gradient with training={training}"
        assert float(gradient[0]) > 0, f"{sample}: gradient {float(gradient[0])} with training={training}"


def strip_leaves_the_outputs(sample: Sample) -> None:
    """`kc.strip` gives a model without the quantizer and with the same outputs."""
    bench = Bench()
    model = bench.with_points(sample)
    model(bench.x, training=True)
    plain = strip(model)
    assert not quantizers_in(plain, sample.cls)
    np.testing.assert_array_equal(np.array(model(bench.x)), np.array(plain(bench.x)), err_msg=f"{sample}")
    assert np.abs(np.array(plain(bench.x))).max() > 0


CHECKS = (
    config_gives_back_the_arguments,
    training_goes_on_after_loading,
    values_lie_on_its_grid,
    gradients_pass_inside,
    strip_leaves_the_outputs,
)
