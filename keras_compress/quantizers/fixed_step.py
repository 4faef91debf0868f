"""What DoReFa's activations and half-wave Gaussian quantization share: no negative values, and a constant step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras import ops

from keras_compress.core import affine
from keras_compress.core.ste import compiled
from keras_compress.quantizers.activation import ActivationQuantizer, in_float32

Tensor = Any


@functools.cache
def _rounding(spec: affine.QuantSpec) -> Callable[[Tensor, Tensor], Tensor]:
    # The step is an argument: XLA would multiply by the reciprocal of a constant, which differs in the last bit.
    return compiled(lambda values, step: affine.fake_quantize(values, step, float(spec.minimum), spec))


class FixedStep(ActivationQuantizer):
    """A quantizer of values of 0 and more whose step is known. Subclasses implement `step` and `passes`."""

    allowed_bits = tuple(range(1, 9))
    non_negative = True

    @property
    def step(self) -> float:
        """Distance of two levels."""
        raise NotImplementedError(f"{type(self).__name__} must implement `step`.")

    def passes(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Compiled `(values, highest level, upstream) -> gradient`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `passes()`.")

    def parameters(self) -> tuple[Tensor, Tensor]:
        return ops.convert_to_tensor(self.step, "float32"), ops.convert_to_tensor(float(self.spec.minimum), "float32")

    def plain(self, inputs: Any) -> Any:
        zero_point = float(self.spec.minimum)
        return in_float32(lambda values: affine.fake_quantize(values, self.step, zero_point, self.spec), inputs)

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if not training:
            return self.plain(inputs)
        step, zero_point = self.parameters()
        highest = (self.spec.maximum - zero_point) * step
        rounding, passes = _rounding(self.spec), self.passes()

        @tf.custom_gradient
        def apply(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
            return rounding(x, step), lambda upstream: passes(x, highest, upstream)

        return ops.cast(apply(ops.cast(inputs, "float32")), inputs.dtype)
