"""Gradients integrated along the way on which a layer's weights go to zero."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_compress.core.registry import register
from keras_compress.data.examples import Examples
from keras_compress.pruning.criteria.gradients import LossGradients
from keras_compress.pruning.criteria.saliency import Array, Saliency, Scores, check_count
from keras_compress.pruning.scored import ScoredModel, ScoredWeight


@register("weight_criterion")
class IntegratedGradients(Saliency):
    """`|w * integral of g(a w) da|`, a from 0 to 1: the weight's share of what the loss changes by on the way.

    g is the gradient of the mean loss while all weights of one layer shrink together, the other layers as they are. The
    signed shares of a layer sum to `L(w) - L(0)`.

    Args:
        steps: Points of the integral (midpoints), >= 1. Each takes a backward pass over all examples for each weight.

    **Reference**: Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks" (2017), equation 3, applied to
    weights with zero as the baseline; Yvinec et al., "SInGE" (2022) has it for channels.
    """

    needs = frozenset({"inputs", "targets"})

    def __init__(self, steps: int = 8) -> None:
        self.steps = check_count("steps", steps)

    def shares(self, scored: ScoredModel, examples: Examples) -> Scores:
        """The signed shares of each weight."""
        # One function for all: to trace one for each weight takes longer than the gradients that are not needed.
        gradients = LossGradients(scored, examples.loss)
        return [self._share(gradients, number, each, examples) for number, each in enumerate(scored.weights)]

    def _share(self, gradients: LossGradients, number: int, each: ScoredWeight, examples: Examples) -> Array:
        values, total = each.values(), np.zeros(each.shape)
        try:
            for step in range(self.steps):
                each.variable.assign(values * ((step + 0.5) / self.steps))
                total += np.asarray(gradients.mean(examples)[number], np.float64)
        finally:
            each.variable.assign(values)
        found: Array = values * total / self.steps
        return found

    def scores(self, scored: ScoredModel, examples: Examples) -> Scores:
        return [np.abs(each) for each in self.shares(scored, examples)]

    def get_config(self) -> dict[str, Any]:
        return {"steps": self.steps}
