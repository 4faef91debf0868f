"""How much each layer minds the loss of its smallest weights, and what sparsity that leaves to each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core.model import candidates, slots_in, strip
from keras_compress.core.progress import ProgressLine
from keras_compress.core.selection import Selector, settings_by_path
from keras_compress.structured.sensitivity import GroupSensitivity, Sensitivity, checked_ratios, metric_of

RATIOS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
# Beyond that a layer has few weights left to carry its signal at all.
_MOST_SPARSE = 0.98
_HALVINGS = 40


@dataclass(frozen=True)
class WeightSensitivity(Sensitivity):
    """What `weight_sensitivity` found: `groups` are weights, `width` is how many numbers each has."""

    unit: ClassVar[str] = "weights"

    def sparsities(self, sparsity: float) -> dict[str, float]:
        """The sparsity of each layer that gives the model this sparsity, the same drop of the metric for each layer.

        Between the ratios that were tried the drop is taken as a straight line, and as never falling.

        Args:
            sparsity: Of all scanned weights together, in [0, 0.98].

        Returns:
            Layer's path -> sparsity, at most 0.98.

        Raises:
            ValueError: For a sparsity out of range.
        """
        if not 0.0 <= sparsity <= _MOST_SPARSE:
            raise ValueError(f"Expected `sparsity` in [0, {_MOST_SPARSE}]. Received: sparsity={sparsity}")
        sizes = np.array([group.width for group in self.groups], np.float64)
        curves = [_monotone(self.unpruned - np.array((self.unpruned, *group.values))) for group in self.groups]
        ratios = np.array((0.0, *self.tried))
        if self.tried[-1] < _MOST_SPARSE:
            # Nobody has looked there: taken to lose what the most sensitive layer lost on top.
            worst = max(float(curve[-1]) for curve in curves)
            curves = [np.append(curve, curve[-1] + worst) for curve in curves]
            ratios = np.append(ratios, _MOST_SPARSE)

        def at(drop: float) -> NDArray[np.float64]:
            return np.array([_largest_ratio(curve, ratios, drop) for curve in curves])

        low, high = 0.0, float(max(curve[-1] for curve in curves))
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if float(at(middle) @ sizes) < sparsity * sizes.sum() else (low, middle)
        found = _scaled(at(high), sizes, sparsity)
        return {group.name: round(float(each), 4) for group, each in zip(self.groups, found, strict=True)}


def _monotone(drops: NDArray[np.float64]) -> NDArray[np.float64]:
    rising: NDArray[np.float64] = np.maximum.accumulate(np.maximum(drops, 0.0))
    return rising


def _largest_ratio(curve: NDArray[np.float64], ratios: NDArray[np.float64], drop: float) -> float:
    """Where the curve last is at most `drop`."""
    place = int(np.searchsorted(curve, drop, side="right"))
    if place == len(curve):
        return _MOST_SPARSE
    return float(np.interp(drop, curve[place - 1 : place + 1], ratios[place - 1 : place + 1]))


def _scaled(ratios: NDArray[np.float64], sizes: NDArray[np.float64], sparsity: float) -> NDArray[np.float64]:
    """The ratios, moved so that the whole is exact: a curve that is flat leaves a jump in what a drop allows."""
    wanted, found = sparsity * float(sizes.sum()), float(ratios @ sizes)
    towards: NDArray[np.float64] = np.full_like(ratios, 0.0 if found > wanted else _MOST_SPARSE)
    distance = float((towards - ratios) @ sizes)
    return ratios + (towards - ratios) * ((wanted - found) / distance if distance else 0.0)
