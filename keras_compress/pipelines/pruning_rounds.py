"""Rounds of pruning with training between them: one loop, for lottery tickets and for pruning with retraining."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core.selection import OF_RULE
from keras_compress.graph.model import compressed_layers
from keras_compress.graph.remade import classes_in
from keras_compress.pipelines.checkpoints import Checkpoints
from keras_compress.pipelines.round_training import RoundCallback, RoundTrainer
from keras_compress.pipelines.training import Judge
from keras_compress.pruning.distribution import check_sparsity, highest, highest_of_all, kept_count
from keras_compress.pruning.fixed_mask import FixedMaskPruner, open_empty_masks
from keras_compress.pruning.prune import prune
from keras_compress.pruning.rounds import Curve, PruningRound

Array = NDArray[Any]
SCOPES = ("global", "layer")
# Of the weights that are left, in each round: Frankle and Carbin (2019).
SHARE = 0.2


def levels_of(sparsity: float, rounds: int | None, share: float | None) -> tuple[float, ...]:
    """The sparsity behind each round, when each takes the same share of the weights that are left.

    **Forward** `s_i = 1 - (1 - share)^i`, and `sparsity` itself behind the last.

    Args:
        sparsity: To be reached, in (0, 1).
        rounds: How many; as many as the share needs by default.
        share: Of the weights that are left, taken in each round, in (0, 1); by default what the rounds need, or 0.2.

    Raises:
        ValueError: For a value out of range, or rounds that are too few or too many for the share.

    >>> [round(level, 3) for level in levels_of(0.5, None, 0.2)]
    [0.2, 0.36, 0.488, 0.5]
    >>> [round(level, 3) for level in levels_of(0.75, 2, None)]
    [0.5, 0.75]
    """
    check_sparsity(sparsity)
    if not sparsity > 0.0:
        raise ValueError(f"Expected `sparsity` in (0, 1). Received: sparsity={sparsity!r}")
    if rounds is not None and (isinstance(rounds, bool) or not isinstance(rounds, (int, np.integer)) or rounds < 1):
        raise ValueError(f"Expected `rounds` as an integer >= 1. Received: rounds={rounds!r}")
    if share is not None and not 0.0 < share < 1.0:
        raise ValueError(f"Expected `share` in (0, 1). Received: share={share!r}")
    if share is None:
        share = SHARE if rounds is None else 1.0 - (1.0 - sparsity) ** (1.0 / rounds)
    needed = math.ceil(math.log(1.0 - sparsity) / math.log(1.0 - share) - 1e-9)
    if rounds is not None and needed > rounds:
        raise ValueError(
            f"Expected rounds >= {needed} to reach sparsity={sparsity:g} by share={share:g} of what is left in each. "
            f"Received: rounds={rounds}, which end at {1.0 - (1.0 - share) ** rounds:.4g}"
        )
    if rounds is not None and needed < rounds:
        raise ValueError(
            f"Expected rounds={needed}, which reach sparsity={sparsity:g} by share={share:g} of what is left in each, "
            f"or only one of the two. Received: rounds={rounds}, share={share:g}"
        )
    return (*(1.0 - (1.0 - share) ** number for number in range(1, needed)), float(sparsity))


def checked_levels(sparsities: Sequence[float]) -> tuple[float, ...]:
    """Sparsities behind the rounds, as they were given.

    Raises:
        ValueError: For a value out of (0, 1), or an order that is not ascending.
    """
    for each in sparsities:
        check_sparsity(each, "sparsities")
    ascending = all(a < b for a, b in zip((0.0, *sparsities), sparsities, strict=False))
    if not sparsities or not ascending:
        raise ValueError(f"Expected `sparsities` in (0, 1), ascending. Received: sparsities={list(sparsities)}")
    return tuple(map(float, sparsities))


def check_scope(scope: Any) -> None:
    """Refuse an unknown scope.

    Raises:
        ValueError: Saying which there are.
    """
    if scope not in SCOPES:
        raise ValueError(f"Expected `scope` as 'global' or 'layer'. Received: scope={scope!r}")


def check_score_every(score_every: Any) -> None:
    """Refuse what is no number of steps.

    Raises:
        ValueError: Saying what is.
    """
    whole = isinstance(score_every, (int, np.integer)) and not isinstance(score_every, bool)
    if score_every is not None and (not whole or score_every < 1):
        raise ValueError(f"Expected `score_every` as a number of steps >= 1, or None. Received: {score_every!r}")


def masked(model: keras.Model, filters: Any, rules: Sequence[Mapping[str, Any]] | None) -> keras.Model:
    """A copy of a model with a mask over each weight that is to be pruned.

    Raises:
        ValueError: For a rule that sets more than `skip`, or that matches nothing; where all layers are frozen.
    """
    for rule in rules or ():
        if set(rule) - {*OF_RULE}:
            raise ValueError(f"Expected rules of the form {{'layers': ..., 'skip': True}}. Received: {dict(rule)!r}")
    found = prune(model, FixedMaskPruner(), filters=filters, rules=rules)
    open_empty_masks(found)
    if not any(True for _ in pruners_in(found)):
        raise ValueError(
            f"Expected a layer to prune that is trained. Received: {model.name!r}, whose layers are frozen"
        )
    return found


def pruners_in(model: keras.Model) -> Iterator[tuple[FixedMaskPruner, Array]]:
    """Each mask in a model with the weight that it is over; those of frozen layers stay as they are."""
    for _, wrapper in compressed_layers(model):
        if wrapper.frozen:
            continue
        for slot, listed in wrapper.items():
            for transform in listed:
                if isinstance(transform, FixedMaskPruner):
                    yield transform, np.asarray(wrapper.weight(slot.name, stop_before=transform))


def prune_to(model: keras.Model, sparsity: float, scope: str) -> list[Array]:
    """Masks of the weights of largest magnitude among those that are left; one at least stays in each weight.

    Args:
        model: What `masked` made, trained.
        sparsity: Share of zeros, of each weight or of all of them together.
        scope: `"global"`: one ranking; `"layer"`: one for each weight.
    """
    found = list(pruners_in(model))
    # What is pruned already comes behind a weight that training has brought to zero.
    scores = [np.where(np.asarray(pruner.mask), np.abs(weight), -1.0) for pruner, weight in found]
    if scope == "global":
        masks = highest_of_all(scores, sparsity)
    else:
        masks = [highest(each, kept_count(each.size, sparsity)) for each in scores]
    return [mask & np.asarray(pruner.mask) for mask, (pruner, _) in zip(masks, found, strict=True)]


def masks_in(model: keras.Model) -> list[Array]:
    """The masks of a model, in the order of `pruners_in`."""
    return [np.asarray(pruner.mask) for pruner, _ in pruners_in(model)]


def set_masks(model: keras.Model, masks: Sequence[Array]) -> None:
    """Give the masks of another model of the same structure to a model."""
    for (pruner, _), mask in zip(pruners_in(model), masks, strict=True):
        pruner.mask.assign(mask)


def sparsity_of(model: keras.Model) -> float:
    """Share of zeros in the masks of a model."""
    masks = masks_in(model)
    return 1.0 - sum(int(mask.sum()) for mask in masks) / sum(mask.size for mask in masks)


class Rounds:
    """The loop: prune the model of the round before, let it begin somewhere, train it, measure it.

    Args:
        structure: A model with masks; all others have its structure.
        train: Trains one in place.
        judge: The metric, and how much of it may be lost.
        kept: Where finished rounds are.
        levels: Sparsity behind each round.
        scope: `"global"` or `"layer"`.
        score_every: Steps between scores in a training; `None`: none.
    """

    def __init__(
        self,
        structure: keras.Model,
        train: RoundTrainer,
        judge: Judge,
        kept: Checkpoints,
        *,
        levels: Sequence[float],
        scope: str,
        score_every: int | None,
    ) -> None:
        # Users' layers need no registration, as they need none to be copied.
        self._classes = classes_in(structure)
        self._train, self._judge, self._kept = train, judge, kept
        self._levels, self._scope, self._score_every = levels, scope, score_every

    def model(self, name: str) -> keras.Model:
        """The model of a finished step."""
        with keras.saving.custom_object_scope(self._classes):
            return self._kept.model(name)

    def first(self, model: keras.Model) -> PruningRound:
        """The round before any pruning, of a model that is trained already."""
        return self.round(0, lambda: (model, self._figures(model)))

    def round(
        self, number: int, make: Callable[[], tuple[keras.Model, dict[str, Any]]], first: PruningRound | None = None
    ) -> PruningRound:
        """A round that is made, or was before."""
        figures = self._kept.step(f"round_{number}", make)
        within = first is None or self._judge.within(figures["metric"], first.metric)
        return PruningRound(number, within_budget=within, **_read(figures))

    def trained(
        self, model: keras.Model, name: str, callback: RoundCallback | None = None
    ) -> tuple[keras.Model, dict[str, Any]]:
        """A model after its training, and its figures."""
        callback = callback or self.callback(model)
        self._train(model, name, callback)
        return model, self._figures(model, callback)

    def callback(self, model: keras.Model, **arguments: Any) -> RoundCallback:
        """What a training of the model is watched with."""
        return RoundCallback(model, score=self._judge.of_model, score_every=self._score_every, **arguments)

    def run(
        self,
        first: PruningRound,
        begin: Callable[[int, list[Array]], tuple[keras.Model, RoundCallback]],
        control: Callable[[PruningRound], PruningRound] = lambda done: done,
    ) -> list[PruningRound]:
        """All rounds, up to the first that loses more than is allowed.

        Args:
            first: Round 0.
            begin: `(number, masks)` -> the model that the training of a round begins with, and what watches it.
            control: Adds what else is measured of a round.
        """
        rounds = [first]
        for number, level in enumerate(self._levels, 1):

            def make(number: int = number, level: float = level) -> tuple[keras.Model, dict[str, Any]]:
                masks = prune_to(self.model(f"round_{number - 1}"), level, self._scope)
                model, callback = begin(number, masks)
                return self.trained(model, f"round_{number}", callback)

            rounds.append(control(self.round(number, make, first)))
            if not rounds[-1].within_budget:
                break
        return rounds

    def _figures(self, model: keras.Model, callback: RoundCallback | None = None) -> dict[str, Any]:
        return {
            "sparsity": sparsity_of(model),
            "metric": self._judge.of_model(model),
            "steps": 0 if callback is None else callback.steps,
            "curve": [] if callback is None else callback.curve,
        }


def _read(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {**figures, "curve": curve_of(figures["curve"])}


def curve_of(listed: Sequence[Sequence[float]]) -> Curve:
    """A curve as it was before it was written as JSON."""
    return tuple((int(step), float(value)) for step, value in listed)
