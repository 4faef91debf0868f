"""Quantization in buckets, and positions that are trained, against Polino et al. in scalar Python."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc

WEIGHT = [0.0, 1.0, 0.4, -1.0, 3.0, 2.0, 5.0]


def built(made, shape=(7,), weight=None):
    made.prepare(shape, (len(shape) - 1,))
    if weight is not None:
        made.initialize(tf.constant(weight, tf.float32))
    return made


def test_even_levels_of_each_bucket() -> None:
    # Buckets (0, 1, 0.4), (-1, 3, 2) and (5): s = 3, so 0.4 * 3 = 1.2 -> 1/3, and 3/4 * 3 = 2.25 -> 2/3.
    made = built(kc.BucketQuantizer(2, bucket_size=3))
    expected = [0.0, 1.0, 1 / 3, -1.0, 3.0, -1.0 + 4.0 * 2 / 3, 5.0]
    np.testing.assert_allclose(made(tf.constant(WEIGHT)), expected, rtol=1e-6)


def test_one_bucket_of_the_tensor_or_of_a_channel() -> None:
    tensor = built(kc.BucketQuantizer(1, bucket_size=None, per_channel=False))
    # From -1 to 5: 2 is the middle, and a tie goes to the even number.
    np.testing.assert_array_equal(tensor(tf.constant(WEIGHT)), [-1.0, -1.0, -1.0, -1.0, 5.0, -1.0, 5.0])
    channel = built(kc.BucketQuantizer(1, bucket_size=None), (3, 2))
    np.testing.assert_array_equal(channel(tf.constant([[0.0, 8.0], [1.0, 4.0], [0.9, 5.0]])), [[0, 8], [1, 4], [1, 4]])


def test_the_gradient_of_even_levels_is_straight_through() -> None:
    made, weight = built(kc.BucketQuantizer(2, bucket_size=3)), tf.constant(WEIGHT)
    with tf.GradientTape() as tape:
        tape.watch(weight)
        value = tf.reduce_sum(made(weight) * tf.range(7.0))
    np.testing.assert_array_equal(tape.gradient(value, weight), np.arange(7.0))


def positioned(positions, **kwargs):
    made = built(kc.DifferentiableQuantizer(1, bucket_size=3, **kwargs))
    made.positions.assign(positions)
    return made


@pytest.mark.parametrize("train_weights", [False, True])
def test_positions_are_trained(train_weights: bool) -> None:
    made, weight = positioned([0.9, 0.2], train_weights=train_weights), tf.constant(WEIGHT)
    upstream = tf.constant([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    with tf.GradientTape() as tape:
        tape.watch(weight)
        values = made(weight)
        loss = tf.reduce_sum(values * upstream)
    # Shares 0, 1, 0.4 and 0, 1, 0.75; the middle of the positions is 0.55. The last bucket has a span of 0.
    np.testing.assert_allclose(values, [0.2, 0.9, 0.2, -0.2, 2.6, 2.6, 5.0], rtol=1e-6)
    positions, weights = tape.gradient(loss, [made.positions, weight])
    # Algorithm 2: span times the gradient, summed over the weights of a level.
    np.testing.assert_allclose(positions, [1 * 2.0 + 4 * (5.0 + 6.0), 1 * (1.0 + 3.0) + 4 * 4.0])
    np.testing.assert_array_equal(weights, upstream if train_weights else np.zeros(7))


def test_positions_begin_as_quantiles() -> None:
    weight = np.arange(8, dtype=np.float32)
    made = built(kc.DifferentiableQuantizer(2, bucket_size=None, per_channel=False), (8,), weight)
    # Of shares 0, 1/7, ..., 1 at 1/8, 3/8, 5/8 and 7/8.
    np.testing.assert_allclose(np.array(made.positions), [0.125, 0.375, 0.625, 0.875], rtol=1e-6)


def test_a_model_in_buckets() -> None:
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, name="out")(hidden))
    made = kc.quantize_in_buckets(model, 2, 16, rules=[{"layers": "out", "bits": 3}])
    levels = [
        [len(np.unique(row)) for row in np.array(made.get_layer(name).weight("kernel")).reshape(-1, 8)]
        for name in ("hidden", "out")
    ]
    assert max(levels[0]) <= 4 < max(levels[1])
    x = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    np.testing.assert_array_equal(np.array(kc.strip(made)(x)), np.array(made(x)))
    assert kc.convert(kc.quantize_in_buckets(model), mode="float32").stats.raw_bytes > 0
    with pytest.raises(ValueError, match="Expected transforms that keep each other's promises"):
        kc.quantize_in_buckets(kc.cluster_weights(model, 4))


def test_few_levels_are_promised_where_there_are_few() -> None:
    assert kc.BucketQuantizer(2).promises == frozenset()
    assert kc.BucketQuantizer(2, bucket_size=None).promises == {"channel_codebook"}
    assert kc.DifferentiableQuantizer(2, bucket_size=None, per_channel=False).promises == {"codebook"}


@pytest.mark.parametrize("size", [0, 1, -3, 2.5, True])
def test_sizes_of_buckets(size) -> None:
    with pytest.raises(ValueError, match=f"Expected `bucket_size` >= 2, or None. Received: bucket_size={size}"):
        kc.BucketQuantizer(2, bucket_size=size)
