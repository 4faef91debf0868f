"""Steps of weights that cut the tails: by the least square error, or from the shape of the distribution (ACIQ)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core import affine
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.post_training.effect import LayerEffect
from keras_compress.post_training.record import carry, record_of
from keras_compress.post_training.steps import Stepped, stepped_weights, with_steps

Array = NDArray[Any]
# Steps that are tried, as shares of the one that cuts nothing.
_SHARES = np.linspace(0.2, 1.0, 81)
LAPLACE, GAUSS = "laplace", "gauss"


@cache
def aciq_factor(bits: int, distribution: str) -> float:
    """Where to cut for the least expected square error: in `b` of a Laplace, in sigma of a normal distribution.

    With `2^bits` levels between `-alpha` and `alpha` the error is that of the rounding, `alpha^2 / (3 4^bits)`, and
    that of what is cut: for Laplace `2 b^2 exp(-alpha / b)`, for a normal distribution
    `(sigma^2 + alpha^2) (1 - erf(alpha / (sqrt(2) sigma))) - sqrt(2 / pi) alpha sigma exp(-alpha^2 / (2 sigma^2))`.

    >>> [round(aciq_factor(bits, "laplace"), 2) for bits in (2, 3, 4)]
    [2.83, 3.9, 5.03]
    >>> [round(aciq_factor(bits, "gauss"), 2) for bits in (2, 3, 4)]
    [1.71, 2.15, 2.56]

    **Reference**: Banner, Nahshan and Soudry, "Post training 4-bit quantization of convolutional networks for
    rapid-deployment" (2019), section 2, equations 5 and 6 and table in section 2.1.
    """
    from scipy.optimize import brentq

    rounding = 2.0 / (3.0 * 4.0**bits)

    def slope(alpha: float) -> float:
        if distribution == LAPLACE:
            return alpha * rounding - 2.0 * math.exp(-alpha)
        outside = math.erfc(alpha / math.sqrt(2.0))
        density = math.sqrt(2.0 / math.pi) * math.exp(-(alpha**2) / 2.0)
        return alpha * rounding + 2.0 * alpha * outside - 2.0 * density

    return float(brentq(slope, 1e-6, 40.0))


def by_square_error(weight: Array, bits_ends: tuple[int, int], widest: Array, axes: tuple[int, ...]) -> Array:
    """The step with the least square error of the weight, for each group.

    Args:
        weight: Weight.
        bits_ends: Lowest and highest integer.
        widest: Step that cuts nothing, which broadcasts against the weight.
        axes: Axes that share a step.

    >>> weight = np.array([[0.1], [0.1], [0.1], [-0.1], [0.16]])
    >>> by_square_error(weight, (-2, 1), np.array([[0.16]]), (0,)).round(3).tolist()
    [[0.112]]
    """
    low, high = bits_ends
    best, least = widest, np.full(widest.shape, np.inf)
    for share in _SHARES:
        step = widest * share
        error = np.square(np.clip(np.rint(weight / step), low, high) * step - weight).sum(axis=axes, keepdims=True)
        best, least = np.where(error < least, step, best), np.minimum(error, least)
    return np.asarray(best)


def by_distribution(weight: Array, bits: int, high: int, axes: tuple[int, ...]) -> Array:
    """ACIQ's step for each group: of a Laplace or a normal distribution, whichever is closer to the mean magnitude.

    A normal distribution has `mean |w| = sqrt(2 / pi) sigma`, a Laplace distribution `b = mean |w| = sigma / sqrt(2)`.

    Args:
        weight: Weight.
        bits: Width.
        high: Highest integer, where the cut is.
        axes: Axes that share a step.
    """
    magnitude = np.abs(weight).mean(axis=axes, keepdims=True)
    deviation = np.sqrt(np.square(weight).mean(axis=axes, keepdims=True))
    ratio = np.divide(magnitude, deviation, out=np.ones_like(magnitude), where=deviation > 0)
    normal = np.abs(ratio - math.sqrt(2.0 / math.pi)) < np.abs(ratio - math.sqrt(0.5))
    cut = np.where(normal, aciq_factor(bits, GAUSS) * deviation, aciq_factor(bits, LAPLACE) * magnitude)
    # Beyond the largest there is nothing to cut.
    return np.asarray(np.minimum(cut, np.abs(weight).max(axis=axes, keepdims=True)) / high)


def _mse(each: Stepped, weight: Array) -> Array:
    widest = np.abs(weight).max(axis=each.axes, keepdims=True) / each.ends[1]
    return by_square_error(weight, each.ends, _filled(widest), each.axes)


def _aciq(each: Stepped, weight: Array) -> Array:
    return _filled(by_distribution(weight, each.quantizer.bits, each.ends[1], each.axes))


def _filled(step: Array) -> Array:
    return np.asarray(affine.fill_zero_scales(step.astype(np.float32)))


METHODS: dict[str, Callable[[Stepped, Array], Array]] = {"mse": _mse, "aciq": _aciq}


@global_state_kept()
def clip_weights(quantized: keras.Model, *, method: str = "mse") -> keras.Model:
    """Set the step of each weight so that cutting the tails and rounding the rest together cost the least.

    Args:
        quantized: What `quantize_model` gives, with weights on evenly spaced levels.
        method: `"mse"`: the step of the least square error, out of 81. `"aciq"`: from the distribution of the weight,
            Laplace or normal.

    Returns:
        A new model; its latent weights are the same.

    Raises:
        ValueError: For another method, or a model without such weights.

    **Reference** of `"aciq"`: Banner et al. (2019), see `aciq_factor`. **Deviations**: the cut is the highest integer.
    """
    if method not in METHODS:
        raise ValueError(f"Expected `method` out of {sorted(METHODS)}. Received: method={method!r}")
    model = with_steps(quantized)
    effects = []
    for each in stepped_weights(model):
        weight = each.weight
        before = sqnr_db(weight, each.nearest() * each.step)
        each.quantizer.set_step(METHODS[method](each, weight))
        after = sqnr_db(weight, each.nearest() * each.step)
        note = f"{each.slot.name}: {before:.1f} to {after:.1f} dB of the weight"
        effects.append(LayerEffect(each.path, f"clip_weights {method}", -after, note=note))
    return carry(model, record_of(quantized).did(effects, f"Steps cut tails by {method}: {len(effects)} weights"))
