"""What all criteria of weights share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.data.examples import Examples
from keras_compress.pruning.plan import Plan
from keras_compress.pruning.scored import Mask, ScoredModel

Array = NDArray[Any]
Scores = list[Array]


class Saliency:
    """Gives every weight of a model a score; the lowest are set to zero first.

    A subclass implements `scores`. Its constructor takes the settings, which `get_config` gives back.
    BatchNormalization and Dropout work as in inference.

    Class attributes:
        needs: What it needs beside the model: `"inputs"`, `"targets"`.
        per_output: Whether weights are compared with those of the same output only.
        rounds: In how many rounds weights go, scores found anew in each; what stays falls exponentially.
        updates: Whether it also changes the weights that stay.

    Attributes:
        notes: Name of a weight -> why it was scored otherwise than the others, of the last `prune`. Where all scores of
            a weight that has a sparsity of its own are equal, as behind what saturates, it is taken by magnitude.
    """

    needs: frozenset[str] = frozenset()
    per_output: bool = False
    rounds: int = 1
    updates: bool = False
    notes: Mapping[str, str] = MappingProxyType({})

    def scores(self, scored: ScoredModel, examples: Examples) -> Scores:
        """A score for each weight, in its shape, the higher the more it matters.

        Args:
            scored: The model and its weights; those pruned in earlier rounds are zero.
            examples: Data, checked to be what `needs` names.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `scores(scored, examples)`.")

    def scorer(self, scored: ScoredModel, examples: Examples) -> Callable[[], Scores]:
        """What gives the scores of each round; for criteria that make something once for all of them."""
        return lambda: self.scores(scored, examples)

    def updated(self, scored: ScoredModel, masks: Sequence[Mask], examples: Examples) -> Scores:
        """The values of all weights when those outside the masks are zero; of criteria with `updates`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `updated(scored, masks, examples)`.")

    def prune(self, scored: ScoredModel, examples: Examples, plan: Plan) -> list[Mask]:
        """Prune the model by a plan.

        Args:
            scored: The model, whose weights are set to what they are to be.
            examples: Data.
            plan: What stays.

        Returns:
            The masks.

        Raises:
            ValueError: For scores that are not finite.
        """
        self.notes = {}
        equal: list[int] = []
        scorer = self.scorer(scored, examples)
        # A pattern of m in n has no half way.
        rounds = self.rounds if plan.pattern.m_by_n is None else 1
        masks = scored.masks()
        for number in range(1, rounds + 1):
            scores = self._finite(scored, scorer())
            if number == 1:
                equal = self._note_equal(scored, scores, masks, plan)
            for place in equal:
                scores[place] = np.abs(scored.weights[place].values())
            masks = plan.after(number / rounds).masks(scored.weights, scores, masks, self.per_output)
            if number < rounds or not self.updates:
                scored.put(masks)
        if self.updates:
            values = self._finite(scored, self.updated(scored, masks, examples))
            for each, value in zip(scored.weights, values, strict=True):
                each.variable.assign(value)
            scored.put(masks)
        return masks

    def _note_equal(self, scored: ScoredModel, scores: Scores, masks: Sequence[Mask], plan: Plan) -> list[int]:
        """Numbers of the weights that are taken by magnitude because all their scores are equal; says which."""
        equal = [
            number
            for number, (found, mask) in enumerate(zip(scores, masks, strict=True))
            if np.count_nonzero(mask) > 1
            and np.ptp(found[mask]) == 0
            and (plan.together or plan.sparsities[number] > 0)
        ]
        magnitudes = {number: np.abs(scored.weights[number].values())[masks[number]] for number in equal}
        taken = [number for number in equal if not plan.together and np.ptp(magnitudes[number]) > 0]
        why = {
            number: "taken by magnitude" if number in taken else "which says nothing of which stay" for number in equal
        }
        told = {scored.weights[number].name: f"all its scores are equal, {why[number]}" for number in equal}
        self.notes = {**told, **self.notes}
        return taken

    def _finite(self, scored: ScoredModel, scores: Scores) -> Scores:
        wrong = [each.name for each, s in zip(scored.weights, scores, strict=True) if not np.isfinite(s).all()]
        if wrong:
            raise ValueError(
                "Expected weights and data that give finite scores. "
                f"Received: {type(self).__name__} found NaN or infinity in {wrong[:10]}"
            )
        return scores

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Saliency:
        """The criterion with these arguments."""
        return cls(**config)


def check_count(name: str, value: Any, least: int = 1) -> int:
    """An integer setting.

    Raises:
        ValueError: For anything but an integer >= `least`.
    """
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise ValueError(f"Expected `{name}` as an integer >= {least}. Received: {name}={value}")
    return int(value)


def check_number(name: str, value: Any, above: float = 0.0, or_equal: bool = False) -> float:
    """A real setting.

    Raises:
        ValueError: For anything but a finite number above (or at) `above`.
    """
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not np.isfinite(value) or value < above or (value == above and not or_equal):
        raise ValueError(
            f"Expected `{name}` as a number {'>=' if or_equal else '>'} {above:g}. Received: {name}={value!r}"
        )
    return float(value)
