"""`QuantizeActivation`, the layer that stands where the device holds integers, and what decides its range."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_compress.core import affine, keras_private
from keras_compress.core.context import assign, counter, first_time_in_call
from keras_compress.core.export_notice import TellsOfExport
from keras_compress.core.registry import PACKAGE, register
from keras_compress.core.ste import (
    fake_quantize_range,
    finite_extremes,
    gradient_inside,
    gradients_of_range,
    in_float32,
    value_of,
    with_gradient,
)
from keras_compress.core.warn import warn
from keras_compress.quantizers.activation_grid import ActivationGrid, at_hand
from keras_compress.quantizers.activation_grid import Surrogate as Surrogate
from keras_compress.quantizers.averaging import averaging_program, corrected, count_on

Tensor = Any
# Under this the warning of an untrained range is marked as given: one for a model, not one for each point.
_UNTRAINED = object()
# Batches of a moving average that was set: a history so long that the bias correction divides by exactly 1.
_SET = 2**40


class ActivationQuantizer(ActivationGrid, keras_private.MadeWithoutBuild, keras.layers.Layer):
    """Decides range and integers of an activation, as a Keras layer. Subclasses implement `parameters` and `call`.

    Args:
        bits: 1 to 8, or 16 (symmetric).

    Raises:
        ValueError: For other bits.
    """

    def __init__(self, bits: int = 8, *, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(name=name, trainable=trainable, dtype="float32", autocast=False)
        self.set_bits(bits)
        self.supports_masking = True
        self.create_variables()
        self.built = True

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        """Constructor arguments of a few examples: what the conformance tests try."""
        return [{}]

    def create_variables(self) -> None:
        """Make variables; none by default."""

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must implement `call(inputs, training)`.")

    def compute_output_spec(self, inputs: Any, training: bool = False) -> Any:
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "trainable": self.trainable, "bits": self.bits}


class TrainedQuantizer(ActivationQuantizer):
    """A quantizer that training batches determine. Subclasses implement `train` and `set_range`.

    Values that are not finite have no part in it: one batch with an infinite value would spoil a moving average for
    ever. How many batches held some is counted, and `summary` says so.

    Class attributes:
        known_from_start: It need not wait for the first batch.
    """

    known_from_start: bool = False

    def create_variables(self) -> None:
        self.batches = counter(self, "batches", start=int(self.known_from_start))
        self.not_finite = counter(self, "not_finite")

    def load_own_variables(self, store: Any) -> None:
        """As Keras does; files of earlier versions do not have the last variable."""
        own = keras_private.own_variables(self)
        if len(store.keys()) != len(own) - 1:
            super().load_own_variables(store)
            return
        for position, variable in enumerate(own[:-1]):
            variable.assign(store[str(position)])

    def count(self, whole: Tensor) -> None:
        """Count a batch, all of whose values are finite or not."""
        assign(self.not_finite, value_of(self.not_finite) + ops.cast(ops.logical_not(whole), "int64"))

    def trained(self) -> bool:
        return int(value_of(self.batches)) > 0

    def train(self, values: Tensor) -> Tensor:
        """Take a training batch, float32, into account and round it."""
        raise NotImplementedError(f"{type(self).__name__} must implement `train(values)`.")

    def set_range(self, low: float, high: float) -> None:
        """Set the range exactly, as calibration finds it; training goes on from there."""
        raise NotImplementedError(f"{type(self).__name__} must implement `set_range(low, high)`.")

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if training:
            return ops.cast(self.train(ops.cast(inputs, "float32")), inputs.dtype)
        self._warn_if_untrained()
        known, parameters = value_of(self.batches) > 0, self.parameters()
        backward, numbers = self.surrogate()

        def forward(values: Tensor) -> Tensor:
            return ops.cond(
                known, lambda: affine.fake_quantize(values, *parameters, self.spec), lambda: ops.copy(values)
            )

        def gradients(values: Tensor, upstream: Tensor, *now: Tensor) -> list[Tensor]:
            passed, *of_numbers = backward(values, upstream, *now)
            return [tf.where(known, passed, upstream), *(tf.where(known, g, tf.zeros_like(g)) for g in of_numbers)]

        # The condition is not differentiated: XLA has no gradient for it.
        return in_float32(lambda values: with_gradient(forward, gradients, values, *numbers), inputs)

    def _warn_if_untrained(self) -> None:
        if keras_private.stateless_scope() is not None:
            # Keras only traces the model, as before training under a distribution strategy.
            return
        with tf.init_scope():
            if tf.executing_eagerly() and int(value_of(self.batches)) == 0 and not getattr(self, "_warned", False):
                self._warned = True
                if first_time_in_call(_UNTRAINED):
                    warn(
                        f"{self.name} (perhaps not alone) has seen no training batch: values pass through unquantized. "
                        "Train the model, or give `convert` a representative_dataset."
                    )


class _RangeQuantizer(TrainedQuantizer):
    """A quantizer with a range that training batches determine."""

    # One bit is 0 and one other value: of a range that is no grid for values of both signs.
    allowed_bits = (*range(2, 9), 16)

    describes = True
    learns_range = False

    def create_variables(self) -> None:
        moving = {"shape": (), "initializer": "zeros", "trainable": self.learns_range}
        self.minimum = self.add_weight(name="minimum", aggregation="mean", **moving)
        self.maximum = self.add_weight(name="maximum", aggregation="mean", **moving)
        super().create_variables()

    def range(self) -> tuple[Tensor, Tensor]:
        """`(low, high)` of inference, before 0.0 is included."""
        raise NotImplementedError(f"{type(self).__name__} must implement `range()`.")

    def parameters(self) -> tuple[Tensor, Tensor]:
        return affine.affine_parameters(*self.range(), self.spec)

    def plain(self, inputs: Any) -> Any:
        if not self.trained():
            return inputs
        if type(self).parameters is not _RangeQuantizer.parameters:
            return super().plain(inputs)  # a subclass has others than those of the range
        # Of NumPy's numbers NumPy computes: the same, and sooner.
        low, high = (np.float32(end) for end in self.range())
        scale, zero_point = (float(p) for p in affine.affine_parameters(low, high, self.spec))
        return at_hand(lambda values: affine.fake_quantize(values, scale, zero_point, self.spec), inputs)

    def summary_values(self) -> dict[str, float]:
        low, high = self.range()
        return {"minimum": float(low), "maximum": float(high)}


@register("activation_quantizer")
class MovingAverageRange(_RangeQuantizer):
    """Uniform quantization between moving averages of the batches' lowest and highest value.

    **Forward** `m_t = decay * m_(t-1) + (1 - decay) * min(x_t)`, range `m_t / (1 - decay^t)`, likewise the maximum; so
    the first training batch sets the range. 0.0 always has an integer.
    **Gradient** 1 inside the range, 0 outside.

    **Levels** `2^bits` evenly spaced, 0 among them.

    With `trainable=False` the range stays as it is in training too, like the averages of a frozen BatchNormalization;
    if there is none yet, the first training batch sets it.

    Args:
        bits: 2 to 8, or 16 (symmetric).
        decay: In (0, 1).

    **Reference**: Jacob et al. (2018), section 3.1; bias correction as in Adam (Kingma and Ba, 2015).
    """

    def __init__(self, bits: int = 8, decay: float = 0.99, **kwargs: Any) -> None:
        if not 0.0 < decay < 1.0:
            raise ValueError(f"Expected `decay` in (0, 1). Received: decay={decay}")
        self._decay = float(decay)
        super().__init__(bits, **kwargs)

    @property
    def decay(self) -> float:
        """Weight of the past."""
        return self._decay

    def range(self) -> tuple[Tensor, Tensor]:
        batches = value_of(self.batches)
        if hasattr(batches, "numpy") and batches.numpy() >= _SET:
            return value_of(self.minimum), value_of(self.maximum)
        return (
            corrected(value_of(self.minimum), batches, self._decay),
            corrected(value_of(self.maximum), batches, self._decay),
        )

    def set_range(self, low: float, high: float) -> None:
        self.minimum.assign(low)
        self.maximum.assign(high)
        self.batches.assign(_SET)

    def train(self, values: Tensor) -> Tensor:
        frozen = not self.trainable
        before = value_of(self.batches)
        state = (value_of(self.minimum), value_of(self.maximum), before)

        @tf.custom_gradient
        def apply(x: Tensor) -> tuple[Any, Any]:
            outputs, low, high, *averages = averaging_program(self.spec, self._decay, frozen)(x, *state)
            return (outputs, *averages), lambda upstream, *_: gradient_inside(x, low, high, upstream)

        outputs, minimum, maximum, batches, whole = apply(values)
        assign(self.minimum, minimum)
        assign(self.maximum, maximum)
        assign(self.batches, batches)
        self.count(whole)
        return outputs

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "decay": self._decay}


@register("activation_quantizer")
class LearnedRange(_RangeQuantizer):
    """Uniform quantization between two trained ends.

    **Forward** as `MovingAverageRange`; the first training batch sets the ends to its lowest and highest value.
    **Gradient** `dy/dx` is 1 inside, 0 outside; `dy/dlow` is 1 where `x < low`; `dy/dhigh` is 1 where `x > high`.

    **Levels** `2^bits` evenly spaced, 0 among them.

    Args:
        bits: 2 to 8, or 16 (symmetric).

    **Reference**: `tf.quantization.fake_quant_with_min_max_vars`, whose gradients these are.
    """

    learns_range = True

    def range(self) -> tuple[Tensor, Tensor]:
        return value_of(self.minimum), value_of(self.maximum)

    def surrogate(self) -> Surrogate:
        return lambda values, upstream, low, high: gradients_of_range(values, low, high, upstream), self.range()

    def set_range(self, low: float, high: float) -> None:
        self.minimum.assign(low)
        self.maximum.assign(high)
        self.batches.assign(1)

    def train(self, values: Tensor) -> Tensor:
        batches = value_of(self.batches)
        # The ends are a part of the result in every batch: else they have no gradient in the first one, of which Keras
        # warns.
        *first, whole = finite_extremes(ops.stop_gradient(values))
        fresh = ops.logical_and(batches == 0, first[0] <= first[1])
        low, high = (ops.where(fresh, set_to, end) for set_to, end in zip(first, self.range(), strict=True))
        assign(self.minimum, ops.stop_gradient(low))
        assign(self.maximum, ops.stop_gradient(high))
        assign(self.batches, count_on(batches, False, first[0] <= first[1]))
        self.count(whole)
        return fake_quantize_range(values, low, high, self.spec, learn_range=True)


@register("activation_quantizer")
class FixedGrid(ActivationQuantizer):
    """A grid known beforehand: softmax and sigmoid on the device, and every point of a frozen model.

    **Forward** `scale * (clip(round(x / scale) + zero_point) - zero_point)`. **Gradient** 1 inside, 0 outside.

    Args:
        scale: Step, positive.
        zero_point: Integer of 0.0.
        bits: Storage width, 8 or 16.
        lowest: Lowest integer that occurs, where fewer bits than stored are simulated.
        rounding: `"half_even"`, or `"half_away"` as TFLite's average pooling rounds integers.
    """

    describes = True

    def __init__(
        self,
        scale: float,
        zero_point: int,
        bits: int = 8,
        lowest: int | None = None,
        rounding: str = "half_even",
        **kwargs: Any,
    ) -> None:
        if not 0 < scale < math.inf:
            raise ValueError(f"Expected a finite `scale` > 0. Received: scale={scale}")
        if rounding not in ("half_even", "half_away"):
            raise ValueError(f"Expected `rounding` 'half_even' or 'half_away'. Received: rounding={rounding!r}")
        self._scale, self._zero_point = float(scale), int(zero_point)
        self._lowest, self._rounding = lowest, rounding
        super().__init__(bits, **kwargs)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        half_away = {"scale": 1 / 16, "zero_point": 0, "lowest": -8, "rounding": "half_away"}
        return [{"scale": 0.05, "zero_point": -3}, half_away]

    @property
    def scale(self) -> float:
        """Step."""
        return self._scale

    @property
    def zero_point(self) -> int:
        """Integer of 0.0."""
        return self._zero_point

    @property
    def lowest(self) -> int:
        """Lowest integer that occurs."""
        return self.spec.minimum if self._lowest is None else self._lowest

    @property
    def rounding(self) -> str:
        """How ties are rounded."""
        return self._rounding

    def parameters(self) -> tuple[Tensor, Tensor]:
        return ops.convert_to_tensor(self._scale, "float32"), ops.convert_to_tensor(float(self._zero_point))

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        return self.inferred(self._on_grid, inputs)

    def surrogate(self) -> Surrogate:
        low, high = ((end - self._zero_point) * self._scale for end in (self.lowest, self.spec.maximum))

        def within(values: Tensor, upstream: Tensor) -> tuple[Tensor]:
            return (tf.where((values >= low) & (values <= high), upstream, tf.zeros_like(upstream)),)

        return within, ()

    def plain(self, inputs: Any) -> Any:
        return at_hand(self._on_grid, inputs)

    def _on_grid(self, values: Tensor) -> Tensor:
        if self._rounding == "half_away":
            integers = affine.round_half_away(values / self._scale + self._zero_point)
            values = affine.dequantize(integers, self._scale, self._zero_point)
        if self._lowest is not None:
            maximum = np.maximum if isinstance(values, np.ndarray) else ops.maximum
            values = maximum(values, np.float32((self._lowest - self._zero_point) * self._scale))
        # A tensor's lowest integer may be one that symmetric ranges leave out.
        spec = self.spec if self.lowest >= self.spec.minimum else replace(self.spec, narrow_range=False)
        return affine.fake_quantize(values, self._scale, float(self._zero_point), spec)

    def get_config(self) -> dict[str, Any]:
        config = {"scale": self._scale, "zero_point": self._zero_point, "lowest": self._lowest}
        return {**super().get_config(), **config, "rounding": self._rounding}


def _is_as_plain(quantizer: Any) -> bool:
    """Whether `plain` is known to give what a call gives: a user's subclass may compute something else in either."""
    for base, inherited in ((FixedGrid, FixedGrid), (_RangeQuantizer, TrainedQuantizer)):
        if isinstance(quantizer, base):
            return type(quantizer).call is inherited.call and type(quantizer).plain is base.plain
    return False


