"""A mask that stays as it is: for training on what is sparse already."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_compress.core.registry import register
from keras_compress.core.transform import WeightTransform
from keras_compress.graph.model import compressed_layers
from keras_compress.pruning.pruner import Pruner

Tensor = Any


@register("weight_transform")
class FixedMaskPruner(Pruner):
    """Keeps the zeros that a weight has when it is wrapped, and makes no more.

    What `kc.prune_one_shot` and searches for sparse networks put over the weights that they made sparse, so that they
    can be fine-tuned. Training needs no step for it: there is nothing to decide, and nothing pending.

    **Forward** `y = mask * w`, `mask = (w != 0)` of the weight that it was put over. **Gradient** `dy/dw = mask`.

    A weight of zeros only stays at them.
    """

    makes_zeros = False
    # Nothing changes in training: the wrapper need not ask, and compiles the mask together with its neighbours.
    update = WeightTransform.update

    def __init__(self, *, name: str | None = None, trainable: bool = True) -> None:
        # There is no schedule, and nothing that one would say.
        WeightTransform.__init__(self, name=name, trainable=trainable)
        self.schedule = None  # type: ignore[assignment]
        self.regrow = False

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}]

    def create_variables(self) -> None:
        self.create_mask()

    def initialize(self, weight: Tensor) -> None:
        self.mask.assign(ops.not_equal(weight, 0.0))

    def choose(self, scores: Tensor, sparsity: Tensor) -> Tensor:
        return self.mask

    def pending(self) -> str | None:
        return None

    def get_config(self) -> dict[str, Any]:
        return WeightTransform.get_config(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FixedMaskPruner:
        return cls(**config)


def open_empty_masks(model: keras.Model) -> None:
    """Let weights of zeros only be trained: kernels that begin at zero are not sparse, they have not begun."""
    for _, wrapper in compressed_layers(model):
        for transform in wrapper.transform_list:
            if isinstance(transform, FixedMaskPruner) and not np.asarray(transform.mask).any():
                transform.mask.assign(np.ones(transform.mask.shape, bool))
