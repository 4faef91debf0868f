"""Matching logits: regression on what the teacher computes before its softmax."""

from __future__ import annotations

from typing import Any

from keras import ops  # noqa: F401 - for the example

from keras_compress.core.registry import register
from keras_compress.distillation.loss import OutputLoss, squared_distance

Tensor = Any


@register("distillation")
class LogitMatching(OutputLoss):
    """Half the squared distance of the logits: no labels are needed, no probability is squashed.

    **Loss** `1/(2N) sum_n ||z_s(x_n) - z_t(x_n)||^2`, over N samples (and their positions). **Gradient**
    `(z_s - z_t) / N`. For heads of numbers it is half their squared error; for probabilities, logits are their
    logarithms, and both sides are centred.

    **Reference**: Ba and Caruana, "Do deep nets really need to be deep?" (2014), equation 1.

    >>> float(LogitMatching().compute_loss(ops.array([[1.0, 2.0]]), ops.array([[0.0, 4.0]])))
    2.5
    """

    def of_head(self, teacher: Tensor, student: Tensor, kind: str, labels: Tensor | None = None) -> Tensor:
        return squared_distance(teacher, student)
