"""Normalizations over features, in operators that have exact integer kernels."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np

from keras_compress.convert.expand.activations import PointwiseFunction
from keras_compress.convert.expand.arithmetic import as_array, combine
from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion
from keras_compress.convert.expand.products import permuted, reshaped
from keras_compress.core.transform import IntegerWeight

Tensor = Any


def normalized(emit: Emitter, tensor: Tensor, gamma: Any, beta: Any, epsilon: float, *, centered: bool) -> Tensor:
    """`(x - mean) / sqrt(var + epsilon) * gamma + beta` over the last axis.

    Means are Dense layers with one weight, 1 / n, which every kernel rounds alike (MEAN does not); the root is read
    from a table.
    """
    if centered:
        tensor = emit(keras.layers.Subtract(name="centered"), [tensor, _mean(emit, tensor, "mean")])
    squares = emit(keras.layers.Multiply(name="squares"), [tensor, tensor])
    variance = _mean(emit, squares, "variance")
    root = emit(PointwiseFunction("rsqrt", {"epsilon": float(epsilon)}, name="inverse_deviation"), variance)
    return _scaled(emit, emit(keras.layers.Multiply(name="normalized"), [tensor, root]), gamma, beta)


def _scaled(emit: Emitter, tensor: Tensor, gamma: Any, beta: Any) -> Tensor:
    """`tensor * gamma + beta`, of which either may be missing."""
    if gamma is None and beta is None:
        return tensor
    factor, offset = (None if v is None else as_array(v) for v in (gamma, beta))
    return emit.affine(tensor, factor, offset, name="scaled")


def total(emit: Emitter, tensor: Tensor, name: str, factor: float = 1.0) -> Tensor:
    """`factor` times the sum over the last axis, which stays with length 1."""
    count = tensor.shape[-1]
    weight = IntegerWeight(np.full((count, 1), 127, np.int32), np.full((1, 1), factor / 127, np.float32), 8)
    return emit.dense(tensor, weight, name=name)


def _mean(emit: Emitter, tensor: Tensor, name: str) -> Tensor:
    return total(emit, tensor, name, 1 / tensor.shape[-1])


def _refuse_axes(emit: Emitter, axis: Any, tensor: Tensor) -> None:
    axes = [axis] if isinstance(axis, int) else list(axis)
    if [a % len(tensor.shape) for a in axes] != [len(tensor.shape) - 1]:
        raise ValueError(f"Expected a normalization over the last axis. Received: axis={axis} at {emit.name('')!r}")


class LayerNormalization(Expansion):
    """LayerNormalization over the last axis."""

    handles: ClassVar[tuple[str, ...]] = ("LayerNormalization",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_axes(emit, operation.axis, args[0])
        centered = not getattr(operation, "rms_scaling", False)
        return normalized(emit, args[0], operation.gamma, operation.beta, operation.epsilon, centered=centered)


class RMSNormalization(Expansion):
    """RMSNormalization over the last axis."""

    handles = ("RMSNormalization",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_axes(emit, operation.axis, args[0])
        return normalized(emit, args[0], operation.scale, None, operation.epsilon, centered=False)


class UnitNormalization(Expansion):
    """UnitNormalization over the last axis: SQUARE and DIV have no int8 kernels."""

    handles = ("UnitNormalization",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_axes(emit, operation.axis, args[0])
        squares = emit(keras.layers.Multiply(name="squares"), [args[0], args[0]])
        length = emit(PointwiseFunction("rsqrt", {"epsilon": 1e-12}, name="inverse"), total(emit, squares, "total"))
        return emit(keras.layers.Multiply(name="normalized"), [args[0], length])


class GroupNormalization(Expansion):
    """GroupNormalization: a normalization over the last axis, of rows that each hold one group."""

    handles = ("GroupNormalization",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_axes(emit, operation.axis, args[0])
        *space, channels = args[0].shape[1:]
        groups, places = operation.groups, int(np.prod(space))
        size = channels // groups
        rows = permuted(emit, reshaped(emit, args[0], (places, groups, size), "groups"), (0, 2, 1, 3), "groups_first")
        rows = reshaped(emit, rows, (groups, places * size), "rows")
        made = normalized(emit, rows, None, None, operation.epsilon, centered=True)
        made = permuted(emit, reshaped(emit, made, (groups, places, size), "places"), (0, 2, 1, 3), "places_first")
        made = reshaped(emit, made, (*space, channels), "restored")
        return _scaled(emit, made, operation.gamma, operation.beta)


class Reduction(Expansion):
    """`mean` and `sum` over the last axis as a Dense layer with one weight: their kernels round each in its way."""

    handles = ("Mean", "Sum")

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        axis, rank = operation.axis, len(args[0].shape)
        axes = list(axis) if isinstance(axis, (list, tuple)) else [axis]
        return rank > 2 and axes != [None] and [a % rank for a in axes] == [rank - 1]

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        made = (_mean if type(operation).__name__ == "Mean" else total)(emit, args[0], "reduced")
        return made if operation.keepdims else reshaped(emit, made, made.shape[1:-1], "dropped")


class NormalizationOperation(Expansion):
    """`keras.ops.layer_normalization` and `rms_normalization`."""

    handles = ("LayerNorm", "RMSNorm")

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        given = {**operation.get_config(), **dict(zip(("x", "gamma", "beta"), args, strict=False)), **kwargs}
        _refuse_axes(emit, given.get("axis", -1), args[0])
        centered = type(operation).__name__ == "LayerNorm" and not given.get("rms_scaling", False)
        gamma = given.get("gamma", given.get("scale"))
        return normalized(emit, args[0], gamma, given.get("beta"), given.get("epsilon") or 1e-5, centered=centered)


class Rescaling(Expansion):
    """Rescaling and Normalization with constants, for each channel."""

    handles = ("Rescaling", "Normalization")

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return len(args[0].shape) > 1 and str(args[0].dtype).startswith("float")

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        if type(operation).__name__ == "Rescaling":
            factor, offset = as_array(operation.scale), as_array(operation.offset)
        else:
            mean, deviation = as_array(operation.mean), np.sqrt(as_array(operation.variance))
            deviation = np.maximum(deviation, keras.backend.epsilon())
            factor, offset = 1 / deviation, -mean / deviation
            if operation.invert:
                factor, offset = deviation, mean
        if all(v.size in (1, args[0].shape[-1]) for v in (factor, offset)):
            return emit.affine(args[0], factor, offset, name="affine")
        return combine(emit, "add", combine(emit, "multiply", args[0], factor), offset)
