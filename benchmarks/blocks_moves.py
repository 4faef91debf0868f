"""Ways to shuffle channels and to shift them, each between two 1x1 convolutions: what it adds to their latency."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

import keras_compress as kc
from keras_compress.blocks import Shift, channel_shuffle

Tensor = Any
GROUPS = 4
# Height and width, channels.
SIZES = ((28, 32), (14, 64), (14, 128), (7, 256))
# Channels in front of the first convolution and behind the second, so that they take little time beside what moves.
FEW = 8
RUNS = 200


def by_transpose(x: Tensor) -> Tensor:
    return channel_shuffle(x, GROUPS)


def _order(channels: int) -> np.ndarray:
    return np.arange(channels).reshape(GROUPS, -1).T.reshape(-1).astype(np.int32)


def by_gather(x: Tensor) -> Tensor:
    return ops.take(x, _order(x.shape[-1]), axis=-1)


def by_stack(x: Tensor) -> Tensor:
    return layers.Reshape(tuple(x.shape[1:]))(ops.stack(ops.split(x, GROUPS, axis=-1), axis=-1))


def by_convolution(x: Tensor) -> Tensor:
    """A 1x1 convolution whose weights are 1 at one place."""
    channels = int(x.shape[-1])
    layer = layers.Conv2D(channels, 1, use_bias=False)
    y = layer(x)
    layer.kernel.assign(np.eye(channels, dtype=np.float32)[:, _order(channels)][None, None])
    return y


def by_ones(x: Tensor) -> Tensor:
    """A depthwise convolution whose weights are 1 at one place."""
    layer = layers.DepthwiseConv2D(3, padding="same", use_bias=False)
    y = layer(x)
    moves = _moves(int(x.shape[-1])) + 1
    kernel = np.zeros(layer.kernel.shape, np.float32)
    kernel[moves[:, 0], moves[:, 1], np.arange(len(moves)), 0] = 1.0
    layer.kernel.assign(kernel)
    return y


def by_slices(x: Tensor) -> Tensor:
    """Slices of the padded image, put together."""
    moves = _moves(int(x.shape[-1])) + 1
    ends = [int(n) for n in np.flatnonzero(np.diff(moves, axis=0).any(axis=1)) + 1]
    parts = ops.split(layers.ZeroPadding2D(1)(x), tuple(ends), axis=-1)
    starts = moves[[0, *ends]].tolist()
    cut = [
        layers.Cropping2D(((row, 2 - row), (column, 2 - column)))(part)
        for part, (row, column) in zip(parts, starts, strict=True)
    ]
    return layers.Concatenate()(cut)


def _moves(channels: int) -> np.ndarray:
    layer = Shift(3)
    layer.build((None, 8, 8, channels))
    return layer.whole_pixels_moved()


SHUFFLES: dict[str, Callable[[Tensor], Tensor]] = {
    "transpose": by_transpose,
    "gather": by_gather,
    "stack": by_stack,
    "convolution": by_convolution,
}
SHIFTS: dict[str, Callable[[Tensor], Tensor]] = {"ones": by_ones, "slices": by_slices}


def between(side: int, channels: int, move: Callable[[Tensor], Tensor]) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((side, side, FEW))
    x = move(layers.Conv2D(channels, 1, activation="relu")(inputs))
    return keras.Model(inputs, layers.Conv2D(FEW, 1)(x))


def move_rows(quick: bool) -> list[dict[str, Any]]:
    """A row for each size, runtime and arithmetic: milliseconds that each way adds, tenth percentiles in turns."""
    rows = []
    for side, channels in SIZES[1:2] if quick else SIZES:
        ways = {"none": lambda x: x, **SHUFFLES, **SHIFTS}
        nets = {name: between(side, channels, move) for name, move in ways.items()}
        data = np.random.default_rng(0).normal(size=(8, side, side, FEW)).astype(np.float32)
        for target, mode in (("litert", "float32"), ("litert", "int8"), ("tflm", "int8")):
            given: dict[str, Any] = {"mode": mode} if mode == "float32" else {"representative_dataset": data}
            files = {name: kc.convert(each, target, **given) for name, each in nets.items()}
            found = kc.measure_all(files, target=target, runs=RUNS)
            added = {name: each.latency.p10_ms - found["none"].latency.p10_ms for name, each in found.items()}
            about = {"side": side, "channels": channels, "target": target, "mode": mode}
            times = {"shuffle_ms": {n: added[n] for n in SHUFFLES}, "shift_ms": {n: added[n] for n in SHIFTS}}
            rows.append({**about, "whole_ms": found["none"].latency.p10_ms, **times})
            print(rows[-1], flush=True)
    return rows
