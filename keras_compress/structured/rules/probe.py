"""Whether a function acts on each channel alone: tried on numbers, as code tells nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_compress.structured.channel_ids import Axes
from keras_compress.structured.rules.rule import Visit

# Channels of the values that are tried, and those that are then left, in other places than before.
CHANNELS = 6
LEFT = ((4, 0, 3), (5, 2))
# Lengths of the other axes, the batch first.
LENGTHS = (2, 3, 3, 3, 3, 3)
# What clips or divides by a norm may do so from some size on.
SIZES = (0.01, 1.0, 100.0)
TOLERANCE = 1e-4
_SOFTMAX = (keras.activations.softmax, keras.activations.log_softmax, keras.activations.sparsemax)


def freeze_mixed(visit: Visit, function: Any, axes: Axes, rank: int | None = None) -> None:
    """Keep the channels on axes over which an activation function does not act on each alone.

    Args:
        visit: The call.
        function: Function of one tensor, or `None`.
        axes: Channel axes of what it is given.
        rank: How many axes that has; as many as the output by default.
    """
    if function is None or function is keras.activations.linear:
        return
    for axis, ids in axes.items():
        if not acts_alone(function, len(visit.output_shape) if rank is None else rank, axis):
            name = getattr(function, "__name__", type(function).__name__)
            own = f"has the activation {name!r}, which is not known to act on each of them alone"
            visit.freeze(ids, f"{visit.path} {'takes a softmax over it' if function in _SOFTMAX else own}")


def acts_alone(function: Callable[[Any], Any], rank: int, axis: int) -> bool:
    """Whether a function gives for some channels what it gives for them among others, in any order.

    A sum over the channels, an order of them, a factor for each place, or a width that is counted on are found out. So
    is what a function does to a tensor of another shape than it was written for: it fails, and is not known.

    >>> acts_alone(keras.ops.tanh, 3, 2), acts_alone(keras.ops.softmax, 3, 2), acts_alone(keras.ops.softmax, 3, 1)
    (True, False, True)
    """
    if str(getattr(function, "__module__", "")).startswith("keras."):
        return _known(function, rank, axis)
    return _tried(function, rank, axis)


@functools.lru_cache(maxsize=256)
def _known(function: Callable[[Any], Any], rank: int, axis: int) -> bool:
    return _tried(function, rank, axis)


def _tried(function: Callable[[Any], Any], rank: int, axis: int) -> bool:
    if isinstance(function, keras.layers.Layer) and (function.variables or not function.built):
        return False
    shape = [*LENGTHS[:rank]]
    shape[axis] = CHANNELS
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    try:
        return all(_same_for_part(function, values * size, axis, left) for size in SIZES for left in LEFT)
    except Exception:
        # A user's function may raise anything where it cannot be called.
        return False


def _same_for_part(function: Callable[[Any], Any], values: Any, axis: int, left: tuple[int, ...]) -> bool:
    whole, part = (
        keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(each)))
        for each in (values, np.take(values, left, axis))
    )
    if whole.shape != values.shape:
        return False
    expected = np.take(whole, left, axis)
    finite = expected[np.isfinite(expected)]
    largest = float(np.abs(finite).max(initial=0.0))
    return np.allclose(part, expected, rtol=TOLERANCE, atol=TOLERANCE * largest, equal_nan=True)
