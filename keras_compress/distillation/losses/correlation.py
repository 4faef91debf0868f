"""Correlation congruence: how the samples of a batch go together, by a kernel."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from keras_compress.core.registry import register
from keras_compress.distillation.loss import FeatureLoss, check_positive, normalized, rows

Tensor = Any


@register("distillation")
class CorrelationCongruence(FeatureLoss):
    """Squared distance of the correlations between samples, taken by a Gaussian kernel's first terms.

    **Loss** `1/b^2 ||C_t - C_s||^2`, `C_ij = sum_(p=0..P) e^(-2g) (2g)^p / p! (f_i . f_j)^p`, features f with a length
    of 1. They may differ in shape.

    Args:
        gamma: g, > 0.
        order: P, >= 1.

    Raises:
        ValueError: For arguments out of range.

    **Reference**: Peng et al., "Correlation congruence for knowledge distillation" (2019), equations 5, 8 and 9; its
    defaults. **Deviations**: its sampler, which puts samples of a class together, is the user's affair.
    """

    def __init__(self, gamma: float = 0.4, order: int = 2) -> None:
        self.gamma = check_positive("gamma", gamma)
        if not isinstance(order, int) or isinstance(order, bool) or order < 1:
            raise ValueError(f"Expected `order` >= 1. Received: order={order}")
        self.order = order

    def of_pair(self, teacher: Tensor, student: Tensor) -> Tensor:
        wanted, made = (self._correlations(normalized(rows(each))) for each in (teacher, student))
        return ops.mean(ops.square(wanted - made))

    def _correlations(self, features: Tensor) -> Tensor:
        products = ops.matmul(features, ops.transpose(features))
        scale = math.exp(-2.0 * self.gamma)
        terms = [
            (2.0 * self.gamma) ** power / math.factorial(power) * ops.power(products, float(power))
            for power in range(1, self.order + 1)
        ]
        return scale * (1.0 + sum(terms))

    def get_config(self) -> dict[str, Any]:
        return {"gamma": self.gamma, "order": self.order}
