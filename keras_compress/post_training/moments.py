"""Mean, spread and range of each channel at every tensor of a model, from the statistics of BatchNormalizations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import tree
from numpy.typing import NDArray

from keras_compress.graph import graph as keras_graph
from keras_compress.graph.model import inner
from keras_compress.post_training.channel_walk import ceiling_of
from keras_compress.post_training.fold_batch_norms import statistics_of
from keras_compress.post_training.record import ChannelStatistics
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.quantizers.kinds import Kind, activation_name, kind_of_call

Vector = NDArray[np.float64]
# Points at which an activation is integrated, from -8 to 8 standard deviations.
_POINTS = 257
_GRID = np.linspace(-8.0, 8.0, _POINTS)


@dataclass(frozen=True)
class Moments:
    """What is known of the channels on the last axis of a tensor; `None` where it is not.

    Attributes:
        mean: Of each channel.
        variance: Of each channel.
        low: Lowest value of each channel that counts.
        high: Highest one.
        normal: Whether the channels are normally distributed.
        rectified: Statistics of normal channels, of which a ReLU left these; `None` for others.
    """

    mean: Vector | None = None
    variance: Vector | None = None
    low: Vector | None = None
    high: Vector | None = None
    normal: bool = False
    rectified: ChannelStatistics | None = None

    def each(self, change: Callable[[Vector], Vector]) -> Moments:
        """With something done to each of the vectors, such as repeating it."""
        mean, variance, low, high = (None if v is None else change(v) for v in self.vectors())
        return Moments(mean, variance, low, high, self.normal)

    def vectors(self) -> tuple[Vector | None, Vector | None, Vector | None, Vector | None]:
        """Mean, variance, low and high."""
        return self.mean, self.variance, self.low, self.high

    @property
    def ranged(self) -> bool:
        """Whether the range is known."""
        return self.low is not None and self.high is not None


UNKNOWN = Moments()


def normal(statistics: ChannelStatistics, sigmas: float) -> Moments:
    """Normally distributed channels, whose range is `mean +- sigmas * std`."""
    mean, std = statistics.mean, statistics.std
    return Moments(mean, std**2, mean - sigmas * std, mean + sigmas * std, normal=True)


def clipped_normal(
    mean: Vector, std: Vector, low: float | Vector = 0.0, high: float | Vector = np.inf
) -> tuple[Vector, Vector]:
    """Mean and variance of a normal variable that is clipped to `[low, high]`, as by ReLU and ReLU6.

    With `a = (low - mean) / std`, `b = (high - mean) / std` and the normal density phi and distribution Phi, the mean
    is `std (phi(a) - phi(b)) + mean (Phi(b) - Phi(a)) + low Phi(a) + high (1 - Phi(b))`; for a ReLU
    `gamma phi(-beta / gamma) + beta (1 - Phi(-beta / gamma))`.

    **Reference**: Nagel et al., "Data-free quantization through weight equalization and bias correction" (2019),
    equation 19 and appendix C.

    >>> mean, variance = clipped_normal(np.zeros(1), np.ones(1))
    >>> round(float(mean[0]), 6), round(float(variance[0]), 6)
    (0.398942, 0.340845)
    """
    from scipy.special import ndtr  # scipy is slow to import

    mean, std = np.asarray(mean, np.float64), np.maximum(np.asarray(std, np.float64), 1e-30)
    a, b = (low - mean) / std, (high - mean) / std
    below, above = ndtr(a), ndtr(-b)
    within = 1.0 - below - above
    # An end at infinity has no part: 0 * inf is nothing here.
    ends = (np.where(np.isfinite(a), low, 0.0), np.where(np.isfinite(b), high, 0.0))
    tails = (np.where(np.isfinite(a), a, 0.0) * _density(a), np.where(np.isfinite(b), b, 0.0) * _density(b))
    first = std * (_density(a) - _density(b)) + mean * within + ends[0] * below + ends[1] * above
    second = (mean**2 + std**2) * within + 2 * mean * std * (_density(a) - _density(b)) + std**2 * (tails[0] - tails[1])
    second += ends[0] ** 2 * below + ends[1] ** 2 * above
    return first, np.maximum(second - first**2, 0.0)


def _density(x: Vector) -> Vector:
    return np.asarray(np.exp(-0.5 * np.square(x)) / np.sqrt(2 * np.pi))


def transformed(moments: Moments, function: Callable[[Any], Any]) -> Moments:
    """What an activation makes of normal channels, integrated numerically; of others, its range alone."""
    if moments.low is None or moments.high is None:
        return UNKNOWN
    steps = np.linspace(0.0, 1.0, _POINTS)[:, None]
    values = _applied(function, moments.low + steps * (moments.high - moments.low))
    found = Moments(low=values.min(axis=0), high=values.max(axis=0))
    if not moments.normal or moments.mean is None or moments.variance is None:
        return found
    weights = _density(_GRID)[:, None]
    weights = weights / weights.sum()
    values = _applied(function, moments.mean + _GRID[:, None] * np.sqrt(moments.variance))
    mean = (weights * values).sum(axis=0)
    return replace(found, mean=mean, variance=(weights * values**2).sum(axis=0) - mean**2)


def _applied(function: Callable[[Any], Any], values: Vector) -> Vector:
    return np.asarray(keras.ops.convert_to_numpy(function(values.astype(np.float32))), np.float64)


def moments_of(
    model: keras.Model,
    statistics: Mapping[str, ChannelStatistics],
    sigmas: float = 6.0,
    seen: Callable[[keras_graph.Call, Moments], None] | None = None,
) -> list[Moments]:
    """Moments at the outputs of a model, whose inputs are unknown.

    Args:
        model: Functional or Sequential model, plain or quantized.
        statistics: Path of a layer -> statistics of its outputs.
        sigmas: How many standard deviations from its mean a normal channel's range ends.
        seen: Called for each call, with the moments of its first input.
    """

    def visit(call: keras_graph.Call) -> Any:
        inputs = [each for each in tree.flatten((call.args, call.kwargs)) if isinstance(each, Moments)]
        if seen is not None and inputs:
            seen(call, inputs[0])
        made = _after_call(call, inputs, statistics.get(call.path), sigmas)
        made = made if _fits(made, call.node.outputs[0]) else UNKNOWN
        return [made] * len(call.node.outputs)

    functional = keras_graph.functional(model)
    rebuild = keras_graph.Rebuild(visit, flat=True)
    return list(tree.flatten(rebuild.run(model, [UNKNOWN] * len(functional.inputs), "", 0)))


def _fits(made: Moments, tensor: Any) -> bool:
    vectors = [v for v in (made.mean, made.variance, made.low, made.high) if v is not None]
    return isinstance(tensor, keras.KerasTensor) and all(len(v) == tensor.shape[-1] for v in vectors)


def _after_call(
    call: keras_graph.Call, inputs: list[Moments], known: ChannelStatistics | None, sigmas: float
) -> Moments:
    operation = inner(call.operation) if isinstance(call.operation, keras.layers.Layer) else call.operation
    if known is not None:
        return activated(operation, normal(known, sigmas))
    if isinstance(operation, keras.layers.BatchNormalization):
        return normal(statistics_of(operation), sigmas)
    if not inputs or isinstance(operation, QuantizeActivation):
        return inputs[0] if inputs else UNKNOWN
    if len(inputs) > 1:
        return _joined(operation, inputs, sigmas)
    return _moved(call, operation, inputs[0])


def activated(operation: Any, moments: Moments) -> Moments:
    """What the activation of a layer or operation makes of channels."""
    ceiling, name = ceiling_of(operation), activation_name(operation)
    if ceiling is None and name is None and not _is_leaky(operation):
        return moments
    if name == "relu" or ceiling is not None:
        return _rectified(moments, np.inf if ceiling is None else ceiling)
    if _is_leaky(operation):
        return transformed(moments, _slope_of(operation))
    function = getattr(operation, "activation", None)
    mixes = name in ("softmax", "log_softmax") or function is None or (name or "").startswith("custom_")
    return UNKNOWN if mixes else transformed(moments, function)  # type: ignore[arg-type]


def _is_leaky(operation: Any) -> bool:
    if type(operation).__name__ == "PReLU":
        # One slope for each channel.
        return bool(np.prod(operation.alpha.shape) == operation.alpha.shape[-1])
    return type(operation).__name__ in ("LeakyReLU", "LeakyRelu", "ReLU", "ELU")


def _slope_of(operation: Any) -> Callable[[Any], Any]:
    if type(operation).__name__ != "PReLU":
        return operation  # type: ignore[no-any-return]
    alpha = np.asarray(operation.alpha, np.float64).reshape(-1)
    return lambda values: np.where(values > 0, values, alpha * values)


def _rectified(moments: Moments, ceiling: float) -> Moments:
    made = Moments(
        low=None if moments.low is None else np.clip(moments.low, 0.0, ceiling),
        high=None if moments.high is None else np.clip(moments.high, 0.0, ceiling),
    )
    if not moments.normal or moments.mean is None or moments.variance is None:
        return made
    before = ChannelStatistics(moments.mean, np.sqrt(moments.variance))
    mean, variance = clipped_normal(before.mean, before.std, 0.0, ceiling)
    return replace(made, mean=mean, variance=variance, rectified=before)


def ceilings_in(call: keras_graph.Call) -> Vector | None:
    """The ceiling of each channel where a call is the minimum of a tensor and one vector; `None` for others."""
    if type(call.operation).__name__ != "Minimum" or len(call.node.arguments.args) != 2:
        return None
    ceiling = call.node.arguments.args[1]
    return np.asarray(ceiling, np.float64) if isinstance(ceiling, np.ndarray) and ceiling.ndim == 1 else None


def _below(moments: Moments, ceiling: Vector) -> Moments:
    """What a ceiling for each channel leaves of channels that a ReLU has rectified."""
    low, high = (None if v is None else np.minimum(v, ceiling) for v in (moments.low, moments.high))
    if moments.rectified is None:
        return Moments(low=low, high=high)
    mean, variance = clipped_normal(moments.rectified.mean, moments.rectified.std, 0.0, ceiling)
    return Moments(mean, variance, low, high)


def _joined(operation: Any, inputs: list[Moments], sigmas: float) -> Moments:
    name = type(operation).__name__
    if name == "Concatenate" and operation.axis == -1:
        sides: Any = zip(*(each.vectors() for each in inputs), strict=True)
        joined = (None if any(v is None for v in side) else np.concatenate(side) for side in sides)
        mean, variance, low, high = joined
        return Moments(mean, variance, low, high, all(each.normal for each in inputs))
    if name == "Add":
        return _sum(inputs, sigmas)
    return UNKNOWN


def _sum(inputs: list[Moments], sigmas: float) -> Moments:
    """Of tensors taken for independent: a sum of several is nearer to normal than they are."""
    means, variances = [each.mean for each in inputs], [each.variance for each in inputs]
    if any(v is None for v in (*means, *variances)) or not all(each.ranged for each in inputs):
        return UNKNOWN
    mean, variance = np.sum(means, axis=0), np.sum(variances, axis=0)  # type: ignore[arg-type]
    made = normal(ChannelStatistics(mean, np.sqrt(variance)), sigmas)
    lows: Any = [each.low for each in inputs]
    highs: Any = [each.high for each in inputs]
    low, high = np.maximum(made.low, np.sum(lows, axis=0)), np.minimum(made.high, np.sum(highs, axis=0))  # type: ignore[arg-type]
    return replace(made, low=low, high=high)


def _moved(call: keras_graph.Call, operation: Any, moments: Moments) -> Moments:
    name, tensor = type(operation).__name__, call.node.input_tensors[0]
    ceiling = ceilings_in(call)
    if ceiling is not None:
        return _below(moments, ceiling)
    kind = kind_of_call(operation, tensor.shape)
    if name in ("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Relu", "Relu6", "LeakyRelu"):
        return activated(operation, moments)
    if kind is Kind.MEAN:
        # The range of means is far narrower than that of what they are means of.
        return Moments(mean=moments.mean)
    if kind is Kind.AVERAGE:
        return Moments(moments.mean, None, moments.low, moments.high)
    if name in ("Flatten", "Reshape"):
        return _laid_out(call.node.outputs[0], tensor, moments)
    if "MaxPooling" in name:
        return Moments(low=moments.low, high=moments.high)
    if kind is Kind.SAME and name != "Permute" and len(call.node.outputs) == 1:
        return moments if isinstance(operation, keras.layers.Layer) else UNKNOWN
    return UNKNOWN


def _laid_out(made: Any, read: Any, moments: Moments) -> Moments:
    width, before = made.shape[-1], read.shape[-1]
    if width is None or before is None or width % before:
        return UNKNOWN
    return moments.each(lambda vector: np.tile(vector, width // before))
