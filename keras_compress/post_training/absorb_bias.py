"""High biases moved into the layer behind: what a ReLU hardly ever cuts need not be in the range of activations."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core.global_state import global_state_kept
from keras_compress.graph.model import copy_layer, rebuild
from keras_compress.post_training.channel_walk import MOVING, ChannelAxes, ChannelWalk, ceiling_of, is_homogeneous
from keras_compress.post_training.fold_batch_norms import folded
from keras_compress.post_training.record import ChannelStatistics, Record, carry, check_statistics, record_of

Vector = NDArray[np.float64]


@global_state_kept()
def absorb_bias(model: keras.Model, sigmas: float = 3.0, padded: bool = False) -> keras.Model:
    """Nearly the same function with the part of biases moved on that a ReLU hardly ever cuts.

    A channel of mean beta and standard deviation gamma is above `c = max(0, beta - sigmas * gamma)` but for one value
    in 740 (of three sigmas). There, a ReLU r gives r(x - c) = r(x) - c, so that

        b1 <- b1 - c,    b2 <- b2 + W2 c

    is the same function, and the range of the activations is narrower by c. BatchNormalizations are folded first.

    Args:
        model: Plain built model, equalized or not.
        sigmas: How far below the mean values are let, >= 0.
        padded: Also where a layer reads zeros beside its input (`padding="same"`): those stand for c then, so that the
            outputs at the border are others.

    Raises:
        ValueError: For negative `sigmas`, a quantized model, or one without statistics of BatchNormalizations
            (`NotApplicable`).

    **Reference**: Nagel et al., "Data-free quantization through weight equalization and bias correction" (2019),
    section 4.1.3, equations 12 to 15.
    **Deviations**: sums are left out, and layers that pad too unless `padded`.
    """
    if not sigmas >= 0.0:
        raise ValueError(f"Expected `sigmas` >= 0. Received: sigmas={sigmas}")
    model = folded(model)
    record = record_of(model)
    check_statistics(model, record)
    walk = ChannelWalk(MOVING, _moves, clips=False, norms=False, reads=partial(_reads_evenly, padded)).run(model)
    moves = _moved(walk, record.statistics, sigmas)
    added = _added(walk, moves)
    statistics = {
        path: ChannelStatistics(each.mean + added.get(path, (0.0,))[0], each.std)
        for path, each in record.statistics.items()
    }
    return carry(_with_biases(model, added), Record(statistics, record.notes).noted(_note(moves)))


def _moves(operation: Any) -> bool:
    return is_homogeneous(operation) and ceiling_of(operation) is None


def _reads_evenly(padded: bool, layer: keras.layers.Layer) -> bool:
    """Whether what is added to a channel is added to all that a layer makes of it alike."""
    if "Transpose" in type(layer).__name__:
        return False
    return padded or getattr(layer, "padding", "valid") == "valid" or max(layer.kernel_size) == 1


def _first(side: ChannelAxes) -> bool:
    """Whether it is the weight by which its layer reads: the second one of a separable convolution is not."""
    return side.variable is not getattr(side.layer, "pointwise_kernel", None)


def _moved(walk: ChannelWalk, statistics: Mapping[str, ChannelStatistics], sigmas: float) -> Vector:
    """By what each unit is moved: 0 where that is not known to be harmless."""
    free = walk.free
    moves, makers = np.zeros(len(free)), np.zeros(len(free), int)
    for side in walk.found.values():
        if side.variable is not getattr(side.layer, "bias", 0) or side.reads:
            continue
        units = walk.units[side.ids]
        known = statistics.get(side.path)
        makers[units] += 1
        if known is not None:
            moves[units] = np.maximum(0.0, known.mean - sigmas * known.std)
    read = np.zeros(len(free), bool)
    for side in walk.found.values():
        if side.reads and getattr(side.layer, "bias", None) is not None:
            read[walk.units[side.ids]] = True
    return np.where(free & read & (makers == 1), moves, 0.0)


def _added(walk: ChannelWalk, moves: Vector) -> dict[str, tuple[Vector, Vector]]:
    """Path -> what the bias of a layer gets, as a maker of channels and as their reader."""
    made: dict[str, Vector] = {}
    read: dict[str, Vector] = {}
    for side in walk.found.values():
        if not side.reads and side.variable is getattr(side.layer, "bias", 0):
            made[side.path] = -moves[walk.units[side.ids]].reshape(-1)
        if side.reads and _first(side) and np.any(moves[walk.units[side.ids]]):
            read[side.path] = response(side.layer, moves[walk.units[side.ids]])
    paths = made.keys() | read.keys()
    return {path: (made.get(path, np.zeros(1)), read.get(path, np.zeros(1))) for path in paths}


def response(layer: keras.layers.Layer, values: Vector) -> Vector:
    """What a layer makes of an input with one value for each channel everywhere, beside its bias."""
    spatial = hasattr(layer, "kernel_size")
    inside = {"padding": "valid", "strides": 1} if spatial else {}
    plain = copy_layer(layer, activation=None, dtype="float32", **inside)
    sizes = zip(layer.kernel_size, layer.dilation_rate, strict=True) if spatial else ()
    shape = (1, *((size - 1) * rate + 1 for size, rate in sizes), len(values))
    read = np.broadcast_to(values.astype(np.float32), shape)
    return np.asarray(plain(read) - plain(np.zeros_like(read)), np.float64).reshape(-1)


def _with_biases(model: keras.Model, added: Mapping[str, tuple[Vector, Vector]]) -> keras.Model:
    def make(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        copy = copy_layer(layer)
        if path in added:
            copy.bias.assign(np.asarray(layer.bias, np.float64) + sum(added[path]))
        return copy

    result: keras.Model = rebuild(model, make)
    return result


def _note(moves: Vector) -> str:
    count = int((moves > 0).sum())
    largest = f", by up to {moves.max():.4g}" if count else ""
    return f"High biases absorbed: {count} channels{largest}"
