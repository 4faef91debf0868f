"""Cross-layer equalization: channels scaled so that the weights that make and read them have the same range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core.global_state import global_state_kept
from keras_compress.graph.model import copy_layer
from keras_compress.post_training.channel_walk import SCALED, ChannelAxes, ChannelWalk, is_homogeneous
from keras_compress.post_training.fold_batch_norms import folded
from keras_compress.post_training.record import NotApplicable, Record, carry, record_of
from keras_compress.post_training.relu6 import with_ceilings, without_ceilings

Vector = NDArray[np.float64]
RELU6 = ("auto", "clip", "replace", "keep")
# Ranges that differ by less are equal; most chains are there after some ten sweeps.
TOLERANCE, MOST_SWEEPS = 1e-6, 1000
# Weights so small beside the largest of their kernel are rounding, and say nothing of a scale.
NOTHING = 1e-8


@global_state_kept()
def equalize(model: keras.Model, relu6: str = "auto") -> keras.Model:
    """The same function with channels scaled so that per-tensor ranges fit all of them.

    A positively homogeneous function f lets `W2 f(W1 x + b1)` be `(W2 S) f(S^-1 W1 x + S^-1 b1)` for positive factors
    S. With `r1_i` the range of the weights that make channel i and `r2_i` that of the weights that read it,

        s_i = sqrt(r1_i r2_i) / r2_i,    so that both become sqrt(r1_i r2_i)

    which is repeated, layer by layer, until no scale changes. ReLU, LeakyReLU, PReLU, poolings, dropout, zero padding,
    upsampling, flattening, residual sums and concatenations lie between; channels that a sum joins have one scale.
    BatchNormalizations are folded first, their statistics are scaled too.

    Args:
        model: Plain built model.
        relu6: What to do with ReLUs that have a ceiling, for which f(s x) is not s f(x). `"clip"`: a ReLU and a ceiling
            for each channel, `6 / s_i`, the same function at the cost of one more operator (MINIMUM). `"replace"`: a
            ReLU, which is another function where values reach the ceiling. `"keep"`: those channels are not scaled.
            `"auto"`: replaced where statistics say that it never clips, clipped elsewhere.

    Raises:
        ValueError: For another `relu6`, a quantized model, or one without two layers between which channels could be
            scaled (`NotApplicable`), with the reasons.

    **Reference**: Nagel et al., "Data-free quantization through weight equalization and bias correction" (2019),
    section 4.1, equation 11.
    **Deviations**: channels that several layers make or read together have the largest of their ranges.
    """
    model, walk = scalable(model, relu6)
    scales, sweeps, changed = _scales(walk)
    if not changed:
        raise none_scalable(model, walk)
    return scaled(model, walk, scales, _notes(sweeps, changed))


def scalable(model: keras.Model, relu6: str) -> tuple[keras.Model, ChannelWalk]:
    """The model without BatchNormalizations, and without ceilings where they may go, and its channels.

    Args:
        model: Plain built model.
        relu6: See `equalize`.

    Raises:
        ValueError: For another `relu6`, or a quantized model.
    """
    if relu6 not in RELU6:
        raise ValueError(f"Expected `relu6` out of {RELU6}. Received: relu6={relu6!r}")
    model = folded(model)
    if relu6 in ("auto", "replace"):
        model = without_ceilings(model, everywhere=relu6 == "replace")
    return model, ChannelWalk(SCALED, is_homogeneous, clips=relu6 != "keep", norms=True).run(model)


def none_scalable(model: keras.Model, walk: ChannelWalk) -> NotApplicable:
    """The error of a model no channel of which can be scaled, with the reasons."""
    found = "; ".join(list(dict.fromkeys(walk.reasons.values()))[:5]) or "no layer reads what another one makes"
    return NotApplicable(
        "Expected a model with two weighted layers with nothing but positively homogeneous operations (ReLU, "
        f"LeakyReLU, PReLU, pooling, sums) between them. Received: {model.name!r}: {found}"
    )


def _notes(sweeps: int, changed: int) -> list[str]:
    notes = [f"Equalized: {changed} channels scaled in {sweeps} sweeps"]
    if sweeps == MOST_SWEEPS:
        notes.append(f"Equalization stopped after {MOST_SWEEPS} sweeps, before all ranges were equal")
    return notes


@dataclass
class _Ranges:
    """Largest magnitudes of a weight, over the axes that are no channels, kept while channels are scaled."""

    peaks: Vector
    sides: list[ChannelAxes]
    axes: tuple[int, ...]

    @classmethod
    def of(cls, sides: list[ChannelAxes]) -> _Ranges:
        axes = tuple(sorted({axis for side in sides for axis in side.axes}))
        weight = np.abs(np.asarray(keras.ops.convert_to_numpy(sides[0].variable), np.float64))
        others = tuple(axis for axis in range(weight.ndim) if axis not in axes)
        return cls(weight.max(axis=others, initial=0.0), sides, axes)

    def along(self, side: ChannelAxes, units: NDArray[Any], into: Vector) -> None:
        """Raise `into`, a range for each unit, to the ranges of the channels on some axes."""
        own = [self.axes.index(axis) for axis in side.axes]
        others = tuple(axis for axis in range(self.peaks.ndim) if axis not in own)
        found = self.peaks.max(axis=others, initial=0.0)
        found = np.where(found > NOTHING * self.peaks.max(initial=0.0), found, 0.0)
        np.maximum.at(into, units[side.ids].reshape(-1), found.reshape(-1))

    def scale(self, side: ChannelAxes, factors: Vector) -> None:
        """Multiply by a factor for each index of the side's axes."""
        shape = [n if axis in side.axes else 1 for axis, n in zip(self.axes, self.peaks.shape, strict=True)]
        self.peaks *= factors.reshape(shape)


