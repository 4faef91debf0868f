"""RigL: sparse training in which connections grow where the gradient is largest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_compress.core import kernels
from keras_compress.core.context import assign
from keras_compress.core.registry import register
from keras_compress.core.schedule import ConstantSparsity
from keras_compress.core.ste import value_of
from keras_compress.pruning.growing import GrowingPruner

Tensor = Any


@register("weight_transform")
class RigLPruner(GrowingPruner):
    """Trains sparse from the start: weights of smallest magnitude give way to those of largest gradient.

    **Forward** `y = mask * w`. **Gradient** `dy/dw = mask`.

    At each step at which the schedule acts, `floor(f(t) * n)` of the n weights that are not zero are dropped, and as
    many grow, those that are zero then and whose `|dL/dy|` is highest. They begin at zero. `f`: see `drop_fraction`.

    `dL/dy`, the gradient of all weights, zeros too, comes by in each backward pass: it is written down there, summed
    over the calls of a layer that stands in several places and over the replicas of a strategy. So an exchange
    follows the gradient of the batch before, and costs no pass of its own. Where it is not finite, or there was no
    backward pass, there is no exchange.

    Args:
        schedule: A constant sparsity with an end, see `kc.train_sparse`. The paper acts every 100 steps and ends at 3/4
            of the training.
        drop_fraction: Share dropped at first, alpha, in [0, 1], falling to 0 along a cosine.
        first_mask: `"random"` or `"magnitude"`.
        seed: Seed of the first mask, an integer from 0 to 2^31 - 1.

    Raises:
        ValueError: For arguments out of range, or a schedule without an end or whose sparsity changes.

    **Reference**: Evci et al., "Rigging the lottery: making all tickets winners" (2020), section 3 and algorithm 1.
    **Deviations**: The batch whose gradient decides moves the weights too; the paper leaves that step out. Momenta of
    what grows are what the optimizer has left of them, not 0. Behind another transform in the list, what grows begins
    at its latent weight.
    """

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [
            {"schedule": ConstantSparsity(0.5, 0, 4, 2), "seed": 3},
            {"schedule": ConstantSparsity(0.75, 0, 3, 1), "drop_fraction": 0.5, "first_mask": "magnitude"},
        ]

    def create_variables(self) -> None:
        super().create_variables()
        self.gradient = self.add_weight(
            name="gradient", shape=self.weight_shape, initializer="zeros", trainable=False, aggregation="mean"
        )

    def growth(self) -> Tensor:
        return tf.reshape(tf.abs(value_of(self.gradient)), [-1])

    def may_grow(self) -> Tensor:
        largest = tf.reduce_max(tf.abs(value_of(self.gradient)))
        # A maximum may lose a NaN, a sum does not.
        total = tf.reduce_sum(value_of(self.gradient))
        return super().may_grow() & (largest > 0.0) & tf.math.is_finite(largest) & tf.math.is_finite(total)

    def update(self, weight: Tensor) -> list[tuple[keras.Variable, Tensor]]:
        return [*super().update(weight), (self.gradient, tf.zeros(self.weight_shape))]

    def call(self, weight: Tensor, training: bool = False) -> Tensor:
        made = kernels.run([self.kernel()], weight)
        return self._with_record(made) if training and self.trainable else made

    def _with_record(self, made: Tensor) -> Tensor:
        """The masked weight, whose gradient is added to the record as it passes, before the mask."""

        @tf.custom_gradient
        def apply(values: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
            def gradient(upstream: Tensor) -> Tensor:
                # Each replica has the gradient of its share of the batch, and their mean is kept.
                replicas = tf.distribute.get_strategy().num_replicas_in_sync
                assign(self.gradient, value_of(self.gradient) + float(replicas) * tf.convert_to_tensor(upstream))
                return upstream

            return tf.identity(values), gradient

        return apply(made)
