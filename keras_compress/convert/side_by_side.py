"""The same data through a trained model and its frozen one, call by call, with rounding switched on or off.

Nothing is traced: a few samples through a graph take less time than tracing it once.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_compress.convert import fold
from keras_compress.convert.final_grid import ends_of
from keras_compress.convert.lstm.layers import FusedLSTM
from keras_compress.core.transform import IntegerWeight
from keras_compress.core.wrapper import Compressed
from keras_compress.data.samples import first_of
from keras_compress.graph import graph
from keras_compress.graph.input_points import input_points_apart
from keras_compress.graph.model import slots_in
from keras_compress.graph.trace import as_graph
from keras_compress.quantizers.activation import FixedGrid, QuantizeActivation
from keras_compress.quantizers.round_average import RoundAverage

Array = NDArray[Any]
BATCH_SIZE = 64
Tensor = Any
Kept = dict[str, Array]
# What stands at a point, from its name, itself and its input.
AtPoint = Callable[[str, QuantizeActivation, Tensor], Tensor]


def flat_name(call: graph.Call) -> str:
    """The name that a call has in a frozen model."""
    return call.path.replace("/", ".") + (f".call{call.index}" if call.index else "")


@dataclass(frozen=True)
class Values:
    """What one run gave.

    Attributes:
        outputs: One array for each output.
        kept: Name of a call -> what it made, for those that were watched.
    """

    outputs: list[Array]
    kept: Kept


@dataclass
class _Run:
    """Visitor that computes."""

    at_point: AtPoint
    watched: frozenset[str] = frozenset()
    # Whether means are rounded to the grid of their values.
    rounds: bool = True
    # Name of a call -> grid to put what it makes on.
    grids: Mapping[str, FixedGrid] = field(default_factory=dict)
    # The weights of a wrapper, by its name, where they are not its own.
    weights: Callable[[str, Compressed], list[tuple[keras.Variable, Any]]] | None = None
    # What an LSTM that is one operator makes of its input.
    lstm: Callable[[FusedLSTM, Tensor], Tensor] = FusedLSTM.__call__
    kept: Kept = field(default_factory=dict)

    def of(self, model: keras.Model, inputs: Sequence[Array]) -> Values:
        outputs = graph.Rebuild(self._visit, flat=True).run(model, self._entered(model, inputs), "", 0)
        return Values([np.asarray(value) for value in keras.tree.flatten(outputs)], self.kept)

    def some(self, model: keras.Model, inputs: Sequence[Array], calls: list[Any], values: dict[int, Tensor]) -> None:
        """Run some calls of a model only, behind tensors whose values are given; what they make is entered there."""
        values.update(zip(map(id, model.inputs), self._entered(model, inputs), strict=True))
        graph.Rebuild(self._visit).run_calls(calls, values, [t for node in calls for t in node.outputs])

    def _entered(self, model: keras.Model, inputs: Sequence[Array]) -> list[Tensor]:
        tensors = [tf.convert_to_tensor(a, t.dtype) for a, t in zip(inputs, model.inputs, strict=True)]
        return [self._made(t.name, value) for t, value in zip(model.inputs, tensors, strict=True)]

    def _visit(self, call: graph.Call) -> Any:
        name, operation = flat_name(call), call.operation
        if isinstance(operation, QuantizeActivation):
            return self._made(name, self.at_point(name, operation, call.args[0]))
        if isinstance(operation, RoundAverage) and not self.rounds:
            return self._made(name, call.args[0])
        if isinstance(operation, FusedLSTM):
            return self._made(name, self.lstm(operation, call.args[0]))
        if self.weights is None or not isinstance(operation, Compressed):
            return self._made(name, call.values())
        with keras.StatelessScope(state_mapping=self.weights(name, operation)):
            return self._made(name, call.values(operation.layer))

    def _made(self, name: str, outputs: Any) -> Any:
        if name in self.grids and _is_float(outputs):
            outputs = self.grids[name].plain(outputs)
        if name in self.watched and _is_float(outputs):
            self.kept[name] = np.asarray(outputs, np.float32)
        return outputs


def _is_float(outputs: Any) -> bool:
    return getattr(outputs, "dtype", None) is not None and keras.backend.is_float_dtype(outputs.dtype)


class Trained:
    """The model that was converted.

    Args:
        model: Plain, or made by this library.
        data: Representative data, which tells the dtype of a subclassed model's inputs.
    """

    def __init__(self, model: keras.Model, data: Any = None) -> None:
        self.graph = input_points_apart(as_graph(model, first_of(data)))
        layers = [(path.replace("/", "."), layer) for path, layer in graph.walk(self.graph)]
        self.points = {name: layer for name, layer in layers if isinstance(layer, QuantizeActivation)}
        # Layers all of whose weights are integers already: none of them is rounded when the model is frozen.
        self.exact = {name for name, layer in layers if isinstance(layer, Compressed) and _has_integers(layer)}
        self.rounds = bool(self.points) or any(isinstance(layer, RoundAverage) for _, layer in layers)

    def run(self, inputs: Sequence[Array], watched: frozenset[str] = frozenset()) -> Values:
        """What `predict` computes."""
        return _Run(self._as_trained, watched).of(self.graph, inputs)

    def simulated(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """What `predict` computes, on any number of samples."""
        size = BATCH_SIZE
        parts = [self.run([a[i : i + size] for a in inputs]).outputs for i in range(0, len(inputs[0]), size)]
        return tuple(np.concatenate(each) for each in zip(*parts, strict=True))

    def on_grids(self, inputs: Sequence[Array], frozen: Frozen, watched: frozenset[str]) -> Values:
        """The model's own weights, with activations on the frozen model's grids."""

        def at_point(name: str, point: QuantizeActivation, values: Tensor) -> Tensor:
            return values if name in frozen.grids else self._as_trained(name, point, values)

        return _Run(at_point, watched, grids=frozen.grids).of(self.graph, inputs)

    def unrounded(self, inputs: Sequence[Array], watched: frozenset[str]) -> Values:
        """The model with the rounding of activations switched off: without points nothing is rounded in any run."""

        def at_point(name: str, point: QuantizeActivation, values: Tensor) -> Tensor:
            return point.quantizer.unrounded(values) if point.quantizer.trained() else values

        return _Run(at_point, watched, rounds=False).of(self.graph, inputs)

    def _as_trained(self, name: str, point: QuantizeActivation, values: Tensor) -> Tensor:
        return point.quantizer(values) if point.quantizer.trained() else values

    def point(self, name: str) -> QuantizeActivation | None:
        """The point of this name, for any of its calls, where it has a range."""
        found = self.points.get(re.sub(r"\.call\d+$", "", name))
        return found if found is not None and found.quantizer.trained() else None


def _has_integers(layer: Compressed) -> bool:
    return len(layer.slot_names) == len(slots_in(layer)) and all(
        "grid" in listed[-1].promises for listed in layer.transforms.values()
    )


class Frozen:
    """A frozen model.

    Args:
        model: What `freeze` gave.
        trained: What it was made from.

    Attributes:
        points: In order, name of a point -> name of the call of the trained model that makes the same values, if any.
        grids: That name -> the grid of the values.
    """

    def __init__(self, model: keras.Model, trained: Trained) -> None:
        self.model, self._trained = model, trained
        # What is transposed behind its point holds the trained model's values in another order.
        turned = {each.name.removesuffix(".moved") for each in model.layers if isinstance(each, keras.layers.Permute)}
        points = (layer for layer in model.layers if isinstance(layer, QuantizeActivation))
        layers = [layer for layer in points if layer.name not in turned]
        self.points: dict[str, str] = {layer.name: _counterpart(layer, trained) for layer in layers}
        self._layers = layers

    @property
    def calls(self) -> frozenset[str]:
        """Names of the calls of the trained model beside the points."""
        return frozenset(self.points.values())

    @functools.cached_property
    def grids(self) -> dict[str, FixedGrid]:
        return {self.points[layer.name]: _rounded_once(layer.quantizer) for layer in self._layers}

    def run(self, inputs: Sequence[Array], watched: frozenset[str] = frozenset()) -> Values:
        """What the device computes."""
        return _Run(lambda name, point, values: point.quantizer.plain(values), watched).of(self.model, inputs)

    def unrounded(
        self, inputs: Sequence[Array], watched: frozenset[str], noise: np.random.Generator | None = None
    ) -> Values:
        """The frozen model with the rounding of activations switched off; what else a trained point is, a clip, stays.

        Args:
            inputs: One array for each input.
            watched: Names of points.
            noise: Moves each weight that was rounded, and each bias, by up to half a step.
        """
        return _Run(self._unrounded, watched, weights=self._noisy(noise), lstm=_lstm(noise)).of(self.model, inputs)

    def cut_at(self, inputs: Sequence[Array], cut: str) -> Values:
        """The same with the values at one point cut to its range.

        Args:
            inputs: One array for each input.
            cut: Name of the point.
        """

        def at_point(name: str, point: QuantizeActivation, values: Tensor) -> Tensor:
            values = self._unrounded(name, point, values)
            return keras.ops.clip(values, *ends_of(point.quantizer)) if name == cut else values

        return _Run(at_point, weights=self._noisy(None), lstm=_lstm(None)).of(self.model, inputs)

    def layer_by_layer(self, inputs: Sequence[Array], given: Mapping[str, Array]) -> Kept:
        """The same with each layer fed other values than those that the layers before it make.

        Args:
            inputs: One array for each input.
            given: Name of a point -> what the layers behind it get.

        Returns:
            Name of each such point -> what the layers before it made.
        """
        computed: Kept = {}

        def at_point(name: str, point: QuantizeActivation, values: Tensor) -> Tensor:
            values = self._unrounded(name, point, values)
            if name not in given or given[name].shape != tuple(values.shape):
                return values
            computed[name] = np.asarray(values, np.float32)
            return tf.convert_to_tensor(given[name], values.dtype)

        _Run(at_point, weights=self._noisy(None), lstm=_lstm(None)).of(self.model, inputs)
        return computed

    def moved(
        self, inputs: Sequence[Array], given: Mapping[str, Array], points: Sequence[str], noise: np.random.Generator
    ) -> Kept:
        """What `layer_by_layer` gives for some of its points with noise: the layers before these alone are run.

        Args:
            inputs: As there.
            given: As there, of points that it gave.
            points: Some of these.
            noise: As in `unrounded`.
        """
        at = {node.operation.name: node for node in graph.nodes(self.model) if node.operation.name in given}
        fed = {id(at[name].outputs[0]): tf.convert_to_tensor(values) for name, values in given.items()}
        wanted = {id(at[name].input_tensors[0]) for name in points}
        calls = []
        for node in reversed(graph.nodes(self.model)):
            made = {id(tensor) for tensor in node.outputs}
            if made & wanted and not made & set(fed):
                calls.append(node)
                wanted.update(id(tensor) for tensor in node.input_tensors)
        values = {key: value for key, value in fed.items() if key in wanted}
        _Run(self._unrounded, weights=self._noisy(noise), lstm=_lstm(noise)).some(
            self.model, inputs, calls[::-1], values
        )
        found = ((name, at[name].operation, values[id(at[name].input_tensors[0])]) for name in points)
        return {name: np.asarray(self._unrounded(name, *each), np.float32) for name, *each in found}

    def _unrounded(self, name: str, point: QuantizeActivation, values: Tensor) -> Tensor:
        before = self._trained.point(name)
        return values if before is None else before.quantizer.unrounded(values)

    def _noisy(self, rng: np.random.Generator | None) -> Callable[[str, Compressed], list[Any]]:
        return lambda _, wrapper: [(variable, weight.moved(rng)) for variable, weight in self._weights[wrapper.name]]

    @functools.cached_property
    def _weights(self) -> dict[str, list[tuple[keras.Variable, _Rounded]]]:
        """Name of a wrapper -> its variables that were rounded."""
        found = {}
        for wrapper in self.model.layers:
            if isinstance(wrapper, Compressed):
                exact = any(wrapper.name == x or wrapper.name.startswith(f"{x}.") for x in self._trained.exact)
                weights = ((s.variable(wrapper.layer), each[-1].integer_weight(None)) for s, each in wrapper.items())
                found[wrapper.name] = [(v, _Rounded.of(weight, exact)) for v, weight in weights if weight is not None]
        return found


def _lstm(rng: np.random.Generator | None) -> Callable[[FusedLSTM, Tensor], Tensor]:
    return lambda layer, values: layer.unrounded(values, rng)


def _rounded_once(grid: FixedGrid) -> FixedGrid:
    """The same grid without a kernel's own way of rounding."""
    plain = type(grid) is FixedGrid and grid.rounding == "half_even"
    return grid if plain else FixedGrid(grid.scale, grid.zero_point, grid.bits, grid.lowest)


def _counterpart(point: QuantizeActivation, trained: Trained) -> str:
    made_by: str | None = point.stands_for
    name = str(point.name)
    if trained.point(name) is not None:
        return name
    return made_by if made_by is not None and name == f"{made_by}_quantized" else name


@dataclass(frozen=True)
class _Rounded:
    """A weight that freezing rounded.

    Attributes:
        values: What it is now.
        step: What it was rounded to; it broadcasts against the values. 0 where nothing was rounded.
    """

    values: Array
    step: Array

    @classmethod
    def of(cls, weight: IntegerWeight, exact: bool) -> _Rounded:
        coarse = weight if weight.bits > 8 else fold.compact(weight)
        return cls(weight.floats(), coarse.scale * (0.0 if exact and weight.bits <= 8 else 1.0))

    def moved(self, rng: np.random.Generator | None) -> Array:
        """The values, each moved by up to half a step; as they are without noise."""
        if rng is None:
            return self.values
        return (self.values + rng.uniform(-0.5, 0.5, self.values.shape) * self.step).astype(np.float32)
