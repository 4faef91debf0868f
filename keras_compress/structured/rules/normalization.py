"""Normalizations: by themselves for each channel, or over the channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_compress.core.registry import register
from keras_compress.structured.channel_ids import Axes
from keras_compress.structured.rules.rule import Rule, Visit

# What ends the reason where channels are to be removed.
REMOVES = "; allow_inexact=True removes it nevertheless"
INEXACT = f"normalizes over it{REMOVES}"


def _gamma_and_beta(visit: Visit, axes: Sequence[int]) -> None:
    """Say what the axes of the weights are: each has an index for each value on one axis of the input, `axes`."""
    layer = visit.operation
    for variable in (getattr(layer, "gamma", None), getattr(layer, "beta", None), getattr(layer, "scale", None)):
        if isinstance(variable, keras.Variable):
            for own, axis in enumerate(axes):
                visit.weight(variable, own, visit.inputs[0].get(axis), "through")


@register("channel_rule")
class BatchNormalizationRule(Rule):
    """Statistics of each channel alone.

    A masked channel leaves as 0 where gamma and beta are 0; without a gamma, where the mean is too.
    """

    handles = ("BatchNormalization",)

    def outputs(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        axis = layer.axis % len(visit.shape)
        visit.freeze_axes(0, f"{visit.path} takes statistics over it", but=axis)
        ids = visit.inputs[0].get(axis)
        for variable, role in (
            (layer.gamma, "through"),
            (layer.beta, "through"),
            (layer.moving_mean, "statistic" if layer.scale else "through"),
            (layer.moving_variance, "statistic"),
        ):
            visit.weight(variable, 0, ids, role)
        return [dict(visit.inputs[0])]


@register("channel_rule")
class NormalizationOverChannelsRule(Rule):
    """Statistics over some axes. Over channels, they change with their number: frozen, unless that is allowed.

    Channels on other axes are normalized each by itself, and have no part in gamma and beta.
    """

    handles = ("LayerNormalization", "RMSNormalization")

    def outputs(self, visit: Visit) -> list[Axes]:
        axes = [axis % len(visit.shape) for axis in _listed(visit.operation.axis)]
        if axes != sorted(axes):
            # Keras sorts `(-1, 1)` as it stands, and lays gamma out in the order of the tensor.
            return visit.freeze_all("normalizes over axes in an order that is not the tensor's")
        for axis, mixed in visit.inputs[0].items():
            if axis in axes and not visit.record.allow_inexact:
                visit.freeze(mixed, f"{visit.path} {INEXACT}")
        last = list(range(len(visit.shape)))[-len(axes) :]
        if type(visit.operation).__name__ == "RMSNormalization" and axes != last:
            for own, axis in enumerate(last):
                visit.weight(visit.operation.scale, own, None, "through")
                visit.freeze(
                    visit.inputs[0].get(axis), f"{visit.path} has a scale that Keras lays along it, of another"
                )
        else:
            _gamma_and_beta(visit, axes)
        return [dict(visit.inputs[0])]


@register("channel_rule")
class GroupNormalizationRule(Rule):
    """Statistics over groups of channels, which stay equally wide; groups of one channel go one by one, exactly."""

    handles = ("GroupNormalization",)

    def outputs(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        axis = layer.axis % len(visit.shape)
        visit.freeze_axes(0, f"{visit.path} takes statistics over it", but=axis)
        ids = visit.inputs[0].get(axis)
        single = ids is not None and layer.groups in (-1, len(ids))
        if ids is not None and not single and not visit.record.allow_inexact:
            visit.freeze(ids, f"{visit.path} {INEXACT}")
        _gamma_and_beta(visit, [axis])
        if single and layer.groups != -1:
            visit.setting("groups", ids)
        elif ids is not None and not single:
            visit.record.ids.tie_rows(ids, layer.groups)
        return [dict(visit.inputs[0])]


@register("channel_rule")
class UnitNormalizationRule(Rule):
    """Divided by the root of the sum of squares, to which removed channels add nothing."""

    handles = ("UnitNormalization",)

    def outputs(self, visit: Visit) -> list[Axes]:
        for axis in _listed(visit.operation.axis):
            visit.read(axis=axis)
        return [dict(visit.inputs[0])]


def _listed(axis: Any) -> list[int]:
    return list(axis) if isinstance(axis, (list, tuple)) else [axis]
