"""Wanda: how large a weight is, times how large its inputs are."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_compress.core.registry import register
from keras_compress.data.examples import Examples
from keras_compress.graph.as_matrix import AsMatrix
from keras_compress.pruning.criteria.inputs import forms, see_inputs, why_no_form
from keras_compress.pruning.criteria.saliency import Saliency, Scores
from keras_compress.pruning.scored import ScoredModel, ScoredWeight


@register("weight_criterion")
class Wanda(Saliency):
    """`|w_ij| ||x_j||`, the length of input j over all examples; compared among the weights of one output i.

    Of a convolution the inputs are the places of its kernel in each channel, of a depthwise one those of each channel.
    Layers that are no product of their inputs with one matrix (recurrent ones, embeddings) are taken by magnitude,
    which is said. Needs no labels and no gradient: one pass over some hundred examples.

    **Reference**: Sun et al., "A simple and effective pruning approach for large language models" (2024), equation 1
    and section 3. **Deviations**: all layers in one pass of the dense model, where the paper prunes block by block.
    """

    needs = frozenset({"inputs"})
    per_output = True

    def scores(self, scored: ScoredModel, examples: Examples) -> Scores:
        known = forms(scored)
        squares: dict[int, Any] = {}

        def see(number: int, values: Any) -> None:
            squares[number] = squares.get(number, 0.0) + known[number].squares(values)

        if known:
            see_inputs(scored, examples, known, see)
        self.notes = {each.name: why_no_form(each) for n, each in enumerate(scored.weights) if n not in squares}
        return [_scores(each, known.get(n), squares.get(n)) for n, each in enumerate(scored.weights)]


def _scores(each: ScoredWeight, form: AsMatrix | None, squares: Any) -> Any:
    magnitude = np.abs(each.values().astype(np.float64))
    if form is None or squares is None:
        return magnitude
    return form.from_matrix(form.to_matrix(magnitude) * np.sqrt(squares)[..., np.newaxis])
