"""SET: sparse training in which new connections grow at random."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_compress.core.registry import register
from keras_compress.core.schedule import ConstantSparsity
from keras_compress.core.ste import value_of
from keras_compress.pruning.growing import GrowingPruner

Tensor = Any


@register("weight_transform")
class SetPruner(GrowingPruner):
    """Trains sparse from the start: weights of smallest magnitude give way to others that are drawn at random.

    **Forward** `y = mask * w`. **Gradient** `dy/dw = mask`.

    At each step at which the schedule acts, `floor(f(t) * n)` of the n weights that are not zero are dropped, and as
    many grow, drawn evenly from those that are zero then. They begin at zero. `f`: see `drop_fraction`.

    Args:
        schedule: A constant sparsity with an end, see `kc.train_sparse`.
        drop_fraction: Share dropped at first, zeta, in [0, 1], falling to 0 along a cosine.
        first_mask: `"random"` or `"magnitude"`.
        seed: Seed of the masks, an integer from 0 to 2^31 - 1.

    Raises:
        ValueError: For arguments out of range, or a schedule without an end or whose sparsity changes.

    **Reference**: Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity
    inspired by network science" (2018), algorithm 1.
    **Deviations**: as in Evci et al. (2020): the share falls along a cosine (the paper's is constant), what is dropped
    is smallest in magnitude (the paper takes a share of the positive weights and one of the negative ones), and what
    grows begins at zero. Behind another transform in the list, it begins at its latent weight.
    """

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [
            {"schedule": ConstantSparsity(0.5, 0, 4, 2), "seed": 3},
            {"schedule": ConstantSparsity(0.75, 0, 3, 1), "drop_fraction": 0.5, "first_mask": "magnitude"},
        ]

    def growth(self) -> Tensor:
        return tf.reshape(self.stream.uniform(self.weight_shape, value_of(self.step)), [-1])
