"""A quantized model and the float model that it stands for, run on the same samples, call by call.

Methods that correct a model layer by layer need, at each layer, what the float model has there and what the quantized
one has, all layers before it being corrected already. Both are run once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_compress.core import keras_private
from keras_compress.core.wrapper import Compressed
from keras_compress.data.samples import peekable
from keras_compress.graph import graph
from keras_compress.graph.model import inner
from keras_compress.post_training.opened import opened, samples_for
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.quantizers.round_average import RoundAverage
from keras_compress.quantizers.weight_quantizer import WeightQuantizer

Tensor = Any
Weights = Mapping[str, Tensor]


def unquantized(wrapper: Compressed) -> dict[str, Tensor]:
    """Slot -> the weight as it comes to its first quantizer: pruned or clustered, but not rounded."""
    found = {}
    for name, transforms in wrapper.transforms.items():
        first = next((each for each in transforms if isinstance(each, WeightQuantizer)), None)
        found[name] = wrapper.weight(name, stop_before=first)
    return found


def called_with(wrapper: Compressed, weights: Weights, *args: Any, **kwargs: Any) -> Any:
    """What the layer in a wrapper makes of its inputs in inference, with other weights than its transforms give.

    Args:
        wrapper: The wrapper.
        weights: Slot -> weight.
        args: Of the layer's call.
        kwargs: Likewise.
    """
    outer = keras_private.stateless_scope()
    with keras.StatelessScope() as scope:
        if outer is not None:
            scope.state_mapping.update(outer.state_mapping)
        for slot, _ in wrapper.items():
            variable = slot.variable(wrapper.layer)
            scope.add_update((variable, ops.cast(weights[slot.name], variable.dtype)))
        return wrapper.layer(*args, **kwargs)


class Lockstep:
    """The two models, the samples, and what both have where they have been run to.

    Args:
        model: Quantized model, whose layers may be changed on the way.
        reference: Model of the same structure, whose values without any rounding are aimed at.
        data: See `keras_compress.data.batches.batches`; the first samples are taken.
        samples: How many, at most.
        round_activations: Whether the quantized model rounds its activations, or its weights alone.

    Attributes:
        calls: The calls of the quantized model, in order.
        samples: How many samples there are.

    Raises:
        ValueError: For a reference of another structure, or data that do not fit.
    """

    def __init__(
        self, model: keras.Model, reference: keras.Model, data: Any, samples: int, round_activations: bool = True
    ) -> None:
        data = peekable(data)
        self.flat, self._reference = opened(model, data), opened(reference, data)
        self.calls, self._others = graph.nodes(self.flat), graph.nodes(self._reference)
        _check_alike(self.calls, self._others, reference)
        arrays = [tf.constant(array) for array in samples_for(model, self.flat, data, samples)]
        self.samples = len(arrays[0])
        self._round = round_activations
        self._left = dict(enumerate(self.calls))
        self._quantized = {id(t): array for t, array in zip(self.flat.inputs, arrays, strict=True)}
        self._floats = {id(t): array for t, array in zip(self._reference.inputs, arrays, strict=True)}
        pairs = [(self.flat.inputs, self._reference.inputs)]
        pairs += [(mine.outputs, other.outputs) for mine, other in zip(self.calls, self._others, strict=True)]
        self._twin = {id(t): id(other) for ours, theirs in pairs for t, other in zip(ours, theirs, strict=True)}

    def __iter__(self) -> Iterator[int]:
        """Positions of the calls that were not run yet."""
        return iter(list(self._left))

    def quantized(self, tensor: Any) -> Tensor:
        """What the quantized model has at one of its tensors, where it is still to be read."""
        return self._quantized[id(tensor)]

    def float(self, tensor: Any) -> Tensor:
        """What the float model has there."""
        return self._floats[self._twin[id(tensor)]]

    def float_weights(self, positions: Sequence[int]) -> dict[int, dict[str, Tensor]]:
        """`id` of a wrapper of the quantized model -> slot -> the weight that is aimed at, in some calls."""
        pairs = [(self.calls[position].operation, self._others[position].operation) for position in positions]
        return {id(mine): unquantized(other) for mine, other in pairs if isinstance(other, Compressed)}

    def layers(self, position: int) -> list[keras.layers.Layer]:
        """The layers that a call of the quantized model and its twin run, without their wrappers."""
        return [inner(node.operation) for node in (self.calls[position], self._others[position])]

    def tried(self, position: int) -> tuple[Tensor, Tensor]:
        """What a call of the float model gives, and what it gives in the quantized one as it is now."""
        made = []
        for node, held, visit in (
            (self._others[position], self._floats, as_floats),
            (self.calls[position], self._quantized, self.visit),
        ):
            tensors = dict(held)
            graph.Rebuild(visit).run_calls([node], tensors, node.outputs)
            made.append(tensors[id(node.outputs[0])])
        return made[0], made[1]

    def inputs_of(self, positions: Sequence[int]) -> list[Any]:
        """Tensors that some calls read and do not make."""
        made = {id(t) for position in positions for t in self.calls[position].outputs}
        read = {id(t): t for position in positions for t in self.calls[position].input_tensors}
        return [tensor for key, tensor in read.items() if key not in made]

    def results_of(self, positions: Sequence[int]) -> list[Any]:
        """Tensors that some calls make, and that others, not run yet, read, or the model gives."""
        needed = {id(t) for t in self._needed(positions)}
        return [t for position in positions for t in self.calls[position].outputs if id(t) in needed]

    def run_float(self, positions: Sequence[int]) -> None:
        """Run calls of the float model."""
        calls = [self._others[position] for position in positions]
        inputs = self.inputs_of(positions)
        kept = [*self._needed(positions), *inputs]
        twins = {self._twin[id(t)] for t in kept}
        held = [t for node in self._others for t in (*node.outputs, *node.input_tensors) if id(t) in twins]
        graph.Rebuild(as_floats).run_calls(calls, self._floats, held)

    def run_quantized(self, positions: Sequence[int]) -> None:
        """Run calls of the quantized model, whose layers will not be changed any more, and go on behind them."""
        calls = [self.calls[position] for position in positions]
        graph.Rebuild(self.visit).run_calls(calls, self._quantized, self._needed(positions))
        for position in positions:
            self._left.pop(position, None)
        needed = {id(t) for t in self._needed(())}
        self._quantized = {key: value for key, value in self._quantized.items() if key in needed}
        needed = {self._twin[key] for key in needed}
        self._floats = {key: value for key, value in self._floats.items() if key in needed}

    def run(self, positions: Sequence[int]) -> None:
        """Run calls of both."""
        self.run_float(positions)
        self.run_quantized(positions)

    def visit(self, call: graph.Call) -> Any:
        """A call of the quantized model."""
        if isinstance(call.operation, QuantizeActivation) and not self._round:
            return _unrounded(call)
        return call.values()

    def _needed(self, positions: Sequence[int]) -> list[Any]:
        """Tensors that are read when some calls have been run, or are the model's outputs."""
        later = [t for position, node in self._left.items() if position not in positions for t in node.input_tensors]
        return [*later, *self.flat.outputs]


def as_floats(call: graph.Call) -> Any:
    """A call without the rounding of weights and activations."""
    operation = call.operation
    if isinstance(operation, QuantizeActivation):
        return _unrounded(call)
    if isinstance(operation, RoundAverage):
        return call.args[0]
    if not isinstance(operation, Compressed):
        return call.values()
    if all(isinstance(listed[0], WeightQuantizer) for listed in operation.transforms.values()):
        # Nothing comes before the rounding: the layer holds the weights that it is to be called with.
        return call.values(operation.layer)
    return called_with(operation, unquantized(operation), *call.args, **call.kwargs)


def _unrounded(call: graph.Call) -> Any:
    quantizer = call.operation.quantizer
    return quantizer.unrounded(call.args[0]) if quantizer.trained() else call.args[0]


def _check_alike(calls: Sequence[Any], others: Sequence[Any], reference: keras.Model) -> None:
    mine, theirs = ([type(node.operation).__name__ for node in each] for each in (calls, others))
    if mine != theirs:
        raise ValueError(
            "Expected a `reference` of the same structure as the model: the quantized model that it was made from. "
            f"Received: {reference.name!r}, with {len(theirs)} calls in place of {len(mine)}"
        )
