"""L0 regularization by hard-concrete gates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from keras_compress.core.kernels import Bound, Kernel
from keras_compress.core.noise import digest_of
from keras_compress.core.registry import register
from keras_compress.core.ste import value_of
from keras_compress.pruning.trained import IN_TRAINING, DrawingPruner, not_negative, positive

Tensor = Any
BETA, GAMMA, ZETA = 2.0 / 3.0, -0.1, 1.1
# log(-gamma / zeta): the shift between the logit of a gate and that of its not being zero.
_SHIFT = BETA * math.log(-GAMMA / ZETA)
_SPREAD = 0.01


def _stretched(sigmoid: Tensor) -> Tensor:
    return sigmoid * (ZETA - GAMMA) + GAMMA


def gate(log_alpha: Tensor) -> Tensor:
    """The gate of inference, `min(1, max(0, sigmoid(log_alpha) (zeta - gamma) + gamma))`.

    >>> [round(float(z), 4) for z in gate(tf.constant([-3.0, -2.0, 0.0, 3.0]))]
    [0.0, 0.043, 0.5, 1.0]
    """
    return tf.clip_by_value(_stretched(tf.sigmoid(log_alpha)), 0.0, 1.0)


def _drawn(odds: Tensor, uniform: Tensor) -> Tensor:
    """`sigmoid((log u - log(1 - u) + log_alpha) / beta)` from `odds = exp(-log_alpha)`; `beta = 2/3` takes a root."""
    against = odds * (1.0 - uniform) / uniform
    return 1.0 / (1.0 + against * tf.sqrt(against))


def _slope(sigmoid: Tensor, temperature: float) -> Tensor:
    """Derivative of the gate by `log_alpha`."""
    stretched = _stretched(sigmoid)
    inside = (stretched > 0.0) & (stretched < 1.0)
    return tf.where(inside, (ZETA - GAMMA) / temperature * sigmoid * (1.0 - sigmoid), tf.zeros_like(sigmoid))


def _forward(weight: Tensor, trained: Tensor, odds: Tensor, uniform: Tensor) -> Tensor:
    return weight * tf.clip_by_value(_stretched(_drawn(odds, uniform)), 0.0, 1.0)


def _weight_gradient(upstream: Tensor, weight: Tensor, *state: Tensor) -> Tensor:
    return _forward(upstream, *state)


def _state_gradients(
    upstream: Tensor, weight: Tensor, trained: Tensor, odds: Tensor, uniform: Tensor
) -> tuple[Tensor, None, None]:
    return upstream * weight * _slope(_drawn(odds, uniform), BETA), None, None


_TRAINING = Kernel(_forward, _weight_gradient, _state_gradients, **IN_TRAINING)
_INFERENCE = Kernel(
    lambda weight, trained, log_alpha, z: weight * z,
    lambda upstream, weight, trained, log_alpha, z: upstream * z,
    lambda upstream, weight, trained, log_alpha, z: (
        *(upstream * weight * _slope(tf.sigmoid(log_alpha), 1.0), None, None),
    ),
    exact=True,
    any_shape=True,
    compile_alone=False,
)


@tf.custom_gradient
def _expected_number(trained: Tensor, odds: Tensor) -> tuple[Tensor, Any]:
    """`sum sigmoid(log_alpha - beta log(-gamma / zeta))`, from `odds = exp(-log_alpha)`."""
    open_ = 1.0 / (1.0 + math.exp(_SHIFT) * odds)
    return tf.reduce_sum(open_), lambda upstream: (upstream * open_ * (1.0 - open_), None)


@register("weight_transform")
class L0Pruner(DrawingPruner):
    """Multiplies each weight by a gate that is drawn, whose chance of not being zero costs, and is trained.

    **Forward** In training `y = w z`, `z = min(1, max(0, s (zeta - gamma) + gamma))`,
    `s = sigmoid((log u - log(1 - u) + log_alpha) / beta)`, `u ~ U(0, 1)` drawn for each weight and step; `beta = 2/3`,
    `gamma = -0.1`, `zeta = 1.1`. In inference `z = min(1, max(0, sigmoid(log_alpha) (zeta - gamma) + gamma))`, which is
    exactly 0 where `log_alpha <= -2.398`.
    **Loss** `strength * sum sigmoid(log_alpha - beta log(-gamma / zeta))`, the expected number of gates that are not 0.
    **Gradient** `dy/dw = z`; `dy/dlog_alpha = w (zeta - gamma) s (1 - s) / beta` where `0 < z < 1`, else 0.

    How sparse it gets follows from `strength`; there is no target. The draw depends on `seed`, the step and the first
    value of the weight.

    The trained number is `log_alpha / rate`, with the gradient of `log_alpha`: SGD moves `log_alpha` `rate` times as
    far as a weight of the same gradient, and so does Adam, for which the size of a gradient does not count. Adam with
    0.001 and `rate=1` takes 4,000 steps from the first value to a closed gate.

    Args:
        strength: Cost of a weight, lambda, >= 0. The loss is that of the mean over a batch, so the paper's lambda over
            the number of training samples.
        rate: How many times as fast as weights the gates are trained, > 0; 1 is the paper's.
        initial_drop_rate: Chance of a gate to be closed at first, in (0, 1), but for `beta`:
            `log_alpha ~ N(log(1 - p) - log p, 0.01)`.
        seed: Seed of the draws, an integer from 0 to 2^31 - 1.

    Raises:
        ValueError: For arguments out of range.

    **Reference**: Louizos, Welling and Kingma, "Learning sparse neural networks through L0 regularization" (2018),
    equations 10 to 13, section 4: constants.
    **Deviations**: one gate for each weight; the paper's experiments give one to each input of a layer. The gates of
    both are drawn once a batch, not once a sample.
    """

    def __init__(
        self,
        strength: float = 1e-5,
        *,
        rate: float = 10.0,
        initial_drop_rate: float = 0.2,
        seed: int = 0,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(seed=seed, name=name, trainable=trainable)
        self.strength = not_negative("strength", strength)
        self.rate = positive("rate", rate)
        self.initial_drop_rate = positive("initial_drop_rate", initial_drop_rate)
        if not self.initial_drop_rate < 1.0:
            raise ValueError(f"Expected `initial_drop_rate` in (0, 1). Received: initial_drop_rate={initial_drop_rate}")

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        # About half of the gates are closed from the start.
        return [{"strength": 1e-3, "rate": 2.0, "initial_drop_rate": 11 / 12, "seed": 3}]

    def create_variables(self) -> None:
        super().create_variables()
        self.trained = self.add_weight(name="log_alpha_over_rate", shape=self.weight_shape, initializer="zeros")

    def initialize(self, weight: Tensor) -> None:
        super().initialize(weight)
        middle = math.log(1.0 - self.initial_drop_rate) - math.log(self.initial_drop_rate)
        drawn = np.random.default_rng([self.seed, digest_of(weight)]).normal(middle, _SPREAD, self.weight_shape)
        self.set_log_alpha(drawn)

    def set_log_alpha(self, log_alpha: Tensor) -> None:
        """Set `log_alpha` exactly, in the shape of the weight."""
        self.trained.assign(np.asarray(log_alpha, np.float32) / np.float32(self.rate))

    @property
    def log_alpha(self) -> Tensor:
        """`log_alpha` now; no gradient goes through it."""
        return self.rate * tf.stop_gradient(value_of(self.trained))

    def kernel(self) -> Bound:
        log_alpha = self.log_alpha
        return _INFERENCE, (value_of(self.trained), log_alpha, gate(log_alpha))

    def in_common(self) -> Tensor:
        return tf.exp(-self.log_alpha)

    def training_kernel(self, odds: Tensor) -> Bound:
        return _TRAINING, (value_of(self.trained), odds, self.uniform())

    def penalty(self, weight: Tensor, odds: Tensor) -> Tensor:
        """`strength * sum P(z != 0)`."""
        return self.strength * _expected_number(value_of(self.trained), odds)

    def sparsity(self) -> float:
        """Share of the gates that are closed in inference."""
        return float(np.mean(ops.convert_to_numpy(gate(self.log_alpha)) == 0.0))

    def summary_values(self) -> dict[str, float]:
        expected = tf.reduce_mean(tf.sigmoid(self.log_alpha - _SHIFT))
        return {"sparsity": self.sparsity(), "expected_density": float(expected)}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "strength": self.strength,
            "rate": self.rate,
            "initial_drop_rate": self.initial_drop_rate,
        }
