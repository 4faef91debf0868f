"""Whether rounding explains how far a frozen model is from the trained one.

With the rounding of activations switched off in both, the two are one function, but for weights that freezing rounded
and biases in whole steps. What these cost is measured: each such number of the frozen model is moved at random by up to
half of its step. A difference more than four times as large (and more than 1 %, 40 dB) is no rounding: a
BatchNormalization folded wrongly, weights on other channels, a layer left out.

Ranges, which that does not see, are held to those that were trained; where they were calibrated, to the data: one that
cuts off values that outputs depend on, or spends all but six bits on values that do not occur, explains outputs below
10 dB.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import keras
import numpy as np

from keras_compress.convert.distance import Array, Distance, pairs_of
from keras_compress.convert.expand.used_ranges import FINEST_INTO_SOFTMAX
from keras_compress.convert.final_grid import ends_of
from keras_compress.convert.side_by_side import Frozen, Kept, Trained, Values
from keras_compress.core import keras_private
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.data.samples import fixed_batch
from keras_compress.graph import graph
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.quantizers.kinds import Kind, activation_name, kind_of, unmoved

FACTOR, FLOOR, _FLOAT32 = 4.0, 0.01, 1e-5
# Of one channel's noise less is known than of an output's: it is measured with many draws, on few samples.
LAYER_FACTOR, DRAWS, LAYER_SAMPLES = 8.0, 16, 8
_ANOTHER = "another function, with all rounding switched off"
USELESS_DB = 10.0
# Ends of a range may be half a step inwards, where 0.0 has an integer of its own.
_INWARDS_STEPS = 1.5
_CUT_OFF, _UNUSED = 0.1, 2.0**-6


def unexplained(
    trained: Trained, frozen: Frozen, inputs: Sequence[Array], found: Distance, in_trained: Values
) -> str | None:
    """What else than rounding stands between two models, and at which layer; `None` for nothing.

    Args:
        trained: The model that was converted.
        frozen: Its frozen form.
        inputs: Samples, one array for each input.
        found: Their distance on these samples.
        in_trained: What the trained model gives for them, at `frozen.calls` too.
    """
    wrong = _wrong_trained_range(trained, frozen)
    if wrong is not None or any(point.quantizer.replaces_relu for point in trained.points.values()):
        # Signs of sums that are not whole numbers are no signs: without rounding those models mean nothing.
        return wrong
    of_trained = trained.unrounded(inputs, frozen.calls) if trained.rounds else in_trained
    few = [array[: max(LAYER_SAMPLES, fixed_batch(frozen.model) or 1)] for array in inputs]
    of_few = of_trained if len(few[0]) == len(inputs[0]) else trained.unrounded(few, frozen.calls)
    changed = _changed_layer(frozen, few, of_few.kept)
    if changed is not None:
        return f"{_ANOTHER}, first at {changed!r}"
    points = frozenset(frozen.points)
    of_frozen = frozen.unrounded(inputs, points)
    moved = frozen.unrounded(inputs, points, np.random.default_rng(0))
    if any(map(_differ, of_trained.outputs, of_frozen.outputs, moved.outputs)):
        pairs = pairs_of(frozen, of_frozen.kept, of_trained.kept)
        differing = (name for name, *both in pairs if _differ(both[1], both[0], moved.kept[_point(frozen, name)]))
        first = next(differing, None)
        where = "behind the last layer that both have" if first is None else f"first at {first!r}"
        return f"{_ANOTHER}, {where}"
    useless = any(each.sqnr_db < USELESS_DB for each in found.outputs)
    return _useless_range(trained, frozen, inputs, of_frozen) if useless else None


def _changed_layer(frozen: Frozen, inputs: Sequence[Array], of_trained: Kept) -> str | None:
    """The first layer that makes something else of the trained model's own values, in one channel."""
    given = {point: of_trained[name] for point, name in frozen.points.items() if name in of_trained}
    computed, rng = frozen.layer_by_layer(inputs, given), np.random.default_rng(0)
    off = {point: np.sqrt(_squares(given[point] - values)) for point, values in computed.items()}
    fed = {point: given[point] for point in computed}
    floor = {point: _floor(given[point]) for point in computed}
    noise = {point: np.zeros(values.shape[-1:]) for point, values in computed.items()}

    def still_beyond(points: Iterable[str]) -> list[str]:
        return [p for p in points if not (off[p] <= LAYER_FACTOR * np.sqrt(noise[p]) + floor[p]).all()]

    beyond = still_beyond(computed)
    for _ in range(DRAWS):
        if not beyond:
            break  # what is allowed only grows
        drawn = frozen.moved(inputs, fed, beyond, rng)
        for point in beyond:
            noise[point] += _squares(drawn[point] - computed[point]) / DRAWS
        beyond = still_beyond(beyond)
    return frozen.points[beyond[0]] if beyond else None


