"""SNIP: how much the loss would change if a connection became weaker."""

from __future__ import annotations

from keras_compress.core.registry import register
from keras_compress.data.examples import Examples
from keras_compress.pruning.criteria.gradients import LossGradients, as_arrays
from keras_compress.pruning.criteria.saliency import Saliency, Scores
from keras_compress.pruning.scored import ScoredModel


@register("weight_criterion")
class SNIP(Saliency):
    """`|g w|`, g the gradient of the mean loss over all examples: the derivative by a gate on the weight, at 1.

    Meant for a network before it is trained, whose weights have a variance that fits their layers (Glorot's, He's):
    what is left is then trained. A batch with some ten examples of each class is enough.

    **Reference**: Lee, Ajanthan and Torr, "SNIP: Single-shot network pruning based on connection sensitivity" (2019),
    equations 4 and 5. **Deviations**: not divided by the sum of all, which changes no order; BatchNormalization as in
    inference.
    """

    needs = frozenset({"inputs", "targets"})

    def scores(self, scored: ScoredModel, examples: Examples) -> Scores:
        gradients = as_arrays(LossGradients(scored, examples.loss).mean(examples))
        return [abs(g * each.values()) for g, each in zip(gradients, scored.weights, strict=True)]
