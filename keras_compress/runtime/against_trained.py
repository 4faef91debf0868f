"""The first step of two, from the trained model to the frozen one, as `verify` sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
from numpy.typing import NDArray

from keras_compress.convert.distance import Distance, argmax_agreement, between, samples_of
from keras_compress.convert.explained import unexplained
from keras_compress.convert.freeze import is_frozen
from keras_compress.convert.side_by_side import Frozen, Trained
from keras_compress.graph.graph import output_names

Array = NDArray[Any]
# Share of samples so near a tie that rounding may choose.
CHANGED_DECISIONS = 0.01
_NO_MODEL = "no trained model was given: whether the frozen one is the same function is not known"


@dataclass(frozen=True)
class Beside:
    """The frozen model beside the trained one.

    Attributes:
        names: The outputs.
        outputs: What the trained model gives for all samples.
        distance: On the first samples; `None` where there is no trained model.
        unexplained: What else than rounding stands between the two; `None` for nothing.
        notes: What rounding explains, and is much.
    """

    names: tuple[str, ...] = ()
    outputs: tuple[Array, ...] = ()
    distance: Distance | None = None
    unexplained: str | None = None
    notes: tuple[str, ...] = (_NO_MODEL,)

    @classmethod
    def of(cls, model: keras.Model | None, frozen: keras.Model, inputs: list[Array]) -> Beside:
        """The comparison.

        Args:
            model: The model that was converted; of a frozen one, or `None`, nothing is known.
            frozen: Its frozen form.
            inputs: One array for each input.
        """
        if model is None or is_frozen(model):
            return cls()
        trained = Trained(model, inputs)
        after = Frozen(frozen, trained)
        few = [array[: samples_of(frozen)] for array in inputs]
        in_trained = trained.run(few, after.calls)
        found = between(trained, after, few, in_trained)
        far = tuple(
            f"output {each.name!r}: {each.sqnr_db:.1f} dB from the trained model, first at {found.opens_at!r}"
            for each in found.outputs
            if each.opens
        )
        why = unexplained(trained, after, few, found, in_trained)
        outputs = tuple(in_trained.outputs) if len(few[0]) == len(inputs[0]) else trained.simulated(inputs)
        return cls(tuple(output_names(frozen)), outputs, found, why, far)

    def agreements(self, frozen: Sequence[Array]) -> list[tuple[str, str, float]]:
        """`(output, what is compared, share of samples with the same largest entry)` of outputs with classes."""
        found = []
        if self.outputs:
            for name, ours, theirs in zip(self.names, self.outputs, frozen, strict=True):
                share = argmax_agreement(ours, theirs.reshape(ours.shape))
                found += [] if share is None else [(name, "trained and frozen model", share)]
        return found


def decision_notes(agreements: Sequence[tuple[str, str, float]], samples: int) -> list[str]:
    """Where the largest entry is another one in more samples than near ties explain: 1 %, and three standard errors."""
    least = 1.0 - CHANGED_DECISIONS - 3 * math.sqrt(CHANGED_DECISIONS / samples)
    return [
        f"output {name!r}: {compared} agree in the largest entry of {share:.1%} of {samples:,} samples"
        for name, compared, share in agreements
        if share < least
    ]