def _squares(values: Array) -> Array:
    """Sum of squares of each channel, the last axis."""
    squares: Array = np.square(values.astype(np.float64)).sum(axis=tuple(range(values.ndim - 1)))
    return squares


def _floor(values: Array) -> Array:
    """Of each channel: 1 % of how far it, or the average channel, varies, and more than the noise of float32."""
    varying = _squares(values - values.mean(axis=tuple(range(values.ndim - 1)), dtype=np.float64))
    squares = _squares(values)
    floor: Array = FLOOR * np.sqrt(np.maximum(varying, varying.mean())) + _FLOAT32 * np.sqrt(
        np.maximum(squares, squares.mean())
    )
    return floor


def _point(frozen: Frozen, call: str) -> str:
    return next(point for point, name in frozen.points.items() if name == call)


def _differ(trained: Array, frozen: Array, moved: Array) -> bool:
    trained, frozen, moved = (a.astype(np.float64).reshape(trained.shape) for a in (trained, frozen, moved))
    difference = np.linalg.norm(trained - frozen)
    allowed = FACTOR * np.linalg.norm(moved - frozen) + np.linalg.norm(_floor(trained))
    return not difference <= allowed


def _wrong_trained_range(trained: Trained, frozen: Frozen) -> str | None:
    for name, grid in frozen.grids.items():
        point = trained.point(name)
        if point is None or point.quantizer.replaces_relu:
            continue
        low, high = (float(end) for end in point.quantizer.range())
        low, high, slack = min(low, 0.0), max(high, 0.0), _INWARDS_STEPS * grid.scale
        lowest, highest = ends_of(grid)
        if isinstance(point, QuantizeActivation) and (lowest > low + slack or highest < high - slack):
            return f"the range ({lowest:.4g}, {highest:.4g}) at {name!r}, where ({low:.4g}, {high:.4g}) was trained"
    return None


def _useless_range(trained: Trained, frozen: Frozen, inputs: Sequence[Array], found: Values) -> str | None:
    """The first calibrated range that does not fit what is there."""
    softmaxes = _into_softmax(frozen.model)
    for point, name in frozen.points.items():
        values, grid = found.kept.get(point), frozen.grids[name]
        if values is None or trained.point(name) is not None or not np.any(values) or _is_fixed(frozen.model, point):
            continue
        low, high = ends_of(grid)
        cut = np.linalg.norm(values - np.clip(values, low, high)) / np.linalg.norm(values)
        used = np.abs(values).max() / max(-low, high)
        as_fine_as_may_be = point in softmaxes and grid.scale <= 1.01 * FINEST_INTO_SOFTMAX
        cuts = cut**2 > _CUT_OFF and _is_missed(found.outputs, frozen.cut_at(inputs, point).outputs)
        if cuts or (used < _UNUSED and not as_fine_as_may_be):
            ends = f"({float(values.min()):.4g}, {float(values.max()):.4g})"
            return f"the range ({low:.4g}, {high:.4g}) at {name!r}, where the values lie in {ends}"
    return None


def _is_missed(whole: Sequence[Array], cut: Sequence[Array]) -> bool:
    """Whether an output tells values that were cut off from the range's end: a maximum does not, of low ones."""
    return any(sqnr_db(one, other) < USELESS_DB for one, other in zip(whole, cut, strict=True))


def _into_softmax(model: keras.Model) -> set[str]:
    """Names of the points that a softmax reads, whose kernels take no finer steps."""
    found: set[str] = set()
    for node in graph.nodes(model):
        if activation_name(node.operation) in ("softmax", "log_softmax"):
            found.add(str(keras_private.maker(unmoved(node.input_tensors[0])).name))
    return found


def _is_fixed(model: keras.Model, point: str) -> bool:
    """Whether a point's range is its kernel's, whatever the values are."""
    return kind_of(keras_private.maker(unmoved(model.get_layer(point).input))) is Kind.FIXED
