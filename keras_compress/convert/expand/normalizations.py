"""Normalizations over features, in operators that have exact integer kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np

from keras_compress.convert.expand.activations import PointwiseFunction
from keras_compress.convert.expand.arithmetic import as_array, combine, of_channels
from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion
from keras_compress.convert.expand.products import permuted, reshaped
from keras_compress.core.transform import IntegerWeight

Tensor = Any


def normalized(
    emit: Emitter, tensor: Tensor, gamma: Any, beta: Any, epsilon: float, *, centered: bool, shifts: bool = True
) -> Tensor:
    """`(x - mean) / sqrt(var + epsilon) * gamma + beta` over the last axis.

    Means are Dense layers with one weight, 1 / n, which every kernel rounds alike (MEAN does not); the root is read
    from a table.

    Args:
        emit: Puts calls into the graph.
        tensor: What is normalized.
        gamma: Factor of each place of the last axis, or `None`.
        beta: Offset, likewise.
        epsilon: Added to the variance.
        centered: Whether the variance is that around the mean, in place of the mean square.
        shifts: Whether the mean is taken off the values too.
    """
    alone = 2 if centered else 1
    if tensor.shape[-1] == alone and shifts and emit.mode == "int8":
        return _scaled(emit, _normalized_alone(emit, tensor, epsilon), gamma, beta)
    deviation = tensor
    if centered:
        deviation = emit.new(keras.layers.Subtract(name="centered"), [tensor, _mean(emit, tensor, "mean")])
    squares = emit.new(keras.layers.Multiply(name="squares"), [deviation, deviation])
    variance = _mean(emit, squares, "variance")
    root = emit.new(PointwiseFunction("rsqrt", {"epsilon": float(epsilon)}, name="inverse_deviation"), variance)
    made = emit.new(keras.layers.Multiply(name="normalized"), [deviation if shifts else tensor, root])
    return _scaled(emit, made, gamma, beta)


def _normalized_alone(emit: Emitter, tensor: Tensor, epsilon: float) -> Tensor:
    """The same of rows each of whose values tells the others: one, or two around their mean, `(a - b) / 2` and its
    negative. It is a function of that number, read from a table; its square would lose what is small in 8 bits.
    """
    if tensor.shape[-1] == 2:
        halves = np.array([[127, -127], [-127, 127]], np.int32)
        tensor = emit.dense(tensor, IntegerWeight(halves, np.full((1, 1), 0.5 / 127, np.float32), 8), name="centered")
    function = PointwiseFunction("over_own_length", {"epsilon": float(epsilon)}, name="normalized")
    return emit.new(function, tensor)


def _scaled(emit: Emitter, tensor: Tensor, gamma: Any, beta: Any) -> Tensor:
    """`tensor * gamma + beta`, of which either may be missing; in the order of the last axis."""
    if gamma is None and beta is None:
        return tensor
    factor, offset = (None if v is None else as_array(v) for v in (gamma, beta))
    if any(v is not None and v.size not in (1, tensor.shape[-1]) for v in (factor, offset)):
        shapes = [v.shape for v in (factor, offset) if v is not None]
        raise ValueError(f"Expected gamma and beta over what is normalized. Received: {shapes} at {emit.name('')!r}")
    return emit.affine(tensor, factor, offset, name="scaled")


def total(emit: Emitter, tensor: Tensor, name: str, factor: float = 1.0) -> Tensor:
    """`factor` times the sum over the last axis, which stays with length 1."""
    count = tensor.shape[-1]
    # The sum has to fit int32.
    level = int(np.clip(2**30 // (128 * count), 1, 127))
    weight = IntegerWeight(np.full((count, 1), level, np.int32), np.full((1, 1), factor / level, np.float32), 8)
    return emit.dense(tensor, weight, name=name)


def _mean(emit: Emitter, tensor: Tensor, name: str) -> Tensor:
    return total(emit, tensor, name, 1 / tensor.shape[-1])


def sample_axes(emit: Emitter, axis: Any, tensor: Tensor) -> list[int]:
    """Axes counted from the batch, in ascending order.

    Raises:
        ValueError: For the batch among them, by name.
    """
    rank = len(tensor.shape)
    axes = range(rank) if axis is None else [axis] if isinstance(axis, int) else axis
    found = sorted({int(a) % rank for a in axes})
    if 0 in found:
        raise ValueError(
            "Expected axes of a sample, behind the batch's: each sample is computed by itself. "
            f"Received: axis={axis} at {emit.name('')!r}"
        )
    return found


def by_rows(emit: Emitter, tensor: Tensor, axes: list[int], normalize: Callable[[Tensor], Tensor]) -> Tensor:
    """What `normalize` does to the last axis, for all of `axes` as one.

    Args:
        emit: Puts calls into the graph.
        tensor: Any rank.
        axes: Axes in ascending order, without the batch.
        normalize: Takes rows, and gives as many, as long.
    """
    rank = len(tensor.shape)
    if axes == [rank - 1]:
        return normalize(tensor)
    others = [a for a in range(1, rank) if a not in axes]
    order = [0, *others, *axes]
    turned = permuted(emit, tensor, order, "axes_last")
    size = int(np.prod([tensor.shape[a] for a in axes]))
    rows = reshaped(emit, turned, (*[tensor.shape[a] for a in others], size), "rows")
    made = reshaped(emit, normalize(rows), turned.shape[1:], "axes")
    return permuted(emit, made, [order.index(a) for a in range(rank)], "axes_restored")


def _layer_normalized(
    emit: Emitter, tensor: Tensor, axis: Any, gamma: Any, beta: Any, epsilon: float, rms_scaling: bool
) -> Tensor:
    """`rms_scaling`, which Keras has given up, divides by the deviation, and takes no mean off."""

    def normalize(rows: Tensor) -> Tensor:
        offset = None if rms_scaling else beta
        return normalized(emit, rows, gamma, offset, epsilon, centered=True, shifts=not rms_scaling)

    return by_rows(emit, tensor, sample_axes(emit, axis, tensor), normalize)


def _root_mean_square(emit: Emitter, tensor: Tensor, axis: Any, scale: Any, epsilon: float) -> Tensor:
    """Keras lets the scale broadcast against the whole tensor, whatever the axes."""
    axes, rank = sample_axes(emit, axis, tensor), len(tensor.shape)
    sizes = tuple(tensor.shape[a] for a in axes)
    inside = scale is None or (axes[-1] == rank - 1 and tuple(scale.shape) == sizes == tuple(tensor.shape[axes[0] :]))

    def normalize(rows: Tensor) -> Tensor:
        return normalized(emit, rows, scale if inside else None, None, epsilon, centered=False)

    made = by_rows(emit, tensor, axes, normalize)
    return made if inside else combine(emit, "multiply", made, as_array(scale))


class LayerNormalization(Expansion):
    """LayerNormalization over any axes of a sample."""

    handles: ClassVar[tuple[str, ...]] = ("LayerNormalization",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        rms_scaling = bool(getattr(operation, "rms_scaling", False))
        return _layer_normalized(
            emit, args[0], operation.axis, operation.gamma, operation.beta, operation.epsilon, rms_scaling
        )


class RMSNormalization(Expansion):
    """RMSNormalization over any axes of a sample."""

    handles = ("RMSNormalization",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        return _root_mean_square(emit, args[0], operation.axis, operation.scale, operation.epsilon)


class UnitNormalization(Expansion):
    """UnitNormalization, and `keras.ops.normalize` by the length: SQUARE and DIV have no int8 kernels."""

    handles = ("UnitNormalization", "Normalize")

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return getattr(operation, "order", 2) == 2

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        return by_rows(emit, args[0], sample_axes(emit, operation.axis, args[0]), lambda rows: self._unit(emit, rows))

    def _unit(self, emit: Emitter, rows: Tensor) -> Tensor:
        if rows.shape[-1] == 1 and emit.mode == "int8":
            return _normalized_alone(emit, rows, 1e-12)
        squares = emit.new(keras.layers.Multiply(name="squares"), [rows, rows])
        length = emit.new(PointwiseFunction("rsqrt", {"epsilon": 1e-12}, name="inverse"), total(emit, squares, "total"))
        return emit.new(keras.layers.Multiply(name="normalized"), [rows, length])


class GroupNormalization(Expansion):
    """GroupNormalization: a normalization over the last axis, of rows that each hold one group."""

    handles = ("GroupNormalization",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        (axis,), rank = sample_axes(emit, operation.axis, args[0]), len(args[0].shape)
        order = [a for a in range(rank) if a != axis] + [axis]
        made = self._of_last(emit, operation, permuted(emit, args[0], order, "channels_last"))
        return permuted(emit, made, [order.index(a) for a in range(rank)], "channels_restored")

    def _of_last(self, emit: Emitter, operation: Any, tensor: Tensor) -> Tensor:
        *space, channels = tensor.shape[1:]
        groups, places = operation.groups, int(np.prod(space, dtype=np.int64))
        size = channels // groups
        rows = permuted(emit, reshaped(emit, tensor, (places, groups, size), "groups"), (0, 2, 1, 3), "groups_first")
        rows = reshaped(emit, rows, (groups, places * size), "rows")
        normal = normalized(emit, rows, None, None, operation.epsilon, centered=True)
        normal = permuted(emit, reshaped(emit, normal, (groups, places, size), "places"), (0, 2, 1, 3), "places_first")
        normal = reshaped(emit, normal, (*space, channels), "restored")
        return _scaled(emit, normal, operation.gamma, operation.beta)


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
        layer_norm = type(operation).__name__ == "LayerNorm"
        names = ("x", "gamma", "beta") if layer_norm else ("x", "scale")
        given = {**operation.get_config(), **dict(zip(names, args, strict=False)), **kwargs}
        axis, epsilon = given.get("axis", -1), given.get("epsilon")
        epsilon = keras.backend.epsilon() if epsilon is None else float(epsilon)
        if not layer_norm:
            return _root_mean_square(emit, args[0], axis, given.get("scale"), epsilon)
        rms_scaling = bool(given.get("rms_scaling", False))
        return _layer_normalized(emit, args[0], axis, given.get("gamma"), given.get("beta"), epsilon, rms_scaling)


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
        if all(of_channels(args[0], v) for v in (factor, offset)):
            return emit.affine(args[0], factor, offset, name="affine")
        return combine(emit, "add", combine(emit, "multiply", args[0], factor), offset)
