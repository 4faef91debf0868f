"""Attention transfer: where in the map a layer is active."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_compress.core.registry import register
from keras_compress.distillation.loss import FeatureLoss, Shape, check_positive, normalized

Tensor = Any


@register("distillation")
class AttentionTransfer(FeatureLoss):
    """Half the squared distance of the normalized attention maps of each pair of hints.

    **Loss** `1/2 sum_j ||Q_s / |Q_s| - Q_t / |Q_t|||^2`, `Q = vec(sum_c |A_c|^p)` of the activations A, the mean over
    the samples. Channels may differ in number, maps in size: the larger map is averaged to the smaller one's
    (resized, where its size is no multiple).

    Args:
        power: p, > 0.

    Raises:
        ValueError: For a power not above 0; for features without a map.

    **Reference**: Zagoruyko and Komodakis, "Paying more attention to attention" (2017), section 3.1, equation 2.
    **Deviations**: the distance is squared, as in the authors' program.

    >>> maps = ops.array([[[[1.0], [0.0]]]]), ops.array([[[[1.0], [1.0]]]])
    >>> round(float(AttentionTransfer().compute_loss(*maps)), 4)
    0.2929
    """

    needs_hints = True
    weighs_samples = True

    def __init__(self, power: float = 2.0) -> None:
        self.power = check_positive("power", power)

    def make_layers(self, teacher: Sequence[Shape], student: Sequence[Shape]) -> list[keras.layers.Layer]:
        for shape in (*teacher, *student):
            if len(shape) not in (3, 4):
                raise ValueError(
                    "Expected features with a map, (batch, steps, channels) or (batch, height, width, channels), for "
                    f"AttentionTransfer. Received: {tuple(shape)}"
                )
        return []

    def of_pair(self, teacher: Tensor, student: Tensor) -> Tensor:
        maps = [ops.sum(ops.power(ops.abs(each), self.power), axis=-1) for each in (teacher, student)]
        made, wanted = (normalized(ops.reshape(each, (ops.shape(each)[0], -1))) for each in _of_one_size(*maps))
        return 0.5 * ops.sum(ops.square(made - wanted), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {"power": self.power}


def _of_one_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Maps `(batch, ...)` in the size of the smaller one."""
    if first.shape[1:] == second.shape[1:]:
        return first, second
    size = [min(pair) for pair in zip(first.shape[1:], second.shape[1:], strict=True)]
    return _resized(first, size), _resized(second, size)


def _resized(values: Tensor, size: list[int]) -> Tensor:
    before = list(values.shape[1:])
    if before == size:
        return values
    flat = [1] * (2 - len(size))
    image = ops.reshape(values, (-1, *before, *flat, 1))
    if any(a % b for a, b in zip(before, size, strict=True)):
        made = ops.image.resize(image, (*size, *flat), antialias=True)
    else:
        window = tuple(a // b for a, b in zip([*before, *flat], [*size, *flat], strict=True))
        made = ops.average_pool(image, window, window)
    return ops.reshape(made, (-1, *size))
