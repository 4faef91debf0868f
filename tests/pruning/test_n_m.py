from __future__ import annotations

import numpy as np
import pytest
from keras import layers

import keras_compress as kc

ALWAYS = kc.ConstantSparsity(0.5, begin_step=0, frequency=1)


def mask_of(kernel: np.ndarray, m_n: tuple[int, int], layer: layers.Layer) -> np.ndarray:
    layer.build((None, *([8] * (kernel.ndim - 2)), kernel.shape[-2]))
    layer.kernel.assign(kernel)
    pruner = kc.NMPruner(m_n, ALWAYS)
    kc.Compressed(layer, {"kernel": [pruner]})
    return np.array(pruner.choose(pruner.scores(layer.kernel.value), 0.5)).astype(int)


def test_two_of_four_literal() -> None:
    kernel = np.array([[4, 1], [-3, 2], [2, -3], [1, 4], [1, 9], [1, 9], [1, 9], [1, 9.5]], np.float32)
    assert mask_of(kernel, (2, 4), layers.Dense(2, use_bias=False)).tolist() == [
        [1, 0], [1, 0], [0, 1], [0, 1],
        [1, 1], [1, 0], [0, 0], [0, 1],
    ]  # fmt: skip


def test_one_of_three_leaves_the_cut_off_group_dense() -> None:
    kernel = np.array([[1], [2], [3], [0.1]], np.float32)
    assert mask_of(kernel, (1, 3), layers.Dense(1, use_bias=False)).ravel().tolist() == [0, 1, 1, 1]


def test_convolution_counts_along_height_width_inputs() -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype(np.float32)
    mask = mask_of(kernel, (3, 4), layers.Conv2D(5, 3, use_bias=False))
    by_output = mask.reshape(36, 5).T.reshape(5, 9, 4)
    assert (by_output.sum(-1) == 1).all()
    magnitudes = np.abs(kernel.reshape(36, 5).T.reshape(5, 9, 4))
    assert (by_output.argmax(-1) == magnitudes.argmax(-1)).all()


def test_once_pruned_stays_pruned() -> None:
    layer = layers.Dense(1, use_bias=False)
    layer.build((None, 4))
    layer.kernel.assign([[4.0], [3.0], [2.0], [1.0]])
    wrapper = kc.Compressed(layer, {"kernel": [kc.NMPruner((2, 4), ALWAYS)]})
    wrapper(np.zeros((1, 4), np.float32), training=True)
    layer.kernel.assign([[1.0], [2.0], [3.0], [4.0]])
    wrapper(np.zeros((1, 4), np.float32), training=True)
    assert np.array(wrapper.weight("kernel")).ravel().tolist() == [1.0, 2.0, 0.0, 0.0]


@pytest.mark.parametrize("m_n", [(0, 4), (4, 4), (2,), (2, 4, 8), (2.0, 4)])
def test_bad_m_n(m_n: tuple) -> None:
    with pytest.raises(ValueError, match=r"Expected `sparsity_m_by_n` as \(m, n\)"):
        kc.NMPruner(m_n, ALWAYS)


def test_entry_point() -> None:
    import keras

    model = keras.Sequential([keras.Input((8,)), layers.Dense(3)])
    pruned = kc.prune_low_magnitude(model, ALWAYS, sparsity_m_by_n=(2, 4))
    pruned(np.zeros((1, 8), np.float32), training=True)
    weight = np.array(kc.strip(pruned).layers[0].kernel)
    assert ((weight.T.reshape(3, 2, 4) != 0).sum(-1) == 2).all()
