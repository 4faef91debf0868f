"""A subclassed model as a graph of the layers and Keras operations that its `call` runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
from keras import tree

from keras_compress.core import keras_private
from keras_compress.core.kinds_of_layers import is_user_written
from keras_compress.graph import graph
from keras_compress.graph.model import copy_layer
from keras_compress.graph.trace import as_graph, trace

CURE = (
    "write it with Keras layers and `keras.ops` in place of `tf`, without Python branches on values, and with all "
    "weights in layers; or rebuild the model with `keras.Model(inputs, outputs)`"
)


def opened(model: keras.Model) -> keras.Model:
    """The model itself where it has a graph; else a Functional copy of what its `call` does in inference.

    Layers inside keep their values and calls; they are named by their path, `encoder_conv1`. A layer that a user wrote
    is opened likewise, unless it has weights of its own or does not run on symbolic tensors: it stays a layer.

    Raises:
        ValueError: For a model with weights of its own, or whose `call` does not run on symbolic tensors.
    """
    if graph.is_graph(model):
        return model
    outer = as_graph(model)
    inputs = [keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name) for t in outer.inputs]
    outputs = graph.Rebuild(_Opening(model).visit, flat=True).run(outer, inputs, "", 0)
    return keras.Model(tree.pack_sequence_as(keras_private.inputs_structure(outer), inputs), outputs, name=model.name)


@contextmanager
def _unreadable(variables: list[keras.Variable]) -> Iterator[None]:
    """Outside their layers, weights cannot be read: a graph would hold what they are now, and train without them."""
    with keras.StatelessScope() as scope:
        for variable in variables:
            scope.state_mapping[id(variable)] = _Unreadable(variable.path)
        yield


@dataclass(frozen=True)
class _Unreadable:
    """In the place of the value of a weight."""

    path: str

    def __repr__(self) -> str:
        return f"the weight {self.path}, read outside its layer"


class _Opening:
    """Puts copies of layers in the place of layers, and what a user's layers run in the place of those."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._copies: dict[int, keras.layers.Layer] = {}
        self._taken: set[str] = set()

    def visit(self, call: graph.Call) -> Any:
        operation = call.operation
        if not isinstance(operation, keras.layers.Layer):
            made = type(operation).from_config(operation.get_config())
            made.name = self._unique(call.path)
            return call.run(made)
        if is_user_written(operation):
            try:
                return self._inside(call)
            except Exception as error:
                if operation is self._model:
                    raise self._refusal(error) from error
        if id(operation) not in self._copies:
            self._copies[id(operation)] = copy_layer(operation)
            self._copies[id(operation)].name = self._unique(call.path)
        return call.run(self._copies[id(operation)])

    def _inside(self, call: graph.Call) -> Any:
        """What the `call` of a user's layer runs, on the tensors that it was given."""
        layer = call.operation
        if keras_private.own_variables(layer):
            raise ValueError("it has weights of its own")
        flat = tree.flatten((call.args, call.kwargs))
        symbolic = [each for each in flat if isinstance(each, keras.KerasTensor)]

        def run(*fresh: Any) -> Any:
            tensors = iter(fresh)
            filled = [next(tensors) if isinstance(each, keras.KerasTensor) else each for each in flat]
            args, kwargs = tree.pack_sequence_as((call.args, call.kwargs), filled)
            if keras_private.takes_training(layer):
                # Layers inside then ask the model whether it trains.
                kwargs = {**kwargs, "training": None}
            return layer.call(*args, **kwargs)

        with _unreadable(layer.variables):
            traced = trace(run, symbolic, "traced")
        arguments = [(node.arguments.args, node.arguments.kwargs) for node in graph.nodes(traced)]
        if any(isinstance(each, keras.Variable) for each in tree.flatten(arguments)):
            raise ValueError("it computes with the weights of a layer outside that layer")
        prefix = "" if layer is self._model else call.path + "/"
        return graph.Rebuild(self.visit, flat=True).run(traced, symbolic, prefix, call.depth + 1)

    def _unique(self, path: str) -> str:
        name = base = path.replace("/", "_")
        number = 0
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._taken.add(name)
        return name

    def _refusal(self, error: Exception) -> ValueError:
        name = type(self._model).__name__
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return ValueError(
            f"Expected a model whose `call` runs on symbolic tensors: {CURE}. Received: {name} {self._model.name!r}, "
            f"whose channels cannot be traced: {first}"
        )
