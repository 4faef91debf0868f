"""Continuous sparsification: sigmoids of trained numbers that harden into a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from keras_compress.core.kernels import Bound, Kernel
from keras_compress.core.registry import register
from keras_compress.core.ste import value_of
from keras_compress.pruning.trained import IN_TRAINING, TrainedPruner, finite, not_negative, positive, whole_steps

Tensor = Any


def _soft(weight: Tensor, s: Tensor, m: Tensor, beta: Tensor) -> Tensor:
    return weight * m


def _soft_gradient(upstream: Tensor, weight: Tensor, s: Tensor, m: Tensor, beta: Tensor) -> Tensor:
    return upstream * m


def _s_gradient(upstream: Tensor, weight: Tensor, s: Tensor, m: Tensor, beta: Tensor) -> tuple[Tensor, None, None]:
    return upstream * weight * (beta * m * (1.0 - m)), None, None


@tf.custom_gradient
def _expected_number(s: Tensor, m: Tensor, beta: Tensor) -> tuple[Tensor, Any]:
    """`sum sigmoid(beta s)`, from `m`, the sigmoids."""
    return tf.reduce_sum(m), lambda upstream: (upstream * beta * m * (1.0 - m), None, None)


def _hard(weight: Tensor, s: Tensor) -> Tensor:
    return tf.where(s >= 0.0, weight, tf.zeros_like(weight))


_TRAINING = Kernel(_soft, _soft_gradient, _s_gradient, **IN_TRAINING)
_INFERENCE = Kernel(_hard, lambda upstream, weight, s: _hard(upstream, s), exact=True, any_shape=True)


@register("weight_transform")
class ContinuousSparsificationPruner(TrainedPruner):
    """Multiplies each weight by the sigmoid of a trained number, whose steepness grows until it is a mask.

    **Forward** In training `y = w sigmoid(beta s)`, `beta = final_temperature^(t / end_step)` at step t, at most
    `final_temperature`. In inference `y = w` where `s >= 0`, else 0.
    **Loss** `strength * sum sigmoid(beta s)`.
    **Gradient** `dy/dw = m`, `dy/ds = w beta m (1 - m)`, `m = sigmoid(beta s)`.

    The trained number is `s / rate`, with the gradient of `s`: SGD moves `s` `rate` times as far as a weight of the
    same gradient, and so does Adam, for which the size of a gradient does not count.

    How sparse it gets follows from `initial_s` (the lower, the sparser) and `strength`; there is no target.

    Args:
        end_step: Step at which `beta` has reached its last value, >= 1.
        strength: Cost of a weight, lambda, >= 0.
        rate: How many times as fast as weights `s` is trained, > 0; 1 is the paper's.
        initial_s: First `s`.
        final_temperature: Last `beta`, >= 1.

    Raises:
        ValueError: For arguments out of range.

    **Reference**: Savarese, Silva and Maire, "Winning the lottery with continuous sparsification" (2020), equations
    5 to 7, algorithm 2.
    **Deviations**: one round; the paper's search for tickets repeats it. `s = 0` counts as kept.
    """

    draws = True

    def __init__(
        self,
        end_step: int,
        *,
        strength: float = 1e-6,
        rate: float = 1.0,
        initial_s: float = 0.0,
        final_temperature: float = 200.0,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, trainable=trainable)
        self.end_step = whole_steps("end_step", end_step, 1)
        self.strength = not_negative("strength", strength)
        self.final_temperature = not_negative("final_temperature", final_temperature)
        if self.final_temperature < 1.0:
            raise ValueError(f"Expected `final_temperature` >= 1. Received: final_temperature={final_temperature}")
        self.rate = positive("rate", rate)
        self.initial_s = finite("initial_s", initial_s)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{"end_step": 4, "strength": 1e-4, "rate": 2.0}]

    def create_variables(self) -> None:
        super().create_variables()
        self.trained = self.add_weight(name="s_over_rate", shape=self.weight_shape, initializer="zeros")

    def initialize(self, weight: Tensor) -> None:
        self.set_s(np.full(self.weight_shape, self.initial_s))

    def set_s(self, s: Tensor) -> None:
        """Set `s` exactly, in the shape of the weight."""
        self.trained.assign(np.asarray(s, np.float32) / np.float32(self.rate))

    @property
    def s(self) -> Tensor:
        """`s` now; no gradient goes through it."""
        return self.rate * tf.stop_gradient(value_of(self.trained))

    def temperature(self, step: Tensor) -> Tensor:
        """`beta` at a step, a float32 scalar."""
        done = tf.minimum(tf.cast(step, tf.float32) / float(self.end_step), 1.0)
        return tf.pow(self.final_temperature, done)

    def _temperature_now(self) -> Tensor:
        # The step has been counted already.
        return self.temperature(tf.maximum(value_of(self.step) - 1, 0))

    def kernel(self) -> Bound:
        return _INFERENCE, (value_of(self.trained),)

    def in_common(self) -> tuple[Tensor, Tensor]:
        beta = self._temperature_now()
        return tf.sigmoid(beta * self.s), beta

    def training_kernel(self, common: tuple[Tensor, Tensor]) -> Bound:
        return _TRAINING, (value_of(self.trained), *common)

    def penalty(self, weight: Tensor, common: tuple[Tensor, Tensor]) -> Tensor:
        """`strength * sum sigmoid(beta s)`."""
        return self.strength * _expected_number(value_of(self.trained), *common)

    def pending(self) -> str | None:
        step = int(value_of(self.step))
        if 0 < step <= self.end_step:
            return f"pruning stopped at step {step}, before its end_step {self.end_step}"
        return super().pending()

    def sparsity(self) -> float:
        """Share of the weights that are zero in inference."""
        return float(np.mean(ops.convert_to_numpy(value_of(self.trained)) < 0.0))

    def summary_values(self) -> dict[str, float]:
        return {"sparsity": self.sparsity(), "temperature": float(self._temperature_now())}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "end_step": self.end_step,
            "strength": self.strength,
            "rate": self.rate,
            "initial_s": self.initial_s,
            "final_temperature": self.final_temperature,
        }
