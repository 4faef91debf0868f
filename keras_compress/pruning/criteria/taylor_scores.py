"""First-order Taylor expansion of the loss in each weight."""

from __future__ import annotations

from typing import Any

from keras_compress.core.registry import register
from keras_compress.data.examples import Examples
from keras_compress.pruning.criteria.gradients import LossGradients, as_arrays
from keras_compress.pruning.criteria.saliency import Saliency, Scores, check_count
from keras_compress.pruning.scored import ScoredModel


@register("weight_criterion")
class TaylorSaliency(Saliency):
    """`(g w)^2`, averaged over batches: the square of what the loss changes by without the weight, to first order.

    Args:
        batch_size: Over how many examples gradients are averaged before they are squared.

    **Reference**: Molchanov et al., "Importance estimation for neural network pruning" (2019), equation 8, of single
    weights. **Deviations**: a plain mean over batches; BatchNormalization as in inference.
    """

    needs = frozenset({"inputs", "targets"})

    def __init__(self, batch_size: int = 8) -> None:
        self.batch_size = check_count("batch_size", batch_size)

    def scores(self, scored: ScoredModel, examples: Examples) -> Scores:
        gradients = LossGradients(scored, examples.loss)
        values = [each.values() for each in scored.weights]
        total: Scores = [0.0] * len(values)  # type: ignore[list-item]
        count = 0
        for batch in examples.batches_of(self.batch_size):
            found = as_arrays(gradients.of(batch))
            total = [t + (g * w) ** 2 for t, g, w in zip(total, found, values, strict=True)]
            count += 1
        return [each / count for each in total]

    def get_config(self) -> dict[str, Any]:
        return {"batch_size": self.batch_size}
