"""Entropy-constrained clustering: the algorithm of the paper by hand, and bits that it keeps to."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.clustering.entropy import assignments, constrained, entropy_of, within_bits
from keras_compress.graph.model import compressed_layers

VALUES = np.array([0.0] * 6 + [1.0, 1.4])


def test_a_code_that_is_dear_is_given_up() -> None:
    # Shares 3/4, 1/8, 1/8: codes of 0.415, 3 and 3 bits. At 1 for a bit, 1.4 costs 1.96 + 0.415 as a 0, 3 as itself.
    centroids, shares = np.array([0.0, 1.0, 1.4]), np.array([0.75, 0.125, 0.125])
    assert assignments(VALUES, centroids, shares, 1.0).tolist() == [0] * 8
    # At 0.2: 2.043 beside 0.6 and 0.76; and 1 costs 1.083 as a 0, 0.6 as itself.
    assert assignments(VALUES, centroids, shares, 0.2).tolist() == [0] * 6 + [1, 2]
    # At 0.5, 1 costs 1.2075 as a 0, 1.5 as itself; 1.4 costs 2.1675, 1.66 as a 1, 1.5 as itself.
    assert assignments(VALUES, centroids, shares, 0.5).tolist() == [0] * 7 + [2]


def test_the_algorithm_by_hand() -> None:
    # From shares of a third each value is its own nearest; then the shares above; then all are one, with the mean 0.3.
    centroids, shares = constrained(VALUES, np.ones(8), np.array([0.0, 1.0, 1.4]), 1.0)
    assert centroids[0] == pytest.approx(0.3)
    assert shares.tolist() == [1.0, 0.0, 0.0]
    # The same for a value that stands for six.
    again = constrained(np.array([0.0, 1.0, 1.4]), np.array([6.0, 1.0, 1.0]), np.array([0.0, 1.0, 1.4]), 1.0)
    np.testing.assert_array_equal(again[0], centroids)
    pinned, _ = constrained(VALUES, np.ones(8), np.array([0.0, 1.0, 1.4]), 1.0, pinned=0)
    assert pinned[0] == 0.0


def test_equal_shares_do_not_go_over_the_bits() -> None:
    # No multiplier tells clusters of equal shares apart: eight have 3 bits, two have 1, so one is left, the mean.
    centroids, shares, multiplier = within_bits(np.tile(np.arange(8.0), 512), 64, 0.5, zero=False)
    assert (centroids.tolist(), entropy_of(shares)) == ([3.5], 0.0)
    # In one bit, two clusters of two values each.
    centroids, shares, _ = within_bits(np.array([1.0, 2.0, 3.0, 4.0]), 64, 1.0, zero=False)
    assert (sorted(centroids[shares > 0]), entropy_of(shares)) == ([1.5, 3.5], 1.0)
    # Half of one value and half of another, 0 kept: nothing but 0 has fewer than a bit.
    centroids, shares, _ = within_bits(np.array([0.0, 1.0]), 2, 0.5, zero=True)
    assert (centroids[shares > 0].tolist(), entropy_of(shares)) == ([0.0], 0.0)


def test_fewer_bits_for_the_same_error() -> None:
    # Max (1960): four values stand for a normal variable with an error of 0.1175, and have an entropy of 1.911 bits.
    # At high rates a constrained quantizer is 0.255 bits from the bound 2^(-2R), here 0.0707; at this rate nearer.
    values = np.random.default_rng(0).normal(size=40_000)
    centroids, shares, multiplier = within_bits(values, 64, 1.911, zero=False)
    codes = assignments(values, centroids, shares, multiplier)
    error = np.square(values - centroids[codes]).mean()
    entropy = entropy_of(np.bincount(codes, minlength=64) / len(codes))
    assert 1.85 < entropy <= 1.93
    assert 0.0707 < error < 0.108


def net() -> keras.Model:
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(64, activation="relu", name="hidden")
    return keras.Sequential([keras.Input((48,)), hidden, layers.Dense(4, name="logits")])


def clusterer(model: keras.Model, name: str = "hidden") -> kc.EntropyClusterer:
    return dict(compressed_layers(model))[name].transform_list[0]


@pytest.mark.parametrize("bits", [1.0, 2.5])
def test_the_entropy_of_the_weight(bits: float) -> None:
    model = kc.cluster_by_entropy(net(), bits=bits)
    weight = np.array(dict(compressed_layers(model))["hidden"].weight("kernel"))
    shares = np.unique(weight, return_counts=True)[1] / weight.size
    # Glorot's weights are spread evenly: five values have 2.32 bits, six 2.58.
    assert bits - 0.2 < -(shares * np.log2(shares)).sum() <= bits + 0.02
    assert clusterer(model).entropy() == pytest.approx(-(shares * np.log2(shares)).sum(), abs=1e-6)


def test_zeros_of_a_pruned_weight_stay_and_more_may_come() -> None:
    model = net()
    kernel = model.layers[0].kernel
    kernel.assign(np.where(np.abs(kernel) < 0.1, 0.0, kernel))
    pruned = kc.prune_low_magnitude(model, kc.ConstantSparsity(0.5, begin_step=0, frequency=1), filters="hidden")
    pruned(np.zeros((1, 48), np.float32), training=True)
    zeros = np.array(dict(compressed_layers(pruned))["hidden"].weight("kernel")) == 0
    made = kc.cluster_by_entropy(pruned, 1.2, filters="hidden")
    weight = np.array(dict(compressed_layers(made))["hidden"].weight("kernel"))
    assert zeros.mean() >= 0.5
    assert np.all(weight[zeros] == 0)
    transform = dict(compressed_layers(made))["hidden"].transform_list[1]
    assert transform.keeps_zeros
    assert transform.entropy() <= 1.22


@pytest.mark.parametrize("cluster", [kc.cluster_by_entropy, kc.cluster_softly, kc.cluster_weights])
def test_zeros_of_a_stripped_weight_stay(cluster: Any) -> None:
    model = net()
    kernel = np.array(model.layers[0].kernel)
    zeros = np.abs(kernel) < np.quantile(np.abs(kernel), 0.6)
    model.layers[0].kernel.assign(np.where(zeros, 0.0, kernel))
    with pytest.warns(UserWarning, match=r"Zeros of sparse weights stay zeros \(hidden: 60.0 % zeros\)"):
        made = cluster(model, filters="hidden")
    made.compile("sgd", "mse", jit_compile=False)
    made.fit(np.ones((8, 48), np.float32), np.ones((8, 4), np.float32), verbose=0)
    assert np.all(np.array(dict(compressed_layers(made))["hidden"].weight("kernel"))[zeros] == 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        free = cluster(model, filters="hidden", preserve_sparsity=False)
        asked = cluster(model, filters="hidden", preserve_sparsity=True)
    assert [len(dict(compressed_layers(each))["hidden"].transform_list) for each in (free, asked)] == [1, 2]
    assert np.all(np.array(dict(compressed_layers(asked))["hidden"].weight("kernel"))[zeros] == 0)


def test_a_file_takes_fewer_bytes() -> None:
    x = np.random.default_rng(0).normal(size=(64, 48)).astype("float32")
    sizes = {}
    for name, made in {"values": kc.cluster_weights(net(), 16), "entropy": kc.cluster_by_entropy(net(), 1.5)}.items():
        model = kc.quantize_model(made)
        model(x, training=True)
        sizes[name] = len(kc.convert(model, target="tflm", weights_storage="huffman").content)
    # 3,328 weights: of 16 values, about 3.9 bits; of these, 1.5 and what the code loses.
    assert sizes["entropy"] < sizes["values"] - 600


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no bits": ({"bits": 0.0}, r"Expected `bits` in \(0, 8\], the entropy of a weight. Received: bits=0.0"),
    "of a rule": ({"rules": [{"layers": "logits", "bits": 9}]}, "for layer 'logits'. Received: bits=9"),
    "one value": ({"number_of_clusters": 1}, "Expected `number_of_clusters` to be an integer from 2 to 256"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    settings, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        kc.cluster_by_entropy(net(), **settings)
