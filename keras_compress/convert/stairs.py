"""Signs and staircases, whose thresholds stay where they were trained: sums before them are moved instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.convert.expand.activations import PointwiseFunction
from keras_compress.convert.final_grid import as_float32
from keras_compress.graph import graph
from keras_compress.quantizers.activation import FixedGrid, QuantizeActivation

Tensor = Any
Array = NDArray[np.float64]

# Beyond its outermost thresholds a staircase is constant: this share of their distance is enough, or this much.
_MARGIN = 1 / 8
_MARGIN_OF_ONE = 1.0
# Steps that are tried: the finest, and up to a half more.
_STEPS = 1.0 + np.linspace(0.0, 0.5, 1001)


def around(thresholds: Sequence[float]) -> tuple[FixedGrid, float]:
    """The 8-bit grid that thresholds are told apart on best, and what to add to the values in front of it.

    Rounding moves a threshold to the middle between two integers. So of many steps the one is taken with which all
    thresholds, moved together, come closest to such middles: exactly, where there are one or two or they are evenly
    spaced.

    Args:
        thresholds: Ascending.

    >>> grid, offset = around([-0.5, 0.5])
    >>> [round((t + offset) / grid.scale % 1, 4) for t in (-0.5, 0.5)]
    [0.5, 0.5]
    """
    at = np.asarray(thresholds, np.float64)
    margin = _MARGIN * (at[-1] - at[0]) or _MARGIN_OF_ONE
    low, high = min(at[0] - margin, 0.0), max(at[-1] + margin, 0.0)
    steps = (high - low) / 254 * _STEPS
    if (distance := at[-1] - at[0]) > 0:
        # The outermost ones are a whole number of steps apart.
        steps = distance / np.unique(np.maximum(np.floor(distance / steps), 1.0))[::-1]
    # The shortest arc, of a circle of one step, that holds all: it ends where the largest gap begins.
    fractions = np.sort(at / steps[:, np.newaxis] % 1.0, axis=1)
    gaps = np.diff(np.concatenate([fractions, fractions[:, :1] + 1.0], axis=1))
    best = int(gaps.max(axis=1).round(9).argmax())
    gap, step = int(gaps[best].argmax()), as_float32(steps[best])
    start, length = fractions[best, (gap + 1) % at.size], 1.0 - gaps[best, gap]
    offset = ((0.5 - start - length / 2) % 1.0) * step
    return FixedGrid(step, int(np.round(-127 - low / step))), float(offset)


@dataclass
class Steps:
    """The points of a flat graph that are constant between thresholds.

    Args:
        model: The graph.
        table: What `graph.consumers` gives for it.
        active: Whether the file computes with integers.
    """

    model: keras.Model
    table: dict[int, list[Any]]
    active: bool
    # Those whose thresholds the sums before them have taken in.
    _moved: set[keras.layers.Layer] = field(default_factory=set)

    def behind(self, node: Any) -> QuantizeActivation | None:
        """The sign or staircase that alone reads a call's output, if one does."""
        reader = graph.sole_consumer(node, self.model, self.table)
        point = None if reader is None else reader.operation
        found = self.active and isinstance(point, QuantizeActivation) and point.quantizer.replaces_relu
        return point if found else None

    def moved(self, point: QuantizeActivation, bias: Array, last: bool = True) -> Array:
        """The bias of sums whose sign is that of values beyond thresholds, or which a grid tells apart on stairs.

        Args:
            point: What reads the sums.
            bias: One number for each channel.
            last: Whether these channels are the last axis, along which thresholds differ.

        Raises:
            ValueError: For thresholds that differ along another axis, or are not finite.
        """
        of = point.quantizer
        of.check_range(point.name)
        shift = -of.thresholds() if of.is_sign else np.full(1, around(of.staircase().thresholds)[1])
        if shift.size > 1 and not last:
            raise ValueError(
                "Expected thresholds along the axis that is normalized. Received: thresholds along the last axis at "
                f"{point.name!r}, behind a normalization of another one"
            )
        self._moved.add(point)
        found: Array = bias + shift
        return found

    def offset(self, point: QuantizeActivation, channels: int) -> Array:
        """What is left to add in front of a sign, for each channel."""
        left = np.zeros(1) if point in self._moved else -point.quantizer.thresholds()
        return np.broadcast_to(left, (channels,))

    def stairs(
        self, point: QuantizeActivation, tensor: Tensor, on_grid: Callable[..., Tensor], known: bool
    ) -> tuple[Tensor, tuple[int, int]]:
        """What a staircase makes of a tensor, by a table, and the lowest and the highest multiple of its step.

        Args:
            point: Where it stands.
            tensor: Its input.
            on_grid: Puts a point behind a tensor.
            known: Whether the input is on a grid.
        """
        stairs, name = point.quantizer.staircase(), point.name
        if not known:
            grid, offset = around(stairs.thresholds)
            tensor = on_grid(tensor, grid, f"{name}.input")
            offset = offset if point in self._moved else 0.0
            stairs = replace(stairs, thresholds=[threshold + offset for threshold in stairs.thresholds])
        looked_up = PointwiseFunction("staircase", asdict(stairs), name=f"{name}.table")(tensor)
        outputs = on_grid(looked_up, FixedGrid(as_float32(stairs.step), 0), name, point.stands_for)
        return outputs, (min(stairs.levels), max(stairs.levels))
