"""Which channels of which weights change together when a channel is scaled, or moved by a constant.

The channel graph of structured pruning ties channels that are removed together. A depthwise convolution ties its inputs
to its outputs there, but scales them apart; and a tanh lets channels be removed, but not be scaled. So the walk and
most of its rules are the same, and the differences are here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.quantizers.kinds import activation_name
from keras_compress.structured.channel_ids import Axes, Ids
from keras_compress.structured.dependency import Walk
from keras_compress.structured.rules.rule import Visit, outputs_of, shape_of

_POOLINGS = [f"{kind}Pooling{n}D" for kind in ("Max", "Average", "GlobalMax", "GlobalAverage") for n in (1, 2, 3)]
_MOVES = [f"{kind}{n}D" for kind in ("Cropping", "UpSampling", "SpatialDropout") for n in (1, 2, 3)]
# What gives f(s x) = s f(x) for s > 0, and f(x + c) = f(x) + c, for each channel.
MOVING = frozenset(
    [*_POOLINGS, *_MOVES, "Flatten", "Reshape", "Permute", "Dropout", "GaussianNoise", "GaussianDropout"]
    + ["AlphaDropout", "ActivityRegularization", "Identity", "Concatenate"]
)
# What gives the first alone, all inputs being scaled alike.
SCALED = MOVING | {f"ZeroPadding{n}D" for n in (1, 2, 3)} | {"Add", "Subtract", "Average", "Maximum", "Minimum"}
_CHANNELWISE = ("DepthwiseConv1D", "DepthwiseConv2D")
_SEPARABLE = ("SeparableConv1D", "SeparableConv2D")
_WHOLE = (
    *("Dense", "Conv1D", "Conv2D", "Conv3D", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
    *_CHANNELWISE,
    *_SEPARABLE,
)
_ACTIVATIONS = ("Activation", "ReLU", "LeakyReLU", "PReLU", "Relu", "Relu6", "LeakyRelu")


@dataclass(frozen=True)
class ChannelAxes:
    """Axes of a weight whose indices are channels.

    Attributes:
        path: Path of the layer.
        layer: The layer.
        variable: The weight.
        axes: Its axes, non-negative.
        ids: An id for each index, in the shape of these axes.
        reads: Whether the channels are those that the layer reads; otherwise those it makes.
        ranged: Whether it is a weight with a range to be quantized; biases and normalizations have none.
    """

    path: str
    layer: keras.layers.Layer
    variable: Any
    axes: tuple[int, ...]
    ids: Ids
    reads: bool
    ranged: bool

    def broadcast(self, vector: NDArray[Any], units: NDArray[Any]) -> NDArray[Any]:
        """A vector over units in a shape that broadcasts against the weight."""
        shape = [n if axis in self.axes else 1 for axis, n in enumerate(self.variable.shape)]
        return np.reshape(vector[units[self.ids]], shape)


@dataclass(frozen=True)
class Clip:
    """A call that clips from above: its ceiling has to follow the scale of its channels."""

    ids: Ids
    ceiling: float


@dataclass
class ChannelWalk:
    """A walk through a model that asks of every call how channels pass it.

    Args:
        moves: Names of Keras's classes that channels pass as they are.
        activations: Whether channels pass an activation: of a layer, or an operation.
        clips: Whether they pass ReLUs with a ceiling, which then have to be changed.
        norms: Whether they pass BatchNormalizations.
        reads: Whether a weighted layer may read channels.
    """

    moves: frozenset[str]
    activations: Callable[[Any], bool]
    clips: bool
    norms: bool
    reads: Callable[[Any], bool] = lambda layer: True
    found: dict[tuple[int, tuple[int, ...], bool], ChannelAxes] = field(default_factory=dict)
    clipped: dict[int, Clip] = field(default_factory=dict)
    units: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    reasons: dict[int, str] = field(default_factory=dict)

    def run(self, model: keras.Model) -> ChannelWalk:
        """Walk through a graph."""
        self._walk = Walk(allow_inexact=False, outputs=self._outputs)
        self._walk.whole(model)
        self.units, self.reasons = self._walk.ids.units()
        for each in self._walk.weights.values():
            if each is not None and each.role in ("in", "out"):
                reads = each.role == "in"
                self._keep(each.path, each.layer, each.variable, (each.axis,), each.ids, reads)
        return self

    @property
    def free(self) -> NDArray[np.bool_]:
        """For each unit, whether nothing keeps it as it is."""
        free = np.ones(int(self.units.max(initial=-1)) + 1, bool)
        free[list(self.reasons)] = False
        return free

    def _keep(
        self, path: str, layer: Any, variable: Any, axes: Sequence[int], ids: Ids, reads: bool, ranged: bool = True
    ) -> None:
        """Note axes of a weight; a layer that is called again has to be changed in the same way."""
        if variable is None:
            return
        rank = len(variable.shape)
        own = tuple(axis % rank for axis in axes)
        key = (id(variable), own, reads)
        if key in self.found:
            self._walk.ids.tie(self.found[key].ids.reshape(-1), ids.reshape(-1))
            return
        self.found[key] = ChannelAxes(path, layer, variable, own, ids, reads, ranged and rank > 1)

    def _outputs(self, visit: Visit) -> list[Axes]:
        operation = visit.operation
        name = type(operation).__name__ if type(operation).__module__.startswith("keras.") else ""
        if getattr(operation, "lora_enabled", False):
            return visit.freeze_all("has a LoRA")
        if name in _WHOLE:
            return self._weighted(visit, name)
        if name == "BatchNormalization" and self.norms:
            return self._norm(visit)
        if name in _ACTIVATIONS:
            return self._activation(visit)
        if name in self.moves and not visit.constants() and _only_tensors(visit):
            return outputs_of(visit)
        return visit.freeze_all(f"is a {type(operation).__name__}, which channels do not pass unchanged")

    def _weighted(self, visit: Visit, name: str) -> list[Axes]:
        layer = visit.operation
        if not self.reads(layer):
            visit.freeze_axes(0, f"{visit.path} does not read all positions alike")
        if getattr(layer, "groups", 1) != 1:
            made = self._grouped(visit)
        elif name in _CHANNELWISE:
            made = self._channelwise(visit)
        elif name in _SEPARABLE:
            made = self._separable(visit)
        else:
            made = outputs_of(visit)[0]
        self._after(visit, layer, made)
        return [made]

    def _after(self, visit: Visit, operation: Any, made: Axes) -> None:
        """What an activation does to channels, be it a layer's own or a call of its own."""
        ceiling = ceiling_of(operation)
        if ceiling is not None and self.clips and set(made) <= {len(visit.output_shape) - 1}:
            for ids in made.values():
                self.clipped[id(visit.outputs[0])] = Clip(ids, ceiling)
        elif ceiling is not None or not self.activations(operation):
            for ids in made.values():
                visit.freeze(ids, f"{visit.path} has an activation that they do not pass unchanged")

    def _activation(self, visit: Visit) -> list[Axes]:
        made = outputs_of(visit)
        self._after(visit, visit.operation, made[0])
        return made

    def _grouped(self, visit: Visit) -> Axes:
        visit.freeze_axes(0, f"{visit.path} reads it in groups")
        layer = visit.operation
        out = visit.channels(layer.filters)
        self._keep(visit.path, layer, layer.kernel, (-1,), out, reads=False)
        self._keep(visit.path, layer, layer.bias, (0,), out, reads=False)
        return {len(visit.output_shape) - 1: out}

    def _channelwise(self, visit: Visit) -> Axes:
        layer = visit.operation
        self._read(visit, layer.kernel)
        out = visit.channels(int(np.prod(layer.kernel.shape[-2:])))
        self._keep(visit.path, layer, layer.kernel, (-2, -1), out.reshape(layer.kernel.shape[-2:]), reads=False)
        self._keep(visit.path, layer, layer.bias, (0,), out, reads=False)
        return {len(visit.output_shape) - 1: out}

    def _separable(self, visit: Visit) -> Axes:
        layer = visit.operation
        depthwise, pointwise = layer.depthwise_kernel, layer.pointwise_kernel
        self._read(visit, depthwise)
        between = visit.channels(int(pointwise.shape[-2]), "between")
        self._keep(visit.path, layer, depthwise, (-2, -1), between.reshape(depthwise.shape[-2:]), reads=False)
        self._keep(visit.path, layer, pointwise, (-2,), between, reads=True)
        out = visit.channels(layer.filters)
        self._keep(visit.path, layer, pointwise, (-1,), out, reads=False)
        self._keep(visit.path, layer, layer.bias, (0,), out, reads=False)
        return {len(visit.output_shape) - 1: out}

    def _read(self, visit: Visit, kernel: Any) -> None:
        came = visit.only_last("takes it for an axis of the image")
        visit.weight(kernel, -2, came, "in")

    def _norm(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        last = len(visit.shape) - 1
        if layer.axis % len(visit.shape) != last or not layer.scale:
            return visit.freeze_all("normalizes it")
        came = visit.only_last("takes statistics over it")
        out = visit.channels(int(visit.shape[-1] or 0))
        for variable in (layer.gamma, layer.beta):
            self._keep(visit.path, layer, variable, (0,), out, reads=False, ranged=False)
        if came is not None:
            self._keep(visit.path, layer, layer.gamma, (0,), came, reads=True, ranged=False)
            # (s x' - mean) = s (x' - mean / s): the mean goes with what is normalized.
            self._keep(visit.path, layer, layer.moving_mean, (0,), came, reads=False, ranged=False)
        return [{last: out}]


def _only_tensors(visit: Visit) -> bool:
    """Whether no number, which has no scale, is among the operands of an operation."""
    return isinstance(visit.operation, keras.layers.Layer) or not any(
        isinstance(each, (int, float)) or shape_of(each) for each in visit.arguments if not _is_tensor(each)
    )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (keras.KerasTensor, list, tuple))


def ceiling_of(operation: Any) -> float | None:
    """The ceiling of a ReLU that has one, be it a layer's activation, a layer or an operation; else `None`."""
    if type(operation).__name__ == "ReLU":
        plain = operation.negative_slope == 0 and operation.threshold == 0
        return float(operation.max_value) if plain and operation.max_value is not None else None
    return 6.0 if activation_name(operation) == "relu6" else None


def is_homogeneous(operation: Any) -> bool:
    """Whether the activation of a layer or operation gives f(s x) = s f(x) for s > 0.

    >>> is_homogeneous(keras.layers.ReLU()), is_homogeneous(keras.layers.Dense(2, activation="tanh"))
    (True, False)
    """
    name = type(operation).__name__
    if name == "ReLU":
        return operation.threshold == 0 and operation.max_value is None
    if name in ("LeakyReLU", "PReLU", "Relu", "LeakyRelu"):
        return True
    return activation_name(operation) in (None, "relu", "leaky_relu")
