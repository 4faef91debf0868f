"""Values of named layers while a model runs: nested, wrapped and subclassed ones, without a second pass."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from keras_compress.core import keras_private
from keras_compress.core.quiet import ignored_warnings
from keras_compress.core.suggest import did_you_mean
from keras_compress.graph import parts
from keras_compress.graph.graph import children, functional
from keras_compress.graph.trace import as_graph

Shape = tuple[int | None, ...]


def layer_named(model: keras.Model, name: str) -> keras.layers.Layer:
    """The layer of a name or path, wherever in the model it is held; a nested model or block too.

    Raises:
        ValueError: For a name that no layer has, or several.
    """
    found = dict(_all_layers(model, "", set()))
    if name in found:
        return found[name]
    named = [path for path, layer in found.items() if layer.name == name]
    if len(named) > 1:
        raise ValueError(f"Expected a layer's name that is the only one, or its path. Received: {name!r} for {named}")
    if not named:
        raise ValueError(
            f"Expected a layer of {model.name!r}. Received: {name!r}{did_you_mean(name, list(found))}, which has "
            f"{list(found)[:30]}"
        )
    return found[named[0]]


def _all_layers(layer: keras.layers.Layer, prefix: str, seen: set[int]) -> Iterator[tuple[str, keras.layers.Layer]]:
    for reference, each in children(layer):
        if id(each) in seen:
            continue
        seen.add(id(each))
        path = prefix + parts.path_of(reference)
        yield path, each
        yield from _all_layers(each, path + "/", seen)


class Watch:
    """Runs a model and keeps what some of its layers give.

    A layer's `call` is exchanged while the model runs and is the layer's own behind it. Replicas of a distribution
    strategy, which are threads that take turns, each keep their own values.

    Args:
        model: A built model.
        names: Names or paths of layers.

    Raises:
        ValueError: For a name that no layer has, or several.
    """

    def __init__(self, model: keras.Model, names: Sequence[str]) -> None:
        self.model = model
        self.names = list(names)
        self._layers = [layer_named(model, name) for name in names]
        self._lock = threading.Lock()
        self._running = 0
        self._kept = threading.local()

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, list[Any]]:
        """What the model gives, and the layers, in the order of their names.

        Raises:
            ValueError: For a layer that was not called, or more than once, or gives several tensors.
        """
        if not self._layers:
            return self.model(inputs, **kwargs), []
        self._kept.values = [[] for _ in self._layers]
        with self._exchanged():
            outputs = self.model(inputs, **kwargs)
        values, self._kept.values = self._kept.values, None
        for name, calls in zip(self.names, values, strict=True):
            tensors = [each for call in calls for each in tree.flatten(call)]
            if len(tensors) != 1:
                raise ValueError(
                    f"Expected a layer that is called once and gives one tensor. Received: {name!r} of "
                    f"{self.model.name!r}, called {len(calls)} times, with {len(tensors)} tensors"
                )
        return outputs, [tree.flatten(calls[0])[0] for calls in values]

    @contextmanager
    def _exchanged(self) -> Iterator[None]:
        with self._lock:
            self._running += 1
            if self._running == 1:
                for number, layer in enumerate(self._layers):
                    keras_private.set_call(layer, self._seen(number, layer.call))
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if self._running == 0:
                    for layer in self._layers:
                        keras_private.reset_call(layer)

    def _seen(self, number: int, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def watched(*args: Any, **kwargs: Any) -> Any:
            made = call(*args, **kwargs)
            values = getattr(self._kept, "values", None)
            if values is not None:
                values[number].append(made)
            return made

        return watched

    def shapes(self) -> list[Shape]:
        """Shapes of the layers' values, the batch first, whose size is not known.

        Raises:
            ValueError: For a subclassed model that has not kept the shapes of its inputs.
        """
        if not self._layers:
            return []
        graph = as_graph(self.model)
        found: list[Shape] = []

        def trace(*tensors: Any) -> None:
            _, values = self.run(_structured(graph, tensors), training=False)
            found[:] = [(None, *value.shape[1:]) for value in values]

        specs = [tf.TensorSpec((None, *t.shape[1:]), t.dtype) for t in graph.inputs]
        # Ranges that no batch has set yet are said where values count.
        with ignored_warnings("(?s).*has seen no training batch"):
            tf.function(trace, autograph=False).get_concrete_function(*specs)
        return found


def _structured(graph: keras.Model, tensors: Sequence[Any]) -> Any:
    return tree.pack_sequence_as(keras_private.inputs_structure(functional(graph)), list(tensors))
