"""Points at which activations are quantized."""

from __future__ import annotations

from keras_compress.core.registry import register
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.structured.channel_ids import Axes
from keras_compress.structured.rules.rule import Rule, Visit


@register("channel_rule")
class ActivationPointRule(Rule):
    """One range for all channels: they pass through. Numbers for each channel are of fixed width."""

    handles = (QuantizeActivation,)

    def outputs(self, visit: Visit) -> list[Axes]:
        if all(len(variable.shape) == 0 for variable in visit.operation.variables):
            return [dict(visit.inputs[0])]
        return visit.freeze_all("has numbers for each channel")
