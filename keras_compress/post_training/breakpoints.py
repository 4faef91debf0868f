"""Breakpoints of piecewise linear quantization, by the square error of the very weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_compress.core.global_state import global_state_kept
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.graph.model import compressed_layers, rebuild
from keras_compress.post_training.effect import LayerEffect
from keras_compress.post_training.record import NotApplicable, carry, record_of
from keras_compress.quantizers.pwlq import PWLQ

Array = NDArray[Any]
# Places that are tried for each breakpoint between its neighbours, and how often all are gone through.
_PLACES = 40
_SWEEPS = 3


@global_state_kept()
def fit_breakpoints(quantized: keras.Model) -> keras.Model:
    """Set the breakpoints of each `PWLQ` where the square error of its weight is the least.

    `PWLQ` begins with the breakpoints of a normal distribution. From there each is moved in turn between its
    neighbours, for each channel by itself; a move that makes the error larger is not made.

    Args:
        quantized: What `quantize_model(model, weights=PWLQ(bits, breakpoints=...))` gives, with 1, 2 or 3.

    Returns:
        A new model; its latent weights are the same.

    Raises:
        ValueError: For a model without a `PWLQ`.

    **Reference**: Fang et al., "Post-training Piecewise Linear Quantization for Deep Neural Networks" (2020), section
    3.2. **Deviations**: the paper searches one breakpoint on a grid; so it is done here, in turn for each.
    """
    model = rebuild(quantized)
    found = [
        (path, wrapper, slot, transform)
        for path, wrapper in compressed_layers(model)
        for slot, transforms in wrapper.items()
        for transform in transforms
        if isinstance(transform, PWLQ)
    ]
    if not found:
        raise NotApplicable(
            "Expected a model with `PWLQ` weights, as `kc.quantize_model(model, weights='pwlq4')` makes one. "
            f"Received: {model.name!r}, without any"
        )
    effects = []
    for path, wrapper, slot, quantizer in found:
        weight = np.asarray(wrapper.weight(slot.name, stop_before=quantizer))
        before = sqnr_db(weight, np.asarray(quantizer(tf.constant(weight))))
        _fit(quantizer, weight)
        after = sqnr_db(weight, np.asarray(quantizer(tf.constant(weight))))
        note = f"{slot.name}: {before:.1f} to {after:.1f} dB of the weight"
        effects.append(LayerEffect(path, "fit_breakpoints", -after, note=note))
    return carry(model, record_of(quantized).did(effects, f"Breakpoints fitted: {len(effects)} weights"))


def _fit(quantizer: PWLQ, weight: Array) -> None:
    """Move the breakpoints of one weight."""
    values = tf.constant(weight)

    def error(shares: Array) -> Array:
        quantizer.shares.assign(shares)
        difference = np.asarray(quantizer(values), np.float64) - weight
        return np.asarray(np.square(difference).sum(axis=quantizer.reduced_axes, keepdims=True))

    best = np.asarray(quantizer.shares, np.float32)
    least = error(best)
    for number in (n for _ in range(_SWEEPS) for n in range(len(best))):
        below = best[number - 1] if number else np.zeros_like(best[0])
        above = best[number + 1] if number + 1 < len(best) else np.ones_like(best[0])
        for place in (np.arange(_PLACES) + 0.5) / _PLACES:
            tried = best.copy()
            tried[number] = below + place * (above - below)
            found = error(tried)
            best, least = np.where(found < least, tried, best), np.minimum(found, least)
    quantizer.shares.assign(best)
