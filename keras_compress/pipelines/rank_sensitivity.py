"""How much each layer minds a low rank, and the rank that leaves it the accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from numpy.typing import NDArray

from keras_compress.core.global_state import global_state_kept
from keras_compress.core.progress import ProgressLine
from keras_compress.core.registry import register
from keras_compress.core.selection import Selector, exactly, settings_by_path
from keras_compress.data.examples import Examples
from keras_compress.factorization.cells import cells_of
from keras_compress.factorization.scheme import Factors, Rank
from keras_compress.factorization.work import Work, places_of
from keras_compress.graph.finite import check_finite
from keras_compress.graph.model import strip
from keras_compress.pipelines.bit_probe import output_noise
from keras_compress.pipelines.bit_sensitivity import mean_decibels
from keras_compress.structured.hashing import refuse_transforms
from keras_compress.structured.opened import opened
from keras_compress.structured.sensitivity import (
    GroupSensitivity,
    Scan,
    checked_ratios,
    metric_of,
    name_of_metric,
)

Array = NDArray[Any]
Metric = Callable[[keras.Model], float]
RATIOS = (0.25, 0.5, 0.75, 0.875, 0.95)


@dataclass(frozen=True, repr=False)
class RankSensitivity(Scan):
    """What `sensitivity(of="ranks")` found: `groups` are layers, `width` is the full rank of each."""

    unit: ClassVar[str] = "rank"

    def ranks(self, max_drop: float = 0.01) -> list[dict[str, Any]]:
        """Rules for `factorize`: for each layer the lowest rank tried that loses at most `max_drop`.

        A layer that loses more at every rank is skipped. The losses of layers factorized together add up to more than
        those of each alone; training wins back a part.

        Args:
            max_drop: In units of the metric, >= 0: 0.01 is one point of accuracy, 1.0 a decibel.

        Raises:
            ValueError: For `max_drop` below 0, or ranks on two sides, which no rule can name by a share.
        """
        if not max_drop >= 0:
            raise ValueError(f"Expected `max_drop` >= 0. Received: max_drop={max_drop}")
        if self.criterion == "tucker":
            raise ValueError("Expected a scan of a method with one rank. Received: tucker")
        rules: list[dict[str, Any]] = []
        paths = [group.name for group in self.groups]
        for group in self.groups:
            # 0.90 - 0.89 is a little more than 0.01.
            kept = [r for r, v in zip(self.tried, group.values, strict=True) if self.unpruned - v <= max_drop + 1e-9]
            rules.append(
                {
                    "layers": exactly(group.name, paths),
                    **({"rank": _left(group.width, max(kept))} if kept else {"skip": True}),
                }
            )
        return rules


def _left(full: int, ratio: float) -> int:
    """What is left of a full rank, 1 at least.

    >>> _left(64, 0.75), _left(3, 0.95)
    (16, 1)
    """
    return max(1, round(full * (1.0 - ratio)))


@register("sensitivity", "ranks")
@global_state_kept()
def rank_sensitivity(
    model: keras.Model,
    evaluate: Metric | None = None,
    *,
    data: Any = None,
    ratios: Sequence[float] = RATIOS,
    method: str = "svd",
    filters: Selector | None = None,
) -> RankSensitivity:
    """How much a model minds a low rank, layer by layer: each is replaced alone, by several ranks.

    The weight becomes what its factors give when they are multiplied, in one copy of the model, which computes what
    the factorized model would. Nothing is built or traced for a point: each costs one evaluation.

    Args:
        model: Built model without transforms; it is not changed.
        evaluate: `evaluate(model)` -> a metric, the higher the better. By default the accuracy on `data`, or without
            labels the outputs' signal to noise in dB, at most 120.
        data: `(x, y)` or `x`, or batches of them that can be gone through more than once. The first 256 inputs also
            weigh the errors of `"svd"`, as in `factorize(data=)`.
        ratios: Shares of the full rank to give up, in (0, 1).
        method: How layers are factorized: `"svd"`, `"spatial"`, `"tucker"` (both ranks alike), `"cp"` or
            `"tensor_train"`.
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.

    Returns:
        The metric at each point: `print(result)`, `result.plot("ranks.png")`, and
        `factorize(model, method, rules=result.ranks(max_drop=0.01))`.

    Raises:
        ValueError: Without a metric, for ratios out of (0, 1), `"auto"`, or a model without a layer that can be
            factorized so.
    """
    tried = checked_ratios(ratios)
    if method == "auto":
        raise ValueError("Expected one method: ranks of several say different things. Received: method='auto'")
    refuse_transforms(model)
    check_finite(model)
    plain = strip(opened(model))
    metric, measured = _metric(plain, evaluate, data)
    places = places_of(plain)
    settings = settings_by_path([(p, each.layer) for p, each in places.items()], {"method": method}, filters)
    inputs = None if data is None else lambda: (x for x, _ in Examples.fed_to(plain, data))
    work = Work.of(plain, {path: places[path] for path in places if path in settings}, settings, inputs)
    whole = metric(plain)
    with ProgressLine("sensitivity", total=len(work.factors) * len(tried)) as line:
        found = []
        for path, ways in work.factors.items():
            line.describe(path)
            factors = ways[method]
            values = _values(places[path].layer, factors, tried, lambda: metric(plain), line)
            found.append(GroupSensitivity(path, (path,), min(factors.full), values))
    return RankSensitivity(method, whole, tried, tuple(found), measured)


def _values(
    layer: Any, factors: Factors, ratios: Sequence[float], metric: Callable[[], float], line: ProgressLine
) -> tuple[float, ...]:
    """The metric at each ratio; the weight is put back. Ratios that leave as much share an evaluation."""
    kernels = [cell.kernel for cell in cells_of(layer)] or [layer.kernel]
    before = [keras.ops.convert_to_numpy(kernel) for kernel in kernels]
    ends = np.cumsum([kernel.shape[-1] for kernel in kernels])[:-1]
    known: dict[Rank, float] = {}
    found = []
    try:
        for ratio in ratios:
            rank = tuple(_left(full, ratio) for full in factors.full)
            if rank not in known:
                for kernel, values in zip(kernels, np.split(factors.merged(rank), ends, axis=-1), strict=True):
                    kernel.assign(values)
                known[rank] = metric()
            found.append(known[rank])
            line.advance()
    finally:
        for kernel, values in zip(kernels, before, strict=True):
            kernel.assign(values)
    return tuple(found)


def _metric(model: keras.Model, evaluate: Metric | None, data: Any) -> tuple[Metric, str]:
    """What is measured, and its name."""
    examples = Examples.fed_to(model, data)
    if evaluate is None and data is not None:
        first = next(iter(examples), None)
        if first is not None and first[1] is None:
            return OutputSignal(model, examples), "signal to noise, dB"
    return metric_of(evaluate, data, model), name_of_metric(evaluate)


class OutputSignal:
    """Signal to noise of a model's outputs in dB, the noise being what changed since this was made.

    Args:
        model: Traced once, whatever its weights become.
        examples: Inputs.
    """

    def __init__(self, model: keras.Model, examples: Examples) -> None:
        self._batches = [x for x, _ in examples]
        self._outputs = tf.function(lambda inputs: model(inputs, training=False), reduce_retracing=True)
        self._exact = [self._of(batch) for batch in self._batches]

    def _of(self, batch: Any) -> list[Array]:
        return [np.asarray(each) for each in tree.flatten(self._outputs(batch))]

    def __call__(self, model: keras.Model) -> float:
        """The figure for the weights that the model has now."""
        pairs = zip(self._batches, self._exact, strict=True)
        return mean_decibels(np.asarray(sum(output_noise(self._of(batch), exact) for batch, exact in pairs)))
