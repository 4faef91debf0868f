"""From a model to its channel graph: one walk in which rules say what each call does with channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import tree

from keras_compress.core import keras_private
from keras_compress.core.global_state import global_state_kept
from keras_compress.graph import graph
from keras_compress.graph.model import check_model, inner
from keras_compress.structured.channel_graph import OUTPUT, ChannelGraph, Product, Reading, Setting, WeightAxis
from keras_compress.structured.channel_ids import Axes, ChannelIds, Ids
from keras_compress.structured.opened import opened
from keras_compress.structured.rules.rule import Visit, outputs_of

KerasTensor = Any


@global_state_kept()
def channel_graph(model: keras.Model, *, allow_inexact: bool = False) -> ChannelGraph:
    """The channels of a model: what belongs together, what competes, and what has to stay, with the reason.

    Args:
        model: Built model, with `channels_last` layers. Of a subclassed one, the layers and Keras operations that its
            `call` runs: the graph is then of a Functional copy, `graph.model`.
        allow_inexact: Also channels over which LayerNormalization or GroupNormalization takes its statistics: to
            remove them is not the same as to set them to zero.

    Raises:
        ValueError: For a subclassed model whose `call` does not run on symbolic tensors.
    """
    check_model(model)
    model = opened(model)
    walk = Walk(allow_inexact)
    walk.whole(model)
    units, reasons = walk.ids.units()
    return ChannelGraph(
        model,
        units,
        reasons,
        weights=[each for each in walk.weights.values() if each is not None],
        settings=walk.settings,
        inputs=walk.inputs,
        products=walk.products,
        readings=walk.readings,
        left_alone=walk.left,
        parts=walk.parts,
    )


@dataclass
class Walk:
    """Carries the channel axes of tensors through a model, and collects what the rules say.

    Args:
        allow_inexact: See `channel_graph`.
        outputs: Gives the channel axes of the outputs of a call; by default what its rule says.
    """

    allow_inexact: bool
    outputs: Callable[[Visit], list[Axes]] = outputs_of
    ids: ChannelIds = field(default_factory=ChannelIds)
    # `(id(variable), axis)` -> what is known of it; `None`: its width is fixed.
    weights: dict[tuple[int, int], WeightAxis | None] = field(default_factory=dict)
    settings: dict[int, dict[Any, Setting]] = field(default_factory=dict)
    inputs: dict[int, Axes] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    parts: list[Ids] = field(default_factory=list)
    _made: dict[tuple[int, str], Ids] = field(default_factory=dict)

    def whole(self, model: keras.Model) -> None:
        """Walk through a model, whose inputs are of fixed width and whose outputs stay as they are."""
        outer = graph.functional(model)
        found = self.run(model, [{} for _ in outer.inputs], "")
        for axes, tensor in zip(found, outer.outputs, strict=True):
            for axis, ids in axes.items():
                self.reading(tensor, axis, ids)
                self.ids.freeze(ids, OUTPUT)

    def run(self, model: keras.Model, inputs: list[Axes], prefix: str) -> list[Axes]:
        """The channel axes of the outputs of one call of a model."""
        held = graph.functional(model)
        axes = {id(t): each for t, each in zip(held.inputs, inputs, strict=True)}
        for node in graph.nodes(model):
            if any(id(t) not in axes for t in node.input_tensors):
                continue
            results = self._call(node, [axes[id(t)] for t in graph.inputs_of(node)], prefix)
            axes.update((id(t), each) for t, each in zip(node.outputs, results, strict=True))
        return [axes[id(t)] for t in tree.flatten(keras_private.outputs_structure(held))]

    def _call(self, node: Any, inputs: list[Axes], prefix: str) -> list[Axes]:
        operation = inner(node.operation)
        path = prefix + operation.name
        if graph.is_graph(operation):
            return self.run(operation, self._entering(operation, inputs, path), path + "/")
        tensors = graph.inputs_of(node)
        visit = Visit(operation, path, tensors, inputs, node.outputs, *graph.arguments_of(node), self)
        results = self.outputs(visit)
        for axes in results:
            if 0 in axes:
                self.ids.freeze(axes.pop(0), f"{path} makes the batch of it")
        return results

    def _entering(self, model: keras.Model, inputs: list[Axes], path: str) -> list[Axes]:
        """Axes of a nested model's inputs: in each call of it the same ones have to go."""
        for tensor, axes in zip(graph.functional(model).inputs, inputs, strict=True):
            self._agree(self.inputs.setdefault(id(tensor), axes), axes, f"{path} is called on inputs of fixed width")
        return inputs

    def _agree(self, known: Axes, axes: Axes, reason: str) -> None:
        for axis in known.keys() | axes.keys():
            if axis in known and axis in axes:
                self.ids.tie(known[axis], axes[axis])
            else:
                self.ids.freeze(known.get(axis, axes.get(axis)), reason)  # type: ignore[arg-type]

    def left_alone(self, path: str, reason: str) -> None:
        """Note a layer whose own channels are not known."""
        self.left.setdefault(path, reason)

    def made_by(self, operation: Any, count: int, key: str) -> Ids:
        """Ids of the channels that a layer makes, the same in each of its calls."""
        if (id(operation), key) not in self._made:
            self._made[id(operation), key] = self.ids.new(count)
        return self._made[id(operation), key]

    def weight(self, path: str, layer: Any, variable: Any, axis: int, ids: Ids | None, role: str) -> None:
        """Note what an axis of a weight is; see `Visit.weight`."""
        key = (id(variable), axis)
        if key not in self.weights:
            self.weights[key] = None if ids is None else WeightAxis(path, layer, variable, axis, ids, role)
            return
        known = self.weights[key]
        if known is not None and ids is not None:
            self.ids.tie(known.ids, ids)
        elif known is not None or ids is not None:
            kept: Any = ids if known is None else known.ids
            self.ids.freeze(kept, f"{path} is also called on values of fixed width")

    def setting(self, operation: Any, key: Any, ids: Ids, default: Ids | None) -> None:
        """Note that an entry of a configuration counts channels."""
        known = self.settings.setdefault(id(operation), {}).setdefault(key, Setting(ids, default))
        self.ids.tie(known.ids, ids)

    def product(self, constant: int, axes: tuple[Ids, ...]) -> None:
        """Count multiplications."""
        self.products.append(Product(constant, axes))

    def reading(self, tensor: KerasTensor, axis: int, ids: Ids, operation: Any = None) -> None:
        """Note a tensor whose channels are summed over."""
        self.readings.append(Reading(tensor, axis, ids, operation))
