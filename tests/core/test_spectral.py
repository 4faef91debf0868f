"""SpectralNormalization divides its kernel in each step of training; compressed, it divides the latent one."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.graph.model import compressed_layers


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    made = keras.Sequential([keras.Input((6,)), layers.SpectralNormalization(layers.Dense(4), name="spectral")])
    made.layers[0].layer.kernel.assign(3.0 * made.layers[0].layer.kernel)
    return made


def test_the_latent_kernel_is_divided_and_not_rounded(model):
    quantized = kc.quantize_model(model, weights="int4", filters="re:spectral.*")
    wrapper = dict(compressed_layers(quantized))["spectral"]
    before, seen = np.array(wrapper.latent("layer.kernel")), np.array(wrapper.weight("layer.kernel"))
    quantized(np.ones((2, 6), "float32"), training=True)
    change = np.array(wrapper.latent("layer.kernel")) - before
    # The layer divides what it sees by one number; the latent kernel takes the change, and keeps its own values.
    (ratio,) = {round(float(r), 4) for r in (change[seen != 0] / seen[seen != 0])}
    assert -0.99 < ratio < -0.3
    assert len(np.unique(before + change)) == before.size > len(np.unique(seen))


def test_a_pruned_one_converts_to_what_it_computes(model):
    pruned = kc.prune_low_magnitude(model, pruning_schedule=kc.ConstantSparsity(0.5, 0))
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    pruned(x, training=True)
    weight = np.array(dict(compressed_layers(pruned))["spectral"].weight("layer.kernel"))
    assert (weight == 0).mean() == 0.5
    # In inference it is a Dense layer with that kernel.
    expected = x @ weight
    artifact = kc.convert(pruned, representative_dataset=x)
    kc.verify(artifact, pruned, x)
    assert not artifact.float_ops
    assert np.abs(artifact.frozen.predict(x, verbose=0) - expected).max() < 0.02 * np.abs(expected).max()
    np.testing.assert_allclose(kc.strip(pruned).predict(x, verbose=0), expected, atol=1e-5)
