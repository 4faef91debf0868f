"""What DoReFa's activations and half-wave Gaussian quantization share: no negative values, and a constant step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from keras import ops

from keras_compress.core import affine
from keras_compress.core.ste import compiled, in_float32
from keras_compress.quantizers.activation import ActivationQuantizer, Surrogate

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

    def _on_grid(self, values: Tensor) -> Tensor:
        return affine.fake_quantize(values, self.step, float(self.spec.minimum), self.spec)

    def plain(self, inputs: Any) -> Any:
        return in_float32(self._on_grid, inputs)

    def surrogate(self) -> Surrogate:
        step, zero_point = self.parameters()
        highest, passes = (self.spec.maximum - zero_point) * step, self.passes()
        return lambda values, upstream: (passes(values, highest, upstream),), ()

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if not training:
            return self.inferred(self._on_grid, inputs)
        rounding, step = _rounding(self.spec), self.parameters()[0]
        return self.inferred(lambda values: rounding(values, step), inputs)