def _scales(walk: ChannelWalk) -> tuple[Vector, int, int]:
    """The scale of each unit, how many sweeps it took, and how many units have makers and readers."""
    ranges = _by_weight(walk)
    free = walk.free
    scales = np.ones(len(free))
    makers = [side for each in ranges for side in each.sides if not side.reads]
    targets = [np.unique(walk.units[side.ids]) for side in makers]
    of_unit = [[each for each in ranges if _touches(each, walk, units)] for units in targets]
    both = np.zeros(len(free), bool)
    sweeps, largest = 0, np.inf
    while largest >= TOLERANCE and sweeps < MOST_SWEEPS:
        sweeps, largest = sweeps + 1, 0.0
        for units, touching in zip(targets, of_unit, strict=True):
            step = _step(walk, touching, units, free, both)
            largest = max(largest, float(np.abs(np.log(step)).max(initial=0.0)))
            scales *= step
    return scales, sweeps, int(both.sum())


def _by_weight(walk: ChannelWalk) -> list[_Ranges]:
    found: dict[int, list[ChannelAxes]] = {}
    for side in walk.found.values():
        if side.ranged:
            found.setdefault(id(side.variable), []).append(side)
    return [_Ranges.of(sides) for sides in found.values()]


def _touches(ranges: _Ranges, walk: ChannelWalk, units: NDArray[Any]) -> bool:
    return any(np.isin(walk.units[side.ids], units).any() for side in ranges.sides)


def _step(
    walk: ChannelWalk, touching: Sequence[_Ranges], units: NDArray[Any], free: NDArray[Any], both: NDArray[Any]
) -> Vector:
    """Scale the channels of one layer, and return by what, for all units."""
    made, read = np.zeros(len(free)), np.zeros(len(free))
    for ranges in touching:
        for side in ranges.sides:
            ranges.along(side, walk.units, read if side.reads else made)
    chosen = np.zeros(len(free), bool)
    chosen[units] = True
    chosen &= free & (made > 0) & (read > 0)
    both |= chosen
    step = np.ones(len(free))
    step[chosen] = np.sqrt(made[chosen] / read[chosen])
    for ranges in touching:
        for side in ranges.sides:
            factors = step[walk.units[side.ids]]
            ranges.scale(side, factors if side.reads else 1.0 / factors)
    return step


def scaled(model: keras.Model, walk: ChannelWalk, scales: Vector, notes: list[str]) -> keras.Model:
    """The same function with weights, ceilings and statistics on other scales.

    Args:
        model: The model that was walked through.
        walk: The walk.
        scales: For each unit, by what what it makes is divided, and what reads it multiplied.
        notes: What to add to the record.
    """
    clips = [clip for clip in walk.clipped.values() if not np.all(scales[walk.units[clip.ids]] == 1.0)]
    if clips:
        said = f"ReLU6 became ReLU with a ceiling for each channel at {len(clips)} places: the same function"
        notes = [*notes, said]
    factors: dict[int, Any] = {}
    for side in walk.found.values():
        factor = side.broadcast(scales if side.reads else 1.0 / scales, walk.units)
        factors[id(side.variable)] = factors.get(id(side.variable), 1.0) * factor

    def make(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        copy = copy_layer(layer)
        for source, target in zip(layer.variables, copy.variables, strict=True):
            if id(source) in factors:
                target.assign(np.asarray(source, np.float64) * factors[id(source)])
        return copy

    ceilings = {key: clip.ceiling / scales[walk.units[clip.ids]] for key, clip in walk.clipped.items()}
    changed = {key: each for key, each in ceilings.items() if not np.all(each == walk.clipped[key].ceiling)}
    record = record_of(model)
    made = {side.path: 1.0 / scales[walk.units[side.ids]].reshape(-1) for side in _biases(walk)}
    statistics = {path: each.scaled(made[path]) if path in made else each for path, each in record.statistics.items()}
    return carry(with_ceilings(model, changed, make), Record(statistics, record.notes).noted(*notes))


def _biases(walk: ChannelWalk) -> list[ChannelAxes]:
    """Axes of biases, a normalization's too: their channels are those that a layer hands on."""
    made = [side for side in walk.found.values() if not side.reads]
    return [s for s in made if s.variable is getattr(s.layer, "bias", 0) or s.variable is getattr(s.layer, "beta", 0)]
