"""Layers that are known to be tied to the channels they were made for, and why."""

from __future__ import annotations

from keras_compress.core.registry import register
from keras_compress.structured.channel_ids import Axes
from keras_compress.structured.rules.rule import Rule, Visit

_REASONS = {
    "Lambda": "runs code of yours, which may count on its width",
    "Masking": "leaves positions out by the values of all of it",
    "SpectralNormalization": "divides by a norm of the whole kernel, which every channel changes",
}


@register("channel_rule")
class RefusedRule(Rule):
    """Channels that come in, and those that are made, have to stay."""

    handles = tuple(_REASONS)

    def outputs(self, visit: Visit) -> list[Axes]:
        return visit.freeze_all(_REASONS[type(visit.operation).__name__])


@register("channel_rule")
class DataNormalizationRule(Rule):
    """Means and variances of data, which were measured for these channels."""

    handles = ("Normalization",)

    def outputs(self, visit: Visit) -> list[Axes]:
        visit.freeze_axes(0, f"{visit.path} has a mean and a variance for each of them, of fixed width")
        return [{} for _ in visit.outputs]
