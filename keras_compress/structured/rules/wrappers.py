"""Layers that run another layer: at each position in time, or in both directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_compress.core.registry import register
from keras_compress.structured.channel_ids import Axes, ChannelIds, Ids
from keras_compress.structured.rules.rule import Record, Rule, Visit, outputs_of


@dataclass(frozen=True)
class _Inside:
    """What a rule finds out about a layer in a wrapper, as it is seen from outside.

    Attributes:
        visit: The call of the wrapper.
        name: Entry of the wrapper's configuration that has the layer; `None` if it has none.
        times: How many times the layer runs.
        shift: How many axes the wrapper's tensors have more.
    """

    visit: Visit
    name: str | None
    times: int
    shift: int

    @property
    def record(self) -> Record:
        return self.visit.record

    @property
    def ids(self) -> ChannelIds:
        return self.record.ids

    @property
    def allow_inexact(self) -> bool:
        return self.record.allow_inexact

    @property
    def parts(self) -> list[Ids]:
        return self.record.parts

    def left_alone(self, path: str, reason: str) -> None:
        self.record.left_alone(path, reason)

    def made_by(self, operation: Any, count: int, key: str) -> Ids:
        return self.record.made_by(operation, count, key)

    def weight(self, path: str, layer: Any, variable: Any, axis: int, ids: Ids | None, role: str) -> None:
        self.record.weight(path, self.visit.operation, variable, axis, ids, role)

    def setting(self, operation: Any, key: Any, ids: Ids, default: Ids | None) -> None:
        if self.name is not None:
            keys = key if isinstance(key, tuple) else (key,)
            self.record.setting(self.visit.operation, (self.name, "config", *keys), ids, default)

    def product(self, constant: int, axes: tuple[Ids, ...]) -> None:
        self.record.product(self.times * constant, axes)

    def reading(self, tensor: Any, axis: int, ids: Ids, operation: Any = None) -> None:
        self.record.reading(self.visit.tensors[0], axis + self.shift, ids, self.visit.operation)


@register("channel_rule")
class TimeDistributedRule(Rule):
    """A layer at each position in time: what its own rule says, one axis further on."""

    handles = ("TimeDistributed",)

    def outputs(self, visit: Visit) -> list[Axes]:
        for number in range(len(visit.tensors)):
            visit.freeze(visit.inputs[number].get(1), f"{visit.path} takes it for the time")
        if len(visit.tensors) > 1:
            return visit.freeze_all("runs under a mask")
        tensor = visit.tensors[0]
        step = keras.KerasTensor((tensor.shape[0], *tensor.shape[2:]), tensor.dtype)
        results = [keras.KerasTensor((t.shape[0], *t.shape[2:]), t.dtype) for t in visit.outputs]
        record = _Inside(visit, "layer", visit.shape[1] or 1, 1)
        axes = {axis - 1: ids for axis, ids in visit.inputs[0].items() if axis > 1}
        layer = visit.operation.layer
        made = outputs_of(Visit(layer, visit.path, [step], [axes], results, (step,), {}, record))
        return [{axis + 1: ids for axis, ids in each.items()} for each in made]


@register("channel_rule")
class BidirectionalRule(Rule):
    """A recurrent layer and one that goes backwards: units of the same number in both go together."""

    handles = ("Bidirectional",)

    def outputs(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        states = tree.flatten(visit.argument("initial_state"))
        half = len(states) // 2
        forward = self._direction(visit, layer.forward_layer, "layer", states[:half])
        own = "backward_layer" if "backward_layer" in layer.get_config() else None
        backward = self._direction(visit, layer.backward_layer, own, states[half:])
        if not forward[0] or not backward[0]:
            return [{} for _ in visit.outputs]
        ((axis, first),), ((_, second),) = forward[0].items(), backward[0].items()
        if len(first) != len(second):
            return visit.freeze_all("has directions of different widths")
        visit.tie(first, second)
        if layer.merge_mode is None:
            return [forward[0], backward[0], *forward[1:], *backward[1:]]
        if layer.merge_mode == "concat":
            return [{axis: np.concatenate([first, second])}, *forward[1:], *backward[1:]]
        return [{axis: first}, *forward[1:], *backward[1:]]

    def _direction(self, visit: Visit, layer: Any, name: str | None, states: list[Any]) -> list[Axes]:
        sequences = visit.argument("sequences")
        masks = [t for t in visit.tensors if t is visit.argument("mask")]
        tensors = [sequences, *(s for s in states if s is not None), *masks]
        keywords = {"initial_state": states if len(tensors) > 1 + len(masks) else None, "mask": [*masks, None][0]}
        axes = [visit.axes_of(tensor) for tensor in tensors]
        record = _Inside(visit, name, 1, 0)
        outputs = self._outputs_of_one(visit)
        path = f"{visit.path}/{layer.name}"
        return outputs_of(Visit(layer, path, tensors, axes, outputs, (sequences,), keywords, record))

    def _outputs_of_one(self, visit: Visit) -> list[Any]:
        states = len(visit.outputs) - (2 if visit.operation.merge_mode is None else 1)
        return [visit.outputs[0], *visit.outputs[len(visit.outputs) - states // 2 :]] if states else visit.outputs[:1]
