"""Pruning and retraining in turns, from a trained model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_compress.core.global_state import global_state_kept
from keras_compress.core.selection import Selector
from keras_compress.core.warn import warn
from keras_compress.graph.model import check_model, strip
from keras_compress.pipelines.checkpoints import Checkpoints
from keras_compress.pipelines.pruning_rounds import (
    Array,
    Rounds,
    check_scope,
    check_score_every,
    checked_levels,
    levels_of,
    masked,
    set_masks,
)
from keras_compress.pipelines.round_training import RoundCallback, RoundTrainer
from keras_compress.pipelines.training import Judge, check_float_activations
from keras_compress.pruning.rounds import PrunedInRounds, PruningRound
from keras_compress.runtime.measure import Metric, accuracy


@global_state_kept()
def prune_iteratively(
    model: keras.Model,
    fit: Any,
    sparsities: Sequence[float] | None = None,
    *,
    validation_data: tuple[Any, Any],
    sparsity: float | None = None,
    rounds: int | None = None,
    share: float | None = None,
    scope: str = "global",
    max_drop: float | None = None,
    metric: Metric = accuracy,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    score_every: int | None = None,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
) -> PrunedInRounds:
    """Set the smallest weights to zero, train what is left, and again with more, each round from the one before.

    Args:
        model: Trained model. It is not changed.
        fit: What trains a model in place, in each round anew: `kc.Training(...).on(x, y)`, or a function
            `fit(model, stage)` that compiles and fits it (`callbacks=stage.callbacks` counts its steps). A tenth of the
            learning rate that the model was trained with is usual.
        sparsities: Share of zeros behind each round, in (0, 1), ascending; or `sparsity`.
        validation_data: `(x, y)` arrays: inputs and labels for `metric`.
        sparsity: Share of zeros behind the last round: the rounds before take the same share of what is left.
        rounds: How many rounds lead to `sparsity`.
        share: Of the weights that are left, taken in each round, in (0, 1); 0.2 where no `rounds` are given.
        scope: `"global"`: the smallest of all weights together; `"layer"`: of each weight.
        max_drop: Most that the metric may fall below that of `model`, >= 0; the first round that loses more is the
            last, and the one before is what is returned. `None`: all rounds are done.
        metric: `(outputs, y) -> float`, the higher the better; the accuracy by default.
        filters: Layers to prune; all by default.
        rules: Exceptions: `{"layers": selector, "skip": True}`.
        score_every: Take the metric each time so many batches are trained, for the plot; `None`: not.
        seed: Set before each training; a `kc.Training` with a seed of its own sets that.
        folder: Where finished rounds are kept: a killed run called again goes on behind its last one, to the same
            weights. It is not noticed if what a `fit` function works with has become another.

    Returns:
        The sparsest model within the budget, and what each round did.

    Raises:
        ValueError: For arguments out of range, a rule that matches nothing, or a folder that holds other work.

    **Reference**: Han, Pool, Tran and Dally, "Learning both weights and connections for efficient neural networks"
    (2015), section 3.
    **Deviations**: the threshold is a rank, not a number of standard deviations; the rate of Dropout stays as it is.
    """
    check_model(model)
    check_float_activations(model)
    check_scope(scope)
    check_score_every(score_every)
    if (sparsities is None) == (sparsity is None):
        raise ValueError(
            f"Expected `sparsities` or `sparsity`, one of them. Received: sparsities={sparsities}, sparsity={sparsity}"
        )
    if sparsities is not None and (rounds is not None or share is not None):
        raise ValueError(
            "Expected `rounds` and `share` with `sparsity` alone: `sparsities` has one for each round. "
            f"Received: sparsities={list(sparsities)}, rounds={rounds}, share={share}"
        )
    levels = levels_of(sparsity or 0.0, rounds, share) if sparsities is None else checked_levels(sparsities)
    judge = Judge(*validation_data, metric, max_drop)
    train = RoundTrainer(fit, seed, model)
    # Without the masks, centroids and quantizers of a model that has some; zeros stay zeros.
    start = masked(strip(model), filters, rules)
    work = {
        "model": model,
        "validation_data": list(validation_data),
        "metric": metric,
        "levels": list(levels),
        "scope": scope,
        "filters": filters,
        "rules": rules,
        "score_every": score_every,
        **train.decisive(),
    }
    with Checkpoints(folder, work) as kept:
        loop = Rounds(start, train, judge, kept, levels=levels, scope=scope, score_every=score_every)
        first = loop.first(start)

        def begin(number: int, masks: list[Array]) -> tuple[keras.Model, RoundCallback]:
            before = loop.model(f"round_{number - 1}")
            set_masks(before, masks)
            return before, loop.callback(before)

        found = loop.run(first, begin)
        return PrunedInRounds(**result_of(loop, found))


def result_of(loop: Rounds, rounds: Sequence[PruningRound]) -> dict[str, Any]:
    """What is told of all rounds, and the model of the last good one; a budget that no round met is said."""
    good = [each for each in rounds if each.within_budget]
    met = len(good) > 1
    if not met:
        warn(
            f"No round is within the budget: the first has {rounds[1].metric:.4g}, the model before pruning "
            f"{rounds[0].metric:.4g}, and is returned. Prune less in the first round, train longer in each, or give a "
            "larger `max_drop`."
        )
    best = good[-1]
    return {
        "model": loop.model(f"round_{best.number}"),
        "sparsity": best.sparsity,
        "metric": best.metric,
        "baseline": rounds[0].metric,
        "met": met,
        "rounds": tuple(rounds),
    }
