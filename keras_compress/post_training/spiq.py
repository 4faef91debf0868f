"""SPIQ: one scale for each input channel of a layer, folded into the layers that make the channel and read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from numpy.typing import NDArray

from keras_compress.core.global_state import global_state_kept
from keras_compress.data.batches import batches
from keras_compress.graph import graph
from keras_compress.post_training.channel_walk import ChannelAxes, ChannelWalk
from keras_compress.post_training.effect import LayerEffect
from keras_compress.post_training.equalize import none_scalable, scalable, scaled
from keras_compress.post_training.moments import Moments, moments_of
from keras_compress.post_training.ranges import MOST_SIGMAS
from keras_compress.post_training.record import carry, check_statistics, record_of

Vector = NDArray[np.float64]
# `id` of a layer -> largest magnitude in each channel of what it reads.
Peaks = dict[int, Vector]
# A channel is made larger by no more: one that hardly ever shows in the data may well do so elsewhere.
MOST = 32.0


@global_state_kept()
def spiq(
    model: keras.Model,
    data: Any = None,
    *,
    sigmas: float = MOST_SIGMAS,
    most: float = MOST,
    power: float = 1.0,
    relu6: str = "auto",
) -> keras.Model:
    """The same function with channels scaled so that all that a layer reads have the range of the largest.

    With one step for each input channel, `s_j = max |X_j| / (2^(b - 1) - 1)`, a layer `W X` is

        (W diag(s)) round(diag(s)^-1 X)

    whose weights `W diag(s)` are what is quantized: the steps cost nothing in inference, where the layer that makes X
    divides by them. A runtime has one step for a tensor, `S = max_j s_j`, so that what is folded is `f_j = s_j / S`:
    what makes channel j is divided by it, and what reads it multiplied. Of the input of a model, and where something
    else than a positively homogeneous function lies between (see `equalize`), channels stay; the record says which.

    Args:
        model: Plain built model.
        data: Inputs without labels, that tell the ranges. Without, they are those of the BatchNormalizations' channels,
            `|beta| + sigmas * gamma`, cut by the activation.
        sigmas: How many standard deviations from its mean the range of a channel ends, > 0; without data.
        most: The largest factor for a channel, >= 1.
        power: Of the factors, above 0 and at most 1: with 1/2 a channel goes half of the way, in bits. It is then cut
            where it goes further than it did in the data only if it goes much further, and weights lose less.
        relu6: What to do with ReLUs that have a ceiling; see `equalize`.

    Returns:
        A new model, to be quantized.

    Raises:
        ValueError: For numbers out of range, data that do not fit, a quantized model, one of whose channels nothing is
            known, or one without a channel that could be scaled (`NotApplicable`), with the reasons.

    **Reference**: Yvinec, Dapogny, Cord and Bailly, "SPIQ: Data-Free Per-Channel Static Input Quantization" (2023): a
    static step for each input channel, known without data, at the cost of one for a tensor. Not compared equation by
    equation with the paper's text: how ranges follow from statistics is that of Nagel et al. (2019), section 5.
    **Deviations**: folded into weights and biases alone; factors are bounded by `most`; ranges from data, too; `power`,
    which is alpha of Xiao et al., "SmoothQuant" (2023), for activations alone.
    """
    if not sigmas > 0.0:
        raise ValueError(f"Expected `sigmas` > 0. Received: sigmas={sigmas}")
    if not most >= 1.0:
        raise ValueError(f"Expected `most` >= 1. Received: most={most}")
    if not 0.0 < power <= 1.0:
        raise ValueError(f"Expected `power` above 0 and at most 1. Received: power={power}")
    model, walk = scalable(model, relu6)
    peaks = _from_statistics(model, sigmas) if data is None else _from_data(model, walk, data)
    factors = _factors(walk, peaks, most) ** power
    if np.all(factors == 1.0):
        raise none_scalable(model, walk)
    effects = [_effect(side, walk, factors, peaks) for side in _readers(walk)]
    made = scaled(model, walk, factors, [])
    count = int((factors < 1.0).sum())
    note = f"Input channels scaled to one range, {'by statistics' if data is None else 'by data'}: {count} channels"
    return carry(made, record_of(made).did(effects, note))


def _readers(walk: ChannelWalk) -> Iterator[ChannelAxes]:
    """The weights by which layers read channels."""
    return (side for side in walk.found.values() if side.reads and side.ranged)


def _from_statistics(model: keras.Model, sigmas: float) -> Peaks:
    record = record_of(model)
    check_statistics(model, record)
    found: Peaks = {}

    def seen(call: graph.Call, moments: Moments) -> None:
        if moments.low is not None and moments.high is not None:
            _raise(found, call.operation, np.maximum(np.abs(moments.low), np.abs(moments.high)))

    moments_of(model, record.statistics, sigmas, seen)
    return found


def _from_data(model: keras.Model, walk: ChannelWalk, data: Any) -> Peaks:
    found: Peaks = {}
    readers = {id(side.layer) for side in _readers(walk)}

    def visit(call: graph.Call) -> Any:
        first = tree.flatten(call.args)[0]
        if id(call.operation) in readers and len(first.shape) > 1:
            others, array = tuple(range(len(first.shape) - 1)), first.numpy()
            _raise(found, call.operation, np.maximum(array.max(axis=others), -array.min(axis=others)))
        return call.values()

    for batch in batches(data, graph.functional(model)):
        graph.Rebuild(visit, flat=True).run(model, [tf.constant(array) for array in batch], "", 0)
    return found


def _raise(found: Peaks, layer: Any, peaks: NDArray[Any]) -> None:
    found[id(layer)] = np.maximum(found.get(id(layer), 0.0), np.asarray(peaks, np.float64))


def _factors(walk: ChannelWalk, peaks: Peaks, most: float) -> Vector:
    """By what each unit is divided: its range over the largest of those that are read with it, 1 where it stays."""
    own = np.zeros(len(walk.free))
    known = [side for side in _readers(walk) if id(side.layer) in peaks]
    read = [walk.units[side.ids].reshape(-1) for side in known]
    for side, units in zip(known, read, strict=True):
        np.maximum.at(own, units, peaks[id(side.layer)])
    largest, before = own.copy(), np.zeros(len(own))
    while not np.array_equal(largest, before):
        before = largest.copy()
        for units in read:
            # Channels that another layer reads, too, are as large there.
            largest[units] = np.maximum(largest[units], largest[units].max())
    share = np.divide(own, largest, out=np.ones_like(own), where=largest > 0)
    made = np.zeros(len(own), bool)
    for side in walk.found.values():
        if not side.reads and side.ranged:
            made[walk.units[side.ids]] = True
    return np.where(walk.free & made & (own > 0), np.maximum(share, 1.0 / most), 1.0)


def _effect(side: ChannelAxes, walk: ChannelWalk, factors: Vector, peaks: Peaks) -> LayerEffect:
    """What a layer has of it: bits that its channels gained, or why they stayed."""
    units = walk.units[side.ids].reshape(-1)
    own = factors[units]
    count = int((own < 1.0).sum())
    if count:
        gained = float(np.mean(-np.log2(own)))
        most = f"{count} of {len(own)} input channels scaled by up to {1.0 / own.min():.1f}"
        note = f"{most}: {gained:.1f} bits a channel"
        return LayerEffect(side.path, "spiq", note=note)
    if id(side.layer) not in peaks:
        return LayerEffect(side.path, "spiq", note="left: nothing is known of the range of its inputs")
    reason = next((walk.reasons[int(unit)] for unit in units if int(unit) in walk.reasons), "they have one range")
    return LayerEffect(side.path, "spiq", note=f"left: {reason}")
