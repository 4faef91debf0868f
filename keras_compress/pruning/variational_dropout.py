"""Sparse variational dropout: weights whose noise is larger than they are become zero."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from keras_compress.core.kernels import Bound, Kernel
from keras_compress.core.registry import register
from keras_compress.core.ste import value_of
from keras_compress.pruning.trained import IN_TRAINING, DrawingPruner, by_size, finite, not_negative, whole_steps

Tensor = Any
K1, K2, K3 = 0.63576, 1.87320, 1.48695
THRESHOLD = 3.0
# Beyond, the approximation is flat and the logarithm of a weight near 0 has no bound.
_LIMIT = 8.0
_TINY = 1e-8


def log_alpha_of(weight: Tensor, log_sigma2: Tensor) -> Tensor:
    """`log(sigma^2 / w^2)`, clipped to [-8, 8].

    >>> [round(float(a), 3) for a in log_alpha_of(tf.constant([0.5, 1e-6]), tf.constant([-2.0, -2.0]))]
    [-0.614, 8.0]
    """
    return tf.clip_by_value(log_sigma2 - tf.math.log(tf.square(weight) + _TINY), -_LIMIT, _LIMIT)


def kl_of(log_alpha: Tensor) -> Tensor:
    """The divergence of each weight from the log-uniform prior, but for a constant; 0 for an infinite alpha.

    >>> [round(float(kl), 4) for kl in kl_of(tf.constant([-4.0, 0.0, 4.0]))]
    [2.6342, 0.4312, 0.0093]
    """
    return K1 - K1 * tf.sigmoid(K2 + K3 * log_alpha) + 0.5 * tf.math.softplus(-log_alpha)


def _noise(log_sigma2: Tensor, uniform: Tensor) -> Tensor:
    return tf.exp(0.5 * log_sigma2) * (math.sqrt(2.0) * tf.math.erfinv(2.0 * uniform - 1.0))


def _kept(values: Tensor, weight: Tensor, log_sigma2: Tensor) -> Tensor:
    return tf.where(log_alpha_of(weight, log_sigma2) < THRESHOLD, values, tf.zeros_like(values))


# The noise is one number for each weight, for both directions.
_TRAINING = Kernel(
    lambda weight, log_sigma2, noise: weight + noise,
    None,
    lambda upstream, weight, log_sigma2, noise: (0.5 * upstream * noise, None),
    **{**IN_TRAINING, "compile_alone": False},
)
_INFERENCE = Kernel(
    lambda weight, log_sigma2: _kept(weight, weight, log_sigma2),
    lambda upstream, weight, log_sigma2: _kept(upstream, weight, log_sigma2),
)


def _kl_and_slopes(weight: Tensor, log_sigma2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of the divergences, and its derivatives by weight and by `log sigma^2`."""
    log_alpha = log_alpha_of(weight, log_sigma2)
    s = tf.sigmoid(K2 + K3 * log_alpha)
    softplus = tf.math.softplus(-log_alpha)
    total = tf.reduce_sum(K1 - K1 * s + 0.5 * softplus)
    # sigmoid(-x) = 1 - exp(-softplus(-x)).
    slope = -K1 * K3 * s * (1.0 - s) - 0.5 * (1.0 - tf.exp(-softplus))
    slope = tf.where(tf.abs(log_alpha) < _LIMIT, slope, tf.zeros_like(slope))
    return total, slope * -2.0 * weight / (tf.square(weight) + _TINY), slope


_NOISE, _KL = by_size(_noise, 2), by_size(_kl_and_slopes, 2)


@tf.custom_gradient
def _total_kl(weight: Tensor, log_sigma2: Tensor) -> tuple[Tensor, Any]:
    total, by_weight, by_log_sigma2 = _KL(weight, log_sigma2)
    return total, lambda upstream: (upstream * by_weight, upstream * by_log_sigma2)


