"""Normalizations: by themselves for each channel, or over the channels."""

from __future__ import annotations

from typing import Any

import keras

from keras_compress.core.registry import register
from keras_compress.structured.channel_ids import Axes, Ids
from keras_compress.structured.rules.rule import Rule, Visit

INEXACT = "normalizes over it; allow_inexact=True removes it nevertheless"


def _gamma_and_beta(visit: Visit, ids: Ids | None) -> None:
    layer = visit.operation
    for variable in (getattr(layer, "gamma", None), getattr(layer, "beta", None), getattr(layer, "scale", None)):
        if isinstance(variable, keras.Variable):
            visit.weight(variable, -1, ids, "through")


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
    """Statistics over the channels, which change with their number: frozen, unless inexact cuts are allowed."""

    handles = ("LayerNormalization", "RMSNormalization")

    def outputs(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        last = len(visit.shape) - 1
        axes = {axis % len(visit.shape) for axis in _listed(layer.axis)}
        for axis, mixed in visit.inputs[0].items():
            if axis in axes and (axis != last or not visit.record.allow_inexact):
                visit.freeze(mixed, f"{visit.path} {INEXACT}")
        ids = visit.inputs[0].get(last)
        _gamma_and_beta(visit, ids)
        return [dict(visit.inputs[0])]


@register("channel_rule")
class GroupNormalizationRule(Rule):
    """Statistics over groups of channels, which stay equally wide; groups of one channel go one by one, exactly."""

    handles = ("GroupNormalization",)

    def outputs(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        last = len(visit.shape) - 1
        axis = layer.axis % len(visit.shape)
        visit.freeze_axes(0, f"{visit.path} takes statistics over it", but=axis)
        ids = visit.inputs[0].get(axis)
        single = ids is not None and layer.groups in (-1, len(ids))
        if ids is not None and not single and (axis != last or not visit.record.allow_inexact):
            visit.freeze(ids, f"{visit.path} {INEXACT}")
        _gamma_and_beta(visit, ids)
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
