"""Normalizations: by themselves for each channel, or over the channels."""

from __future__ import annotations

from typing import Any

from keras_compress.core.registry import register
from keras_compress.structured.channel_ids import Axes, Ids
from keras_compress.structured.rules.rule import Rule, Visit


def _gamma_and_beta(visit: Visit, ids: Ids | None) -> None:
    layer = visit.operation
    for variable in (getattr(layer, "gamma", None), getattr(layer, "beta", None), getattr(layer, "scale", None)):
        if hasattr(variable, "shape"):
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

    handles = ("LayerNormalization", "RMSNormalization", "UnitNormalization", "GroupNormalization")

    def outputs(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        axes = _normalized_axes(layer, len(visit.shape))
        last = len(visit.shape) - 1
        for axis, mixed in visit.inputs[0].items():
            if axis in axes and (axis != last or not visit.record.allow_inexact):
                visit.freeze(mixed, f"{visit.path} normalizes over it; allow_inexact=True removes it nevertheless")
        ids = visit.inputs[0].get(last)
        _gamma_and_beta(visit, ids)
        if type(layer).__name__ == "GroupNormalization" and ids is not None:
            _group_normalization(visit, ids)
        return [dict(visit.inputs[0])]


def _group_normalization(visit: Visit, ids: Ids) -> None:
    """Groups stay equally wide; groups of one channel go one by one."""
    layer = visit.operation
    if layer.groups == len(ids):
        visit.setting("groups", ids)
    else:
        visit.record.ids.tie_rows(ids, layer.groups)


def _normalized_axes(layer: Any, rank: int) -> set[int]:
    if type(layer).__name__ == "GroupNormalization" and layer.groups == layer.gamma.shape[-1]:
        return set()
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    return {axis % rank for axis in axes}
