"""Soft targets: the teacher's probabilities at a temperature."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_compress.core.registry import register
from keras_compress.distillation.loss import (
    OutputLoss,
    binary_divergence,
    check_positive,
    divergence,
    squared_distance,
)

Tensor = Any


@register("distillation")
class SoftTargets(OutputLoss):
    """Divergence of the softened distributions, times the squared temperature.

    **Loss** `T^2 KL(p_t || p_s)`, `p = softmax(z / T)`, the mean over the samples. **Gradient** `T (p_s - p_t) / N`
    with respect to the student's logits: it goes to `(z_s - z_t) / classes` as T grows, for centred logits, and keeps
    its size whatever T is, so that `alpha` need not be chosen anew. A sigmoid head is a distribution for each label,
    their sum is taken; a head of numbers gets half the squared distance, which has no temperature.

    Args:
        temperature: T, > 0.

    Raises:
        ValueError: For a temperature that is not above 0.

    **Reference**: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015), section 2.
    **Deviations**: the divergence in place of the cross-entropy, from which it differs by what no student changes.

    >>> round(float(SoftTargets(2.0).compute_loss(ops.array([[2.0, 0.0]]), ops.array([[0.0, 0.0]]))), 3)
    0.444
    """

    def __init__(self, temperature: float = 4.0) -> None:
        self.temperature = check_positive("temperature", temperature)

    def of_head(self, teacher: Tensor, student: Tensor, kind: str, labels: Tensor | None = None) -> Tensor:
        if kind == "linear":
            return squared_distance(teacher, student)
        warm = (teacher / self.temperature, student / self.temperature)
        each = divergence(*warm) if kind == "softmax" else ops.sum(binary_divergence(*warm), axis=-1)
        return self.temperature**2 * each

    def get_config(self) -> dict[str, Any]:
        return {"temperature": self.temperature}
