"""Calls that the intermediate graph has no operators for: TensorFlow's converter makes them, one by one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
from keras import tree

from keras_compress.convert.float_flatbuffer import ConversionError, float_model
from keras_compress.core.printable import scope_name
from keras_compress.ir.graph import Tensor
from keras_compress.tflite.flatbuffer import Graph, write_model

Made = tuple[bytes, list[tuple[tuple[int, ...], str]]]


class Islands:
    """Makes float flatbuffers of single calls; those that are alike are made once.

    Args:
        origin: The user's model, whose layers an error names.
    """

    def __init__(self, origin: keras.Model) -> None:
        self._origin = origin
        self._made: dict[str, Made] = {}
        self._refusals: list[ConversionError] = []

    def __call__(self, operation: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Made:
        """A float flatbuffer of what `operation` computes, and shapes and types of its outputs.

        Args:
            operation: Layer or Keras operation.
            args: Arguments of the call, with tensors of the intermediate graph.
            kwargs: Likewise.

        Returns:
            An empty file where TensorFlow's converter has no operators for it either: `check` tells of all such calls.
        """
        key = _key(operation, args, kwargs)
        made = self._made.get(key) if key else None
        if made is None:
            made = self._converted(operation, args, kwargs)
            if key:
                self._made[key] = made
        return made

    def check(self) -> None:
        """Refuse calls that no operators were found for.

        Raises:
            ConversionError: One line for each, and the cure.
        """
        if self._refusals:
            told = dict.fromkeys(line for error in self._refusals for line in str(error).splitlines())
            causes = [line for line in told if line.startswith("  layer ")]
            others = [line for line in told if line not in causes]
            raise ConversionError("\n".join([*others[:1], *causes, *others[1:]])) from self._refusals[0]

    def _converted(self, operation: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Made:
        flat = tree.flatten((args, kwargs))
        fed = [keras.Input(batch_shape=t.shape, dtype=t.dtype) if isinstance(t, Tensor) else t for t in flat]
        given, named = tree.pack_sequence_as((args, kwargs), fed)
        inputs = [new for old, new in zip(flat, fed, strict=True) if isinstance(old, Tensor)]
        with _plain_name(operation):
            outputs = tree.flatten(operation(*given, **named))
            try:
                model = float_model(keras.Model(inputs, outputs, name=self._origin.name), self._origin)
            except ConversionError as error:
                self._refusals.append(error)
                return b"", [(tuple(n or 1 for n in t.shape), str(t.dtype)) for t in outputs]
        graph = Graph(model)
        specs = [(graph.shape(t), graph.dtype(t)) for t in graph.outputs]
        return write_model(model), specs


@contextmanager
def _plain_name(operation: Any) -> Iterator[None]:
    """A name that TensorFlow takes for a scope, for a while."""
    before = operation.name
    operation.name = scope_name(before)
    try:
        yield
    finally:
        operation.name = before


def _key(operation: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """What tells calls apart, or None where settings and shapes do not."""
    flat = tree.flatten((args, dict(kwargs)))
    if getattr(operation, "variables", None) or not all(isinstance(a, Tensor) for a in flat):
        return None
    if not type(operation).__module__.startswith(("keras.", "keras_compress.")):
        return None
    try:
        config = {k: v for k, v in operation.get_config().items() if k != "name"}
        text = json.dumps(config, sort_keys=True)
    except (TypeError, ValueError, NotImplementedError):
        return None
    return f"{type(operation).__module__}.{type(operation).__name__} {text} {[(t.shape, t.dtype) for t in flat]}"
