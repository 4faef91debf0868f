"""How much each layer minds the loss of its smallest weights, and what sparsity that leaves to each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core.global_state import global_state_kept
from keras_compress.core.progress import ProgressLine
from keras_compress.core.registry import register
from keras_compress.core.selection import Selector, settings_by_path
from keras_compress.graph.model import candidates, slots_in, strip
from keras_compress.structured.sensitivity import (
    GroupSensitivity,
    Sensitivity,
    checked_ratios,
    metric_of,
    name_of_metric,
)

RATIOS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
# Beyond that a layer has few weights left to carry its signal at all.
_MOST_SPARSE = 0.98
_HALVINGS = 40


@dataclass(frozen=True, repr=False)
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


@register("sensitivity", "weights")
@global_state_kept()
def weight_sensitivity(
    model: keras.Model,
    evaluate: Callable[[keras.Model], float] | None = None,
    *,
    data: Any = None,
    ratios: Sequence[float] = RATIOS,
    filters: Selector | None = None,
) -> WeightSensitivity:
    """How much a model minds the loss of weights, layer by layer: the smallest of each are set to zero, alone.

    Args:
        model: Built model, plain or made by this library; it is not changed.
        evaluate: `evaluate(model)` -> a metric, the higher the better. By default the accuracy on `data`.
        data: `(x, y)`, or batches of them that can be gone through more than once.
        ratios: Sparsities to try, in (0, 1).
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.

    Returns:
        The metric at each point: `print(result)`, `result.plot("sensitivity.png")`, `result.sparsities(0.9)`.

    Raises:
        ValueError: Without a metric, for ratios out of (0, 1), or a model without weights to prune.

    **Reference**: Han et al., "Learning both weights and connections for efficient neural networks" (2015), section 3.1
    and figure 6: the sensitivity of each layer sets its threshold.
    """
    tried = checked_ratios(ratios)
    metric = metric_of(evaluate, data, model)
    plain = strip(model)
    layers = candidates(plain, quiet=True)
    chosen = settings_by_path(layers, {}, filters)
    weights = [(path, _kernels(layer)) for path, layer in layers if path in chosen]
    if not weights:
        raise ValueError(f"Expected a model with weights to prune. Received: {model.name!r} without")
    unpruned = metric(plain)
    with ProgressLine("sensitivity", total=len(weights) * len(tried)) as line:
        found = tuple(
            GroupSensitivity(path, (path,), _elements(kernels), _values(plain, kernels, tried, metric, line))
            for path, kernels in weights
        )
    return WeightSensitivity("magnitude", unpruned, tried, found, name_of_metric(evaluate))


def _kernels(layer: keras.layers.Layer) -> list[keras.Variable]:
    return [slot.variable(layer) for slot in slots_in(layer)]


def _elements(kernels: Sequence[keras.Variable]) -> int:
    return sum(int(np.prod(kernel.shape)) for kernel in kernels)


def _values(
    model: keras.Model,
    kernels: Sequence[keras.Variable],
    ratios: Sequence[float],
    metric: Callable[[keras.Model], float],
    line: ProgressLine,
) -> tuple[float, ...]:
    """The metric at each ratio; the weights are put back."""
    before = [keras.ops.convert_to_numpy(kernel) for kernel in kernels]
    metrics = []
    try:
        for ratio in ratios:
            for kernel, values in zip(kernels, before, strict=True):
                kernel.assign(_without_smallest(values, ratio))
            metrics.append(metric(model))
            line.advance()
    finally:
        for kernel, values in zip(kernels, before, strict=True):
            kernel.assign(values)
    return tuple(metrics)


def _without_smallest(values: NDArray[Any], ratio: float) -> NDArray[Any]:
    # As in pruning, one weight stays at least.
    count = min(round(ratio * values.size), values.size - 1)
    if not count:
        return values
    magnitudes = np.abs(values).reshape(-1)
    kept = np.ones(values.size, bool)
    kept[np.argpartition(magnitudes, count - 1)[:count]] = False
    return values * kept.reshape(values.shape)
