"""Masks of padded steps on integers: numbers that are 0 or 1, and products with them, which round nothing.

A mask of `Masking` or `Embedding(mask_zero=True)` says where numbers are not 0. The device reads that from a table, as
0 or 1 on a grid that has both. A state is `m new + (1 - m) old` then: a product with 1 or 0 on the grid of its other
factor is that factor or 0, and a sum of the two on one grid is one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.products import reshaped
from keras_compress.core import keras_private
from keras_compress.core.registry import PACKAGE

Tensor = Any
HELD = "held_"


@keras.saving.register_keras_serializable(package=PACKAGE)
class Present(keras.layers.Layer):
    """1 where a number is not 0, and 0 elsewhere, or the other way round.

    Args:
        inverted: Whether it is 1 where a number is 0.
    """

    def __init__(self, inverted: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inverted = bool(inverted)
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        return tf.cast(tf.equal(inputs, 0) if self.inverted else tf.not_equal(inputs, 0), self.compute_dtype)

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(inputs.shape, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "inverted": self.inverted}


@keras.saving.register_keras_serializable(package=PACKAGE)
class PresentToken(Present):
    """The same of the numbers of an embedding's rows, which are no integers of a grid."""


@keras.saving.register_keras_serializable(package=PACKAGE)
class Gate(keras.layers.Multiply):
    """A tensor times one that is 0 or 1, on the grid of the first."""


@keras.saving.register_keras_serializable(package=PACKAGE)
class Either(keras.layers.Add):
    """The sum of two tensors of which one is 0; on the grid of both where they share one."""


@dataclass(frozen=True)
class StepMask:
    """The mask of one step.

    Attributes:
        taken: 1 where the step counts, `(batch, 1)`.
        left: 1 where it is padding.
    """

    taken: Tensor
    left: Tensor

    def gated(self, emit: Emitter, tensor: Tensor, name: str) -> Tensor:
        """What a step gives, or zeros where it is padding."""
        return emit(Gate(name=name), [tensor, _of_rank(emit, self.taken, tensor, f"{name}_mask")])

    def held(self, emit: Emitter, new: Tensor, old: Tensor | None, name: str) -> Tensor:
        """What a step gives, or what was there before it where it is padding; `None` is zeros."""
        if old is None:
            return self.gated(emit, new, f"{HELD}{name}")
        left = emit(Gate(name=f"{name}_left"), [old, _of_rank(emit, self.left, old, f"{name}_left_mask")])
        return emit(Either(name=f"{HELD}{name}"), [self.gated(emit, new, f"{name}_taken"), left])


def step_masks(emit: Emitter, mask: Tensor) -> list[StepMask]:
    """A mask step by step.

    Args:
        emit: Puts calls into the graph.
        mask: Boolean `(batch, steps)`, as `Masking` and `Embedding` make them.

    Raises:
        ValueError: For another mask, by the layer that reads it.
    """
    with emit.inside("mask"):
        both = as_numbers(emit, mask)
        steps = [
            emit.apply(lambda x: keras.ops.unstack(x, axis=1), each, name=name)
            for each, name in zip(both, ("steps", "padding_steps"), strict=True)
        ]
    return [StepMask(taken, left) for taken, left in zip(*steps, strict=True)]


def as_numbers(emit: Emitter, mask: Tensor) -> tuple[Tensor, Tensor]:
    """A mask as numbers 0 and 1, `(batch, steps, 1)`, and 1 less these; arguments as for `step_masks`."""
    source = _compared(mask)
    if source is None:
        raise ValueError(
            "Expected the mask of a Masking layer with mask_value=0 or of an Embedding with mask_zero=True, which the "
            f"device tells from its integers. Received: another mask at {emit.name('')!r}; give padded steps zeros, or "
            "convert with mode='float32' for LiteRT."
        )
    if len(source.shape) == 2:
        taken, left = (
            emit.new(PresentToken(inverted, name=name), source)
            for inverted, name in ((False, "present"), (True, "padding"))
        )
        column = source.shape[1], 1
        return reshaped(emit, taken, column, "column"), reshaped(emit, left, column, "padding_column")
    steps, size = source.shape[1], int(np.prod(source.shape[2:]))
    taken = reshaped(emit, emit.new(Present(name="present"), source), (steps * size, 1), "column")
    if size > 1:
        # One of its numbers is enough.
        taken = emit.new(keras.layers.MaxPooling1D(size, size, name="any"), taken)
    return taken, emit.new(Present(inverted=True, name="padding"), taken)


def _compared(mask: Any) -> Tensor | None:
    """What a mask compares with 0, all axes behind the steps together; `None` for another mask."""
    if not isinstance(mask, keras.KerasTensor):
        return None
    node = keras_private.call_node(mask)
    if type(node.operation).__name__ == "Any":
        (inner,), rank = node.input_tensors, len(node.input_tensors[0].shape)
        axes = sorted(int(axis) % rank for axis in np.atleast_1d(node.operation.axis))
        return _compared(inner) if axes == list(range(2, rank)) else None
    if type(node.operation).__name__ != "NotEqual":
        return None
    tensor, value = node.arguments.args[:2]
    constant = not isinstance(value, keras.KerasTensor)
    return tensor if constant and np.all(keras.ops.convert_to_numpy(value) == 0) else None


def _of_rank(emit: Emitter, mask: Tensor, tensor: Tensor, name: str) -> Tensor:
    """A mask of a step that broadcasts against what the step gives."""
    return reshaped(emit, mask, (1,) * (len(tensor.shape) - 1), name)
