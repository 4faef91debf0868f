from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from keras_compress.post_training.moments import clipped_normal, moments_of, normal, transformed
from keras_compress.post_training.record import ChannelStatistics


def test_the_paper_s_formula_of_a_relu() -> None:
    """gamma phi(-beta / gamma) + beta (1 - Phi(-beta / gamma)) with beta 1, gamma 2: 2 * 0.3520653 + 0.6914625."""
    mean, variance = clipped_normal(np.array([1.0]), np.array([2.0]))
    assert float(mean[0]) == pytest.approx(2 * 0.35206533 + 1.0 * 0.69146246, abs=1e-7)
    # (beta^2 + gamma^2) (1 - Phi) + beta gamma phi, less the square of the mean.
    assert float(variance[0]) == pytest.approx(5 * 0.69146246 + 2 * 0.35206533 - mean[0] ** 2, abs=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.0, np.inf), (0.0, 6.0), (-1.0, 1.0), (-np.inf, 2.0)])
def test_against_a_million_samples(low: float, high: float) -> None:
    random = np.random.default_rng(0)
    for beta, gamma in ((0.0, 1.0), (3.0, 2.0), (-2.0, 0.7), (7.0, 1.5)):
        values = np.clip(random.normal(beta, gamma, 1_000_000), low, high)
        mean, variance = clipped_normal(np.array([beta]), np.array([gamma]), low, high)
        assert float(mean[0]) == pytest.approx(values.mean(), abs=0.01)
        assert float(variance[0]) == pytest.approx(values.var(), abs=0.02)


def test_channels_that_do_not_vary() -> None:
    mean, variance = clipped_normal(np.array([2.0, -2.0]), np.zeros(2))
    assert mean.tolist() == [2.0, 0.0]
    assert variance.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", ["silu", "gelu", "sigmoid", "hard_swish"])
def test_other_activations_are_integrated(name: str) -> None:
    function = getattr(keras.activations, name)
    made = transformed(normal(ChannelStatistics(np.array([0.5]), np.array([1.5])), 6.0), function)
    values = np.asarray(function(np.random.default_rng(0).normal(0.5, 1.5, 1_000_000).astype(np.float32)))
    assert float(made.mean[0]) == pytest.approx(values.mean(), abs=0.01)
    assert made.low[0] <= values.min() + 1e-3
    assert made.high[0] >= values.max()


def test_moments_through_a_graph() -> None:
    """Two normal channels through ReLU, average pooling, a sum and flattening."""
    image = keras.Input((4, 4, 2))
    conv = layers.Conv2D(2, 1, name="conv")(image)
    relu = layers.AveragePooling2D(2)(layers.ReLU()(conv))
    total = layers.Add()([conv, conv])
    model = keras.Model(image, [layers.Flatten()(relu), layers.MaxPooling2D(2)(total), layers.Softmax()(total)])
    known = {"conv": ChannelStatistics(np.array([0.0, 3.0]), np.array([1.0, 0.5]))}
    pooled, highest, classes = moments_of(model, known, 2.0)
    assert pooled.mean == pytest.approx([0.398942, 3.0] * 4, abs=1e-5)
    assert pooled.high == pytest.approx([2.0, 4.0] * 4)
    assert pooled.low == pytest.approx([0.0, 2.0] * 4)
    assert highest.mean is None
    assert highest.high == pytest.approx([2 * np.sqrt(2), 6 + 2 * np.sqrt(0.5)])
    assert classes.mean is classes.low is None
