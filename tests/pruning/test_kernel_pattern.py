from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.pruning.kernel_pattern import PATTERNS
from keras_compress.testing import weight_transforms as checks
from keras_compress.testing.sample import Bench, Sample

ALWAYS = kc.ConstantSparsity(0.5, begin_step=0, frequency=1)


def expected(kernel: np.ndarray, count: int) -> np.ndarray:
    """Kernel by kernel in NumPy: natural patterns, the most frequent ones, the one that keeps most."""
    flat = np.abs(kernel.reshape(9, -1)).T
    around = [0, 1, 2, 3, 5, 6, 7, 8]
    known = [frozenset({4, *three}) for three in itertools.combinations(around, 3)]
    naturals = [known.index(frozenset({4, *sorted(around, key=lambda i: -k[i])[:3]})) for k in flat]
    frequency = np.bincount(naturals, minlength=56)
    chosen = sorted(range(56), key=lambda i: (-frequency[i], i))[:count]
    mask = np.zeros_like(flat, bool)
    for row, k in zip(mask, flat):
        best = max(chosen, key=lambda i: sum(k[j] ** 2 for j in known[i]))
        row[list(known[best])] = True
    return mask.T.reshape(kernel.shape)


@pytest.mark.parametrize("count", [1, 4, 56])
def test_patterns_equal_numpy_s(count: int) -> None:
    kernel = np.random.default_rng(count).normal(size=(3, 3, 5, 7)).astype(np.float32)
    layer = layers.Conv2D(7, 3, use_bias=False)
    layer.build((None, 8, 8, 5))
    layer.kernel.assign(kernel)
    pruner = kc.KernelPatternPruner(ALWAYS, count)
    wrapper = kc.Compressed(layer, {"kernel": [pruner]})
    for _ in range(2):  # a second look changes nothing
        wrapper(np.zeros((1, 8, 8, 5), np.float32), training=True)
        np.testing.assert_array_equal(np.array(pruner.mask), expected(kernel, count))
    assert pruner.sparsity() == pytest.approx(5 / 9)
    patterns = pruner.patterns()
    assert len(patterns) <= count
    assert all(np.sum(pattern) == 4 and pattern[1][1] == 1 for pattern in patterns)


def test_there_are_56_patterns() -> None:
    assert PATTERNS.shape == (56, 9)
    assert (PATTERNS.sum(1) == 4).all()
    assert PATTERNS[:, 4].all()


class ConvBench(Bench):
    """What conformance tests try, on 3x3 kernels."""

    x = np.random.default_rng(0).normal(size=(4, 5, 5, 2)).astype(np.float32)
    y = np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype(np.float32)

    def plain(self) -> keras.Model:
        model = keras.Sequential([
            keras.Input((5, 5, 2)), layers.Conv2D(4, 3, name="d"), layers.Conv2D(3, 1, name="e")
        ])  # fmt: skip
        for seed, layer in enumerate(model.layers, 2):
            layer.kernel.assign(np.random.default_rng(seed).normal(size=layer.kernel.shape))
        return model


@pytest.mark.parametrize(
    "check",
    [
        checks.config_gives_back_the_arguments,
        checks.training_goes_on_after_loading,
        checks.a_step_moves_what_it_should,
        checks.strip_leaves_the_outputs,
        checks.promises_hold,
    ],
    ids=lambda check: check.__name__,
)
def test_conformance(check, monkeypatch) -> None:
    monkeypatch.setattr(checks, "Bench", ConvBench)
    check(Sample(kc.KernelPatternPruner, kc.KernelPatternPruner.samples()[0]))


def test_other_kernels_are_refused_by_name() -> None:
    model = ConvBench().plain()
    with pytest.raises(ValueError, match=r"'e', its weight of shape \(1, 1, 4, 3\) has no 3x3 kernels"):
        kc.prune(model, kc.KernelPatternPruner(ALWAYS))
    assert [type(layer) for layer in kc.prune(model, kc.KernelPatternPruner(ALWAYS), filters="d").layers] == [
        kc.Compressed,
        layers.Conv2D,
    ]
