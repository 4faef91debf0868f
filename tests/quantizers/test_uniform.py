from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc


def wrapped(kernel: list, *transforms: kc.WeightTransform) -> kc.Compressed:
    kernel = np.asarray(kernel, np.float32)
    layer = layers.Dense(kernel.shape[1], use_bias=False)
    layer.build((None, kernel.shape[0]))
    layer.kernel.assign(kernel)
    wrapper = kc.Compressed(layer, {"kernel": list(transforms)})
    for transform in transforms:
        wrapper.initialize(transform)
    return wrapper


def test_two_bits_per_channel_and_per_tensor_literal() -> None:
    kernel = [[1.0, -8.0], [0.4, 5.0], [-0.6, 3.9]]
    per_channel = wrapped(kernel, kc.UniformQuantizer(2))
    assert np.array(per_channel.weight("kernel")).tolist() == [[1, -8], [0, 8], [-1, 0]]
    per_tensor = wrapped(kernel, kc.UniformQuantizer(2, per_channel=False))
    assert np.array(per_tensor.weight("kernel")).tolist() == [[0, -8], [0, 8], [0, 0]]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_equals_the_formula(bits: int, per_channel: bool) -> None:
    kernel = np.random.default_rng(bits).normal(size=(9, 4)).astype(np.float32)
    quantizer = kc.UniformQuantizer(bits, per_channel=per_channel)
    wrapper = wrapped(kernel, quantizer)
    top = 2 ** (bits - 1) - 1
    largest = np.abs(kernel).max(axis=0 if per_channel else None, keepdims=True)
    scale = (largest / np.float32(top)).astype(np.float32)
    integers = np.clip(np.round(kernel / scale), -top, top)
    found = quantizer.integer_weight(wrapper.latent("kernel").value)
    np.testing.assert_array_equal(found.integers, integers)
    np.testing.assert_allclose(found.scale, scale, rtol=1e-6)
    assert found.scale.shape == ((1, 4) if per_channel else (1, 1))
    assert found.bits == bits
    # What is trained with is what is frozen, bit for bit.
    np.testing.assert_array_equal(np.array(wrapper.weight("kernel")), found.floats())
    for column in found.integers.T:
        assert len(np.unique(column)) <= 2**bits - 1
    assert np.abs(found.integers).max() == top


def test_gradient_goes_straight_through() -> None:
    wrapper = wrapped([[1.0, -8.0], [0.4, 5.0]], kc.UniformQuantizer(4))
    upstream = np.array([[1, 2], [3, 4]], np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(wrapper(np.eye(2, dtype=np.float32), training=True) * upstream)
    assert tape.gradient(loss, wrapper.latent("kernel").value).numpy().tolist() == upstream.tolist()


def test_zero_weights_and_zero_channels_stay_zero() -> None:
    kernel = [[0.0, 1.27], [0.0, 0.0], [0.0, -0.6]]
    quantizer = kc.UniformQuantizer(8)
    wrapper = wrapped(kernel, quantizer)
    found = quantizer.integer_weight(wrapper.latent("kernel").value)
    assert found.integers.tolist() == [[0, 127], [0, 0], [0, -60]]
    assert found.scale.ravel().tolist() == pytest.approx([0.01, 0.01])
    everything = kc.UniformQuantizer(8)
    wrapper = wrapped(np.zeros((2, 2)), everything)
    assert np.array(wrapper.weight("kernel")).tolist() == [[0, 0], [0, 0]]
    assert everything.integer_weight(wrapper.latent("kernel").value).scale.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("per_channel_codebook", [False, True])
@pytest.mark.parametrize("asked", [False, True])
def test_the_scale_follows_the_codebooks(per_channel_codebook: bool, asked: bool) -> None:
    """One scale per tensor after one codebook, one per channel after one for each, whatever was asked for."""
    kernel = np.random.default_rng(0).normal(size=(40, 6)) * np.linspace(0.1, 3, 6)
    clusterer = kc.CentroidClusterer(8, cluster_per_channel=per_channel_codebook)
    quantizer = kc.UniformQuantizer(8, per_channel=asked)
    wrapper = wrapped(kernel, clusterer, quantizer)
    found = quantizer.integer_weight(wrapper.weight("kernel", stop_before=quantizer))
    assert found.scale.shape == ((1, 6) if per_channel_codebook else (1, 1))
    columns = found.integers.T if per_channel_codebook else [found.integers]
    for column in columns:
        assert 4 <= len(np.unique(column)) <= 8


def test_pruned_then_clustered_then_quantized_keeps_zeros_and_codebook() -> None:
    kernel = np.random.default_rng(0).normal(size=(40, 6))
    pruner = kc.MagnitudePruner(kc.ConstantSparsity(0.75, 0))
    wrapped(kernel, pruner)(np.zeros((1, 40), np.float32), training=True)
    quantizer = kc.UniformQuantizer(8)
    wrapper = wrapped(kernel, pruner, kc.CentroidClusterer(8), quantizer)
    found = quantizer.integer_weight(wrapper.weight("kernel", stop_before=quantizer))
    assert (found.integers == 0).sum() == 180
    assert len(np.unique(found.integers)) == 8


@pytest.mark.parametrize("bits", [0, 1, 9, 33, 4.0, True])
def test_bad_bits(bits: object) -> None:
    with pytest.raises(ValueError, match="Expected `bits` to be an integer from 2 to 8. Received: bits="):
        kc.UniformQuantizer(bits)
