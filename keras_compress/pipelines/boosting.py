"""AdaBoost's numbers: what a member of an ensemble counts, and what each sample counts for the next one."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def weighted_error(wrong: Array, weights: Array) -> float:
    """Share of the samples, by their weights, that a member gets wrong.

    Args:
        wrong: Whether it does, bool `(samples,)`.
        weights: What each sample counts, `(samples,)`.
    """
    return float(weights[wrong].sum() / weights.sum())


def member_weight(error: float, classes: int, method: str, samples: int) -> float:
    """What a member counts in the vote.

    **Forward** `"boosting"`: `alpha = ln((1 - e) / e) / 2`. `"samme"`: `alpha = ln((1 - e) / e) + ln(classes - 1)`.

    An error of 0 is taken as that of half a sample, as its alpha would be infinite.

    Args:
        error: Its weighted error e, in [0, 1].
        classes: How many there are.
        method: `"boosting"` or `"samme"`.
        samples: How many were predicted.

    **Reference**: Zhu, Dong and Su (2019), section 4, with Freund and Schapire's AdaBoost; Zhu, Zou, Rosset and Hastie,
    "Multi-class AdaBoost" (2009), equation 9.

    >>> round(member_weight(0.2, 10, "boosting", 100), 4)
    0.6931
    >>> round(member_weight(0.2, 10, "samme", 100), 4)
    3.5835
    """
    error = min(max(error, 0.5 / samples), 1.0 - 0.5 / samples)
    odds = float(np.log((1.0 - error) / error))
    return odds / 2.0 if method == "boosting" else odds + float(np.log(classes - 1))


def next_weights(weights: Array, wrong: Array, alpha: float, method: str) -> Array:
    """What each sample counts for the next member, 1 in the mean.

    **Forward** `"boosting"`: `w * exp(alpha)` where wrong, `w * exp(-alpha)` where right. `"samme"`: `w * exp(alpha)`
    where wrong, `w` where right. Both are divided by their mean.

    Args:
        weights: What each counted, `(samples,)`.
        wrong: Whether the member gets it wrong, `(samples,)`.
        alpha: What the member counts.
        method: `"boosting"` or `"samme"`.

    >>> after = next_weights(np.ones(4), np.array([True, False, False, False]), float(np.log(3) / 2), "boosting")
    >>> after.round(4).tolist()
    [2.0, 0.6667, 0.6667, 0.6667]
    """
    right = np.exp(-alpha) if method == "boosting" else 1.0
    found = weights * np.where(wrong, np.exp(alpha), right)
    scaled: Array = found / found.mean()
    return scaled


def packed(wrong: Array) -> str:
    """Which samples were wrong, as text."""
    return base64.b64encode(np.packbits(wrong).tobytes()).decode()


def unpacked(text: str, samples: int) -> Array:
    """What `packed` made text of."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=samples)
    return bits.astype(bool)
