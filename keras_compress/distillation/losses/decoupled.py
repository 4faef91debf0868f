"""Decoupled distillation: the right class and the others, weighed apart."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_compress.core.registry import register
from keras_compress.distillation.loss import OutputLoss, check_positive, divergence

Tensor = Any
# What the logit of the right class is lowered by: softmax then leaves it out.
_OUT = 1000.0


@register("distillation")
class DecoupledKD(OutputLoss):
    """Divergence of "right class or another", and of the distribution over the others.

    **Loss** `T^2 (a KL(b_t || b_s) + b KL(q_t || q_s))`, where `b = (p_y, 1 - p_y)` and `q` is the softmax over all
    classes but y; with `a = 1` and `b = 1 - p_y` of the teacher it would be that of `SoftTargets`.

    Args:
        temperature: T, > 0.
        target_weight: a, >= 0.
        others_weight: b, >= 0.

    Raises:
        ValueError: For a temperature or weight out of range; for a head without classes.

    **Reference**: Zhao et al., "Decoupled knowledge distillation" (2022), equation 7; the defaults are those of its
    experiments on CIFAR-100. **Deviations**: without labels, the class that the teacher takes is y.
    """

    def __init__(self, temperature: float = 4.0, target_weight: float = 1.0, others_weight: float = 8.0) -> None:
        self.temperature = check_positive("temperature", temperature)
        for name, value in (("target_weight", target_weight), ("others_weight", others_weight)):
            if not 0.0 <= value < float("inf"):
                raise ValueError(f"Expected `{name}` >= 0. Received: {name}={value}")
        self.target_weight, self.others_weight = float(target_weight), float(others_weight)

    def of_head(self, teacher: Tensor, student: Tensor, kind: str, labels: Tensor | None = None) -> Tensor:
        if kind != "softmax" or teacher.shape[-1] < 2:
            raise ValueError(f"Expected a head of classes for DecoupledKD. Received: {kind} of {teacher.shape}")
        right = _right(teacher, labels)
        teacher, student = teacher / self.temperature, student / self.temperature
        target = divergence(_binary(teacher, right), _binary(student, right))
        others = divergence(teacher - _OUT * right, student - _OUT * right)
        return self.temperature**2 * (self.target_weight * target + self.others_weight * others)

    def get_config(self) -> dict[str, Any]:
        names = ("temperature", "target_weight", "others_weight")
        return {name: getattr(self, name) for name in names}


def _right(logits: Tensor, labels: Tensor | None) -> Tensor:
    """The right class, one-hot."""
    if labels is None:
        labels = ops.argmax(logits, axis=-1)
    elif len(labels.shape) == len(logits.shape) and labels.shape[-1] == logits.shape[-1]:
        labels = ops.argmax(labels, axis=-1)
    else:
        labels = ops.reshape(labels, ops.shape(logits)[:-1])
    return ops.one_hot(ops.cast(labels, "int32"), logits.shape[-1], dtype="float32")


def _binary(logits: Tensor, right: Tensor) -> Tensor:
    """Logits of the right class, and of all others together."""
    target = ops.sum(logits * right, axis=-1)
    return ops.stack([target, ops.logsumexp(logits - _OUT * right, axis=-1)], axis=-1)
