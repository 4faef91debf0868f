from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc


def built(kernel: list, **arguments: object) -> tuple[kc.WeightTransform, tf.Tensor]:
    quantizer = kc.TTQ(**arguments)
    weight = tf.constant(kernel, tf.float32)
    quantizer.prepare(weight.shape, (1,))
    quantizer.initialize(weight)
    return quantizer, weight


# With threshold 0.25: delta 2 for the tensor, 0.5 and 2 for the channels.
KERNEL = [[1.0, -8.0], [0.5, 4.0], [-2.0, 2.5], [-0.6, 0.1]]


def test_levels_begin_as_the_mean_magnitudes() -> None:
    quantizer, _ = built(KERNEL, threshold=0.25)
    assert np.array(quantizer.positive).tolist() == [[3.25]]
    assert np.array(quantizer.negative).tolist() == [[8.0]]
    quantizer, _ = built(KERNEL, threshold=0.25, per_channel=True)
    assert np.array(quantizer.positive).tolist() == [[1.0, 3.25]]
    np.testing.assert_allclose(np.array(quantizer.negative), [[1.3, 8.0]], rtol=1e-6)


def test_forward_literal() -> None:
    quantizer, weight = built(KERNEL, threshold=0.25)
    quantizer.positive.assign([[3.0]])
    quantizer.negative.assign([[7.0]])
    # |w| = delta is 0.
    assert quantizer(weight).numpy().tolist() == [[0, -7], [0, 3], [0, 3], [0, 0]]
    assert quantizer.integer_weight(weight) is None
    assert (quantizer.promises, quantizer.number_of_clusters) == ({"codebook"}, 3)
    quantizer, weight = built(KERNEL, threshold=0.25, per_channel=True)
    quantizer.positive.assign([[3.0, 1.0]])
    quantizer.negative.assign([[7.0, 2.0]])
    assert quantizer(weight).numpy().tolist() == [[3, -2], [0, 1], [-7, 1], [-7, 0]]
    assert quantizer.promises == {"channel_codebook"}


def test_gradients_literal() -> None:
    quantizer, weight = built(KERNEL, threshold=0.25)
    quantizer.positive.assign([[3.0]])
    quantizer.negative.assign([[7.0]])
    upstream = np.float32([[1, 2], [3, 4], [5, 6], [7, 8]])
    watched = [v.value for v in quantizer.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(weight)
        loss = tf.reduce_sum(quantizer(weight, training=True) * upstream)
    of_weight, of_positive, of_negative = tape.gradient(loss, [weight, *watched])
    assert of_weight.numpy().tolist() == [[1, 7 * 2], [3, 3 * 4], [5, 3 * 6], [7, 8]]
    assert of_positive.numpy().tolist() == [[4 + 6]]
    # The level is -W_n.
    assert of_negative.numpy().tolist() == [[-2]]


def test_level_gradients_are_the_slopes_of_the_loss() -> None:
    quantizer, weight = built(np.random.default_rng(0).normal(size=(40, 3)), per_channel=True)
    target = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)

    def loss() -> tf.Tensor:
        return tf.reduce_sum(tf.square(quantizer(weight) - target))

    with tf.GradientTape() as tape:
        value = loss()
    for variable, found in zip(
        (quantizer.positive, quantizer.negative),
        tape.gradient(value, [quantizer.positive.value, quantizer.negative.value]),
    ):
        start = np.array(variable)
        for channel in range(3):
            step = np.float32(0.05) * np.eye(3, dtype=np.float32)[[channel]]
            variable.assign(start + step)
            above = float(loss())
            variable.assign(start - step)
            slope = (above - float(loss())) / 0.1
            variable.assign(start)
            assert found[0, channel].numpy() == pytest.approx(slope, rel=1e-2, abs=1e-2)


def test_training_brings_the_levels_to_their_targets() -> None:
    """With the sign that the paper prints, W_n would run away from 0.5."""
    layer = layers.Dense(1, use_bias=False)
    layer.build((None, 4))
    layer.kernel.assign([[1.0], [0.8], [-0.9], [-1.0]])
    quantizer = kc.TTQ()
    wrapper = kc.Compressed(layer, {"kernel": [quantizer]})
    wrapper.initialize(quantizer)
    optimizer = keras.optimizers.SGD(0.1)
    for _ in range(20):
        with tf.GradientTape() as tape:
            y = wrapper(np.eye(4, dtype=np.float32), training=True)
            loss = tf.reduce_sum(tf.square(y - np.float32([[2.0], [2.0], [-0.5], [-0.5]])))
        levels = [quantizer.positive, quantizer.negative]
        optimizer.apply_gradients(zip(tape.gradient(loss, [v.value for v in levels]), levels))
    assert float(quantizer.positive[0, 0]) == pytest.approx(2.0, abs=1e-3)
    assert float(quantizer.negative[0, 0]) == pytest.approx(0.5, abs=1e-3)


def test_a_weight_without_one_sign_or_of_zeros() -> None:
    quantizer, weight = built([[2.0], [1.0]])
    assert np.array(quantizer.negative).tolist() == [[1.5]]
    quantizer, weight = built([[0.0], [0.0]])
    assert np.array(quantizer.positive).tolist() == [[1.0]]
    assert quantizer(weight).numpy().tolist() == [[0], [0]]


def test_quantize_model_puts_the_grid_behind() -> None:
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5)])
    model.layers[0].kernel.assign(np.linspace(-1.0, 1.0, 30).reshape(6, 5))
    listed = kc.quantize_model(model, weights="ttq", activations=None).layers[0].transform_list
    assert [type(t).__name__ for t in listed] == ["TTQ", "UniformQuantizer"]
    integers = listed[1].integer_weight(listed[0](model.layers[0].kernel.value))
    assert integers.scale.shape == (1, 1)
    assert len(np.unique(integers.integers)) == 3
    assert 0 in integers.integers


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_bad_threshold(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"Expected `threshold` in \[0, 1\). Received: threshold="):
        kc.TTQ(threshold)
