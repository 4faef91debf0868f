"""Normalizations over features, in operators that have exact integer kernels."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np

from keras_compress.convert.expand.activations import PointwiseFunction
from keras_compress.convert.expand.arithmetic import as_array
from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion
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
    made = emit(keras.layers.Multiply(name="normalized"), [tensor, root])
    if gamma is None and beta is None:
        return made
    factor = None if gamma is None else as_array(gamma)
    return emit.affine(made, factor, None if beta is None else as_array(beta), name="scaled")


def _mean(emit: Emitter, tensor: Tensor, name: str) -> Tensor:
    count = tensor.shape[-1]
    weight = IntegerWeight(np.full((count, 1), 127, np.int32), np.full((1, 1), 1 / (127 * count), np.float32), 8)
    return emit.dense(tensor, weight, name=name)


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


class NormalizationOperation(Expansion):
    """`keras.ops.layer_normalization` and `rms_normalization`."""

    handles = ("LayerNorm", "RMSNorm")

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        given = {**operation.get_config(), **dict(zip(("x", "gamma", "beta"), args, strict=False)), **kwargs}
        _refuse_axes(emit, given.get("axis", -1), args[0])
        centered = type(operation).__name__ == "LayerNorm" and not given.get("rms_scaling", False)
        gamma = given.get("gamma", given.get("scale"))
        return normalized(emit, args[0], gamma, given.get("beta"), given.get("epsilon") or 1e-5, centered=centered)
