"""Regularization-based sparsity: masks drawn from trained probabilities, whose number is drawn to a target."""

from __future__ import annotations

import functools
import math
from typing import Any

import tensorflow as tf

from keras_compress.core import kernels
from keras_compress.core.context import first_time_in_call
from keras_compress.core.noise import Stream, check_seed
from keras_compress.core.registry import register
from keras_compress.core.schedule import ConstantSparsity, PolynomialDecay, Schedule
from keras_compress.core.ste import value_of
from keras_compress.pruning.pruner import MASK
from keras_compress.pruning.ranked import ScoredPruner
from keras_compress.pruning.trained import IN_TRAINING, logit, not_negative, positive

Tensor = Any


@functools.cache
def _kernel(temperature: float) -> kernels.Kernel:
    def mask_of(logits: Tensor, p: Tensor, uniform: Tensor, mask: Tensor, drawing: Tensor) -> Tensor:
        # theta + log u - log(1 - u) > 0.
        return tf.where(drawing, uniform > 1.0 - p, mask)

    def forward(weight: Tensor, *state: Tensor) -> Tensor:
        return tf.where(mask_of(*state), weight, tf.zeros_like(weight))

    def weight_gradient(upstream: Tensor, weight: Tensor, *state: Tensor) -> Tensor:
        return tf.where(mask_of(*state), upstream, tf.zeros_like(upstream))

    def state_gradients(
        upstream: Tensor, weight: Tensor, logits: Tensor, p: Tensor, uniform: Tensor, mask: Tensor, drawing: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        against = (1.0 - p) * (1.0 - uniform) / (p * uniform)
        soft = 1.0 / (1.0 + (against if temperature == 1.0 else tf.pow(against, 1.0 / temperature)))
        found = upstream * weight * soft * (1.0 - soft) / temperature
        return tf.where(drawing, found, tf.zeros_like(found)), None, None, None, None

    return kernels.Kernel(forward, weight_gradient, state_gradients, **IN_TRAINING)


@tf.custom_gradient
def _share_kept(logits: Tensor, p: Tensor) -> tuple[Tensor, Any]:
    """The mean of the probabilities, whose gradient is that of `theta`."""
    size = float(math.prod(p.shape))
    return tf.reduce_mean(p), lambda upstream: (upstream / size * p * (1.0 - p), None)


@register("weight_transform")
class RegularizedPruner(ScoredPruner):
    """Multiplies the weight by a mask that is drawn from trained probabilities ("RB": sparsity by regularization).

    **Forward** In training, from the schedule's begin to its end, `y = w z`, `z = 1` with probability
    `p = sigmoid(theta)`, else 0, drawn for each weight and step: `z = 1` where `theta + log u - log(1 - u) > 0`,
    `u ~ U(0, 1)`. Behind the end, and in inference, `z = 1` for the `round(n (1 - sparsity))` weights of highest `p`.
    **Loss** `strength * (mean p - (1 - sparsity))^2`: the expected share of weights that stay, drawn to the schedule's.
    Before the schedule begins nothing is drawn, and nothing added: the weights are trained as they are.
    **Gradient** `dy/dw = z`. That of the draw is that of its relaxation, the binary concrete distribution:
    `dy/dtheta = w s (1 - s) / temperature`, `s = sigmoid((theta + log u - log(1 - u)) / temperature)`; the forward pass
    stays that of 0 and 1 (straight through).

    The mask of inference is ranked anew where the schedule acts, and stays as it is behind its end: the rest of the
    training is for the weights that are left. Without an end, it is as old as `frequency` says.

    `theta` is `rate` times a trained number, whose gradient is that of `theta`: SGD moves `theta` `rate` times as far
    as a weight of the same gradient, and so does Adam, for which the size of a gradient does not count.

    Args:
        schedule: `step -> sparsity` aimed at.
        strength: Factor of the loss, alpha, >= 0.
        rate: How many times as fast as weights the logits are trained, > 0.
        temperature: Of the relaxation, > 0.
        initial_probability: First p of all weights, in (0, 1).
        seed: Seed of the draws, an integer from 0 to 2^31 - 1.

    Raises:
        ValueError: For arguments out of range.

    **Reference**: a penalty on the distance of the number of weights from a target: the augmented loss
    `L(w z) + alpha (sum |z|_0 - target)^2`, as in courses on efficient deep learning; the relaxation: Maddison, Mnih
    and Teh, "The concrete distribution" (2017), section 3.3 and appendix B; straight through: Jang, Gu and Poole,
    "Categorical reparameterization with Gumbel-softmax" (2017), section 2.2.
    **Deviations**: both the sum and the target are shares, so that `strength` means the same for each size. The
    expectation of the number takes the place of the number that was drawn.
    """

    draws = True

    def __init__(
        self,
        schedule: Schedule,
        *,
        strength: float = 100.0,
        rate: float = 100.0,
        temperature: float = 1.0,
        initial_probability: float = 0.9,
        seed: int = 0,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(schedule, name=name, trainable=trainable)
        self.strength = not_negative("strength", strength)
        self.rate = positive("rate", rate)
        self.temperature = positive("temperature", temperature)
        self.initial_probability = positive("initial_probability", initial_probability)
        if not self.initial_probability < 1.0:
            raise ValueError(
                f"Expected `initial_probability` in (0, 1). Received: initial_probability={initial_probability}"
            )
        self.seed = check_seed(seed)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [
            {"schedule": PolynomialDecay(0.25, 0.75, begin_step=0, end_step=4, frequency=2), "strength": 10.0},
            {
                "schedule": ConstantSparsity(0.5, begin_step=0, end_step=3, frequency=1),
                "strength": 1.0,
                "rate": 2.0,
                "temperature": 0.5,
                "initial_probability": 0.5,
                "seed": 3,
            },
        ]

    def create_variables(self) -> None:
        super().create_variables()
        self.stream = Stream(self, self.seed)

    def initialize(self, weight: Tensor) -> None:
        self.stream.begin(weight)
        first = logit(tf.constant(self.initial_probability)) / self.rate
        self.trained_scores.assign(tf.fill(self.weight_shape, first))

    def call(self, weight: Tensor, training: bool = False) -> Tensor:
        if not (training and self.trainable):
            return kernels.run([(MASK, (value_of(self.mask),))], weight)
        logits = value_of(self.trained_scores)
        p = tf.sigmoid(self.rate * tf.stop_gradient(logits))
        if first_time_in_call(self.step):
            # The step has been counted already.
            wanted = 1.0 - self.schedule(value_of(self.step) - 1)
            drawing = tf.cast(self.choosing(), tf.float32)
            self.add_loss(drawing * self.strength * tf.square(_share_kept(logits, p) - wanted))
        uniform = self.stream.uniform(self.weight_shape, value_of(self.step))
        state = (logits, p, uniform, value_of(self.mask), self.choosing())
        return kernels.run([(_kernel(self.temperature), state)], weight)

    def expected_sparsity(self) -> float:
        """`1 - mean p`."""
        return 1.0 - float(tf.reduce_mean(tf.sigmoid(self.rate * value_of(self.trained_scores))))

    def summary_values(self) -> dict[str, float]:
        return {**super().summary_values(), "expected_sparsity": self.expected_sparsity()}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "strength": self.strength,
            "rate": self.rate,
            "temperature": self.temperature,
            "initial_probability": self.initial_probability,
            "seed": self.seed,
        }