@keras.saving.register_keras_serializable(package=PACKAGE)
class QuantizeActivation(TellsOfExport, keras_private.MadeWithoutBuild, keras.layers.Layer):
    """A point of the graph where the device holds integers.

    Args:
        quantizer: Decides range and integers; an `ActivationQuantizer`.
        stands_for: Name of the layer whose values these are; the user's name of a model output, for one.

    Shapes: any; the output has the shape and dtype of the input.
    """

    def __init__(self, quantizer: ActivationGrid, stands_for: str | None = None, **kwargs: Any) -> None:
        super().__init__(dtype="float32", autocast=False, **{k: v for k, v in kwargs.items() if k != "dtype"})
        self.quantizer: Any = quantizer
        self.stands_for = stands_for
        self.supports_masking = True
        # One that has to know how many channels there are is built when it is called, or was, in a file.
        self.built = quantizer.prepared

    def build(self, input_shape: Any) -> None:
        self.quantizer.prepare(input_shape)
        self.built = True

    def behind(self, tensor: keras.KerasTensor) -> keras.KerasTensor:
        """This point behind a symbolic tensor: a call whose result Keras need not infer."""
        plain = self.built and keras_private.is_plain(tensor)
        return keras_private.recorded(self, (tensor,), {}, [tensor])[0] if plain else self(tensor)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        made = self.quantizer(inputs, training=bool(training))
        keras_private.keep_logits(made, inputs, bool(training))
        return made

    def values(self, inputs: Tensor) -> Tensor:
        """What it makes of values, where no gradient is wanted."""
        # In a graph that is traced, what is trained is read when it runs.
        known = tf.executing_eagerly() or not isinstance(self.quantizer, TrainedQuantizer)
        return self.quantizer.plain(inputs) if known and _is_as_plain(self.quantizer) else self(inputs)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def plain_operations(self, inputs: Any) -> Any:
        """The same function of inference as plain Keras operations, for `strip`."""
        return self.quantizer.plain(inputs)

    def get_config(self) -> dict[str, Any]:
        config = {key: value for key, value in super().get_config().items() if key != "dtype"}
        quantizer = keras.saving.serialize_keras_object(self.quantizer)
        return {**config, "quantizer": quantizer, "stands_for": self.stands_for}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> QuantizeActivation:
        return cls(**{**config, "quantizer": keras.saving.deserialize_keras_object(config["quantizer"])})
