"""Layers with a kernel over their input channels: dense, convolutions, embedding."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_compress.core.registry import register
from keras_compress.structured.channel_ids import Axes, Ids
from keras_compress.structured.rules.probe import freeze_mixed
from keras_compress.structured.rules.rule import Rule, Visit


def made_channels(visit: Visit, layer: Any, out: Ids) -> list[Axes]:
    """The output axes of a layer that makes channels; an activation that mixes them freezes them."""
    made = {len(visit.output_shape) - 1: out}
    freeze_mixed(visit, getattr(layer, "activation", None), made)
    return [made]


@register("channel_rule")
class DenseRule(Rule):
    """`(..., inputs) -> (..., units)`."""

    handles = ("Dense",)

    def outputs(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        came = visit.only_last("keeps it apart from its features")
        out = visit.channels(layer.units)
        visit.weight(layer.kernel, 0, came, "in")
        visit.weight(layer.kernel, 1, out, "out")
        visit.weight(layer.bias, 0, out, "out")
        visit.setting("units", out)
        visit.product(visit.positions(visit.output_shape), came if came is not None else layer.kernel.shape[0], out)
        visit.read()
        return made_channels(visit, layer, out)


@register("channel_rule")
class ConvolutionRule(Rule):
    """Convolutions, in groups too. A group of one input channel lives and dies with its outputs.

    Wider groups lose the channels of the same positions, so that they stay equally wide.
    """

    handles = ("Conv1D", "Conv2D", "Conv3D")

    def outputs(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        came = visit.only_last("takes it for an axis of the image")
        out = visit.channels(layer.filters)
        read = self._inputs_of_a_group(visit, came, out)
        kernel = layer.kernel
        visit.weight(kernel, -2, read, "in")
        visit.weight(kernel, -1, out, "out")
        visit.weight(layer.bias, 0, out, "out")
        visit.setting("filters", out)
        taps = int(np.prod(kernel.shape[:-2]))
        width = read if read is not None else kernel.shape[-2]
        visit.product(visit.positions(visit.output_shape) * taps, width, out)
        visit.read()
        return made_channels(visit, layer, out)

    def _inputs_of_a_group(self, visit: Visit, came: Ids | None, out: Ids) -> Ids | None:
        layer = visit.operation
        if layer.groups == 1:
            return came
        if came is None:
            visit.freeze(out, f"{visit.path} reads groups of fixed width")
            return None
        if layer.kernel.shape[-2] == 1:
            visit.tie(np.repeat(came, layer.filters // layer.groups), out)
            visit.setting("groups", came)
            return None
        visit.record.ids.tie_rows(came, layer.groups)
        visit.record.ids.tie_rows(out, layer.groups)
        return came[: layer.kernel.shape[-2]]


@register("channel_rule")
class TransposedConvolutionRule(Rule):
    """Transposed convolutions, whose kernels are `(..., outputs, inputs)`."""

    handles = ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")

    def outputs(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        came = visit.only_last("takes it for an axis of the image")
        out = visit.channels(layer.filters)
        visit.weight(layer.kernel, -1, came, "in")
        visit.weight(layer.kernel, -2, out, "out")
        visit.weight(layer.bias, 0, out, "out")
        visit.setting("filters", out)
        taps = int(np.prod(layer.kernel.shape[:-2]))
        visit.product(visit.positions(visit.shape) * taps, came if came is not None else layer.kernel.shape[-1], out)
        visit.read()
        return made_channels(visit, layer, out)


@register("channel_rule")
class DepthwiseConvolutionRule(Rule):
    """Each input channel has its own outputs, and takes them with it."""

    handles = ("DepthwiseConv1D", "DepthwiseConv2D")

    def outputs(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        came = visit.only_last("takes it for an axis of the image")
        out = None if came is None else np.repeat(came, layer.depth_multiplier)
        visit.weight(layer.kernel, -2, came, "through")
        visit.weight(layer.bias, 0, out, "through")
        taps = int(np.prod(layer.kernel.shape[:-2])) * layer.depth_multiplier
        visit.product(visit.positions(visit.output_shape) * taps, came if came is not None else layer.kernel.shape[-2])
        return [{}] if out is None else made_channels(visit, layer, out)


@register("channel_rule")
class SeparableConvolutionRule(Rule):
    """A depthwise and a 1x1 convolution in one."""

    handles = ("SeparableConv1D", "SeparableConv2D")

    def outputs(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        came = visit.only_last("takes it for an axis of the image")
        between = None if came is None else np.repeat(came, layer.depth_multiplier)
        out = visit.channels(layer.filters)
        visit.weight(layer.depthwise_kernel, -2, came, "in")
        visit.weight(layer.pointwise_kernel, -2, between, "in")
        visit.weight(layer.pointwise_kernel, -1, out, "out")
        visit.weight(layer.bias, 0, out, "out")
        visit.setting("filters", out)
        positions = visit.positions(visit.output_shape)
        depthwise, pointwise = layer.depthwise_kernel.shape, layer.pointwise_kernel.shape
        width = came if came is not None else depthwise[-2]
        visit.product(positions * int(np.prod(depthwise[:-2])) * layer.depth_multiplier, width)
        visit.product(positions, between if between is not None else pointwise[-2], out)
        visit.read()
        return made_channels(visit, layer, out)


@register("channel_rule")
class EmbeddingRule(Rule):
    """`(...) -> (..., width)`."""

    handles = ("Embedding",)

    def outputs(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        visit.freeze_axes(0, f"{visit.path} looks it up")
        out = visit.channels(layer.output_dim)
        visit.weight(layer.embeddings, 1, out, "out")
        visit.setting("output_dim", out)
        return [{len(visit.output_shape) - 1: out}]