@register("weight_transform")
class VariationalDropoutPruner(DrawingPruner):
    """Adds noise of a trained size to each weight, and drops the weights that the noise has outgrown.

    **Forward** In training `y = w + sigma epsilon`, `epsilon ~ N(0, 1)` drawn for each weight and step. In inference
    `y = w` where `log alpha < 3`, `alpha = sigma^2 / w^2`, else 0.
    **Loss** `strength * sum KL`,
    `-KL = k1 sigmoid(k2 + k3 log alpha) - 0.5 log(1 + 1 / alpha) - k1`, `k1 = 0.63576, k2 = 1.87320, k3 = 1.48695`.
    **Gradient** `dy/dw = 1`, `dy/dlog sigma^2 = sigma epsilon / 2` in training; the loss has its own.

    The trained number is `log sigma^2`, as in the paper (equation 12): the gradient of the weight has less variance
    than with `alpha`. How sparse it gets follows from the data; there is no target. The draw depends on `seed`, the
    step and the first value of the weight.

    Args:
        strength: Factor of the divergence, >= 0: 1 over the number of training samples is the paper's bound.
        warm_up_steps: Steps in which the factor grows from 0, evenly; 0 for none. Networks that are trained from
            scratch need it, the paper says.
        initial_log_sigma2: First `log sigma^2` of all weights.
        seed: Seed of the draws, an integer from 0 to 2^31 - 1.

    Raises:
        ValueError: For arguments out of range.

    **Reference**: Molchanov, Ashukha and Vetrov, "Variational dropout sparsifies deep neural networks" (2017),
    equations 12 and 14, section 4.
    **Deviations**: noise on the weights, one draw for a batch; the paper draws the outputs of a layer for each sample
    (local reparametrisation), for which a transform of a weight has no place. Gradients vary more. `log alpha` is
    clipped to [-8, 8], as in the authors' program. Noise ends at 4.2 standard deviations.
    """

    def __init__(
        self,
        strength: float = 2e-5,
        *,
        warm_up_steps: int = 0,
        initial_log_sigma2: float = -10.0,
        seed: int = 0,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(seed=seed, name=name, trainable=trainable)
        self.strength = not_negative("strength", strength)
        self.warm_up_steps = whole_steps("warm_up_steps", warm_up_steps)
        self.initial_log_sigma2 = finite("initial_log_sigma2", initial_log_sigma2)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{"strength": 1e-3, "initial_log_sigma2": -1.0, "warm_up_steps": 2, "seed": 3}]

    def create_variables(self) -> None:
        super().create_variables()
        self.log_sigma2 = self.add_weight(name="log_sigma2", shape=self.weight_shape, initializer="zeros")

    def initialize(self, weight: Tensor) -> None:
        super().initialize(weight)
        self.log_sigma2.assign(tf.fill(self.weight_shape, self.initial_log_sigma2))

    def kernel(self) -> Bound:
        return _INFERENCE, (value_of(self.log_sigma2),)

    def training_kernel(self, common: Any) -> Bound:
        log_sigma2 = value_of(self.log_sigma2)
        return _TRAINING, (log_sigma2, _NOISE(tf.stop_gradient(log_sigma2), self.uniform()))

    def penalty(self, weight: Tensor, common: Any) -> Tensor:
        """`strength * sum KL`, its factor as far as the warm-up has come."""
        factor: Any = self.strength
        if self.warm_up_steps:
            # The step has been counted already.
            done = tf.cast(value_of(self.step) - 1, tf.float32) / self.warm_up_steps
            factor *= tf.minimum(done, 1.0)
        return factor * _total_kl(weight, value_of(self.log_sigma2))

    def pending(self) -> str | None:
        step = int(value_of(self.step))
        if 0 < step < self.warm_up_steps:
            return f"pruning stopped at step {step}, before the end of its warm-up, {self.warm_up_steps}"
        return super().pending()

    def summary_values(self) -> dict[str, float]:
        return {"mean_log_sigma2": float(tf.reduce_mean(value_of(self.log_sigma2)))}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "strength": self.strength,
            "warm_up_steps": self.warm_up_steps,
            "initial_log_sigma2": self.initial_log_sigma2,
        }
