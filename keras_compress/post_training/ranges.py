"""Ranges of activations from the statistics of BatchNormalizations, set on the points of a quantized model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_compress.core import keras_private
from keras_compress.core.global_state import global_state_kept
from keras_compress.graph import graph as keras_graph
from keras_compress.graph.model import rebuild
from keras_compress.post_training.moments import Moments, ceilings_in, moments_of
from keras_compress.post_training.record import carry, check_statistics, record_of
from keras_compress.post_training.weight_clipping import GAUSS, aciq_factor
from keras_compress.quantizers.activation import QuantizeActivation, TrainedQuantizer

# With 8 bits and more nothing is to be gained by cutting.
MOST_SIGMAS = 6.0
_CUT_BELOW_BITS = 8


@global_state_kept()
def ranges_from_statistics(
    model: keras.Model, sigmas: float | None = None, made_from: keras.Model | None = None
) -> keras.Model:
    """A copy of a quantized model with the ranges of its points set, as far as statistics tell.

    A channel of mean beta and standard deviation gamma has the range `beta - n gamma` to `beta + n gamma`; a ReLU cuts
    it at 0, a ReLU6 at 6, other activations are looked at within it; a point has the range of all its channels. Sums
    have sums of means and variances. Nothing is known of inputs, of layers without BatchNormalization, and of means
    over all positions: those points, and such whose range is known already, stay as they are.

    Args:
        model: From `quantize_model`, of a model that passes made (`fold_batch_norms`), or with BatchNormalizations.
        sigmas: The n above, > 0. By default 6 for points of 8 bits and more, of fewer what loses least: 2.56 for 4.
        made_from: The model that `quantize_model` was given, whose statistics are taken; by default those that
            `quantize_post_training` leaves with its models.

    Raises:
        ValueError: For `sigmas` <= 0, or a model of whose channels nothing is known.

    **Reference**: Nagel et al., "Data-free quantization through weight equalization and bias correction" (2019),
    section 5 (n = 6).
    """
    if sigmas is not None and not sigmas > 0.0:
        raise ValueError(f"Expected `sigmas` > 0. Received: sigmas={sigmas}")
    record = record_of(made_from or model)
    check_statistics(model, record)
    made: keras.Model = rebuild(model)
    known = _ranges(made, record.statistics, sigmas)
    waiting = [p for _, p in keras_graph.walk(made) if isinstance(p, QuantizeActivation) and _waits(p)]
    for point in waiting:
        if id(point) in known:
            point.quantizer.set_range(*known[id(point)])
    left = len(waiting) - len(known)
    note = f"Ranges from statistics: {len(known)} points" + (f", {left} without any" if left else "")
    return carry(made, record.noted(note))


def _waits(point: QuantizeActivation) -> bool:
    return isinstance(point.quantizer, TrainedQuantizer) and not point.quantizer.trained()


def _ranges(model: keras.Model, statistics: Mapping[str, Any], sigmas: float | None) -> dict[int, tuple[float, float]]:
    """`id` of a point that waits for a range -> the range; of a point that is called twice, the wider one."""
    found: dict[int, tuple[float, float]] = {}
    unknown: set[int] = set()
    ceilings: dict[int, float] = {}

    def seen(call: keras_graph.Call, moments: Moments) -> None:
        point, ceiling = call.operation, ceilings_in(call)
        if ceiling is not None:
            # What a ReLU makes above the highest ceiling is cut, be it in the range or not.
            ceilings[id(keras_private.maker(call.node.input_tensors[0]))] = float(ceiling.max())
        if not isinstance(point, QuantizeActivation) or not _waits(point) or point.quantizer.bits != width:
            return
        if moments.low is None or moments.high is None:
            unknown.add(id(point))
            return
        low, high = found.get(id(point), (np.inf, -np.inf))
        found[id(point)] = min(low, float(moments.low.min())), max(high, float(moments.high.max()))

    for width in {p.quantizer.bits for _, p in keras_graph.walk(model) if isinstance(p, QuantizeActivation)}:
        moments_of(model, statistics, sigmas or _sigmas(width), seen)
    return {key: (low, min(high, ceilings.get(key, high))) for key, (low, high) in found.items() if key not in unknown}


def _sigmas(bits: int) -> float:
    """Where the ends of a normal distribution's range are best, in standard deviations: see `aciq_factor`."""
    return aciq_factor(bits, GAUSS) if bits < _CUT_BELOW_BITS else MOST_SIGMAS
