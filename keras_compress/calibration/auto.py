"""The rule for each range that does the least harm to what is computed with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from numpy.typing import NDArray

from keras_compress.calibration.observer import Observer
from keras_compress.core import affine
from keras_compress.core.affine import QuantSpec
from keras_compress.core.registry import entries
from keras_compress.data.samples import Batch, filled, fixed_batch
from keras_compress.graph import graph

Range = tuple[float, float]
Array = NDArray[Any]
# Samples that ranges are tried on, and what their values at all points may take.
_TRIED = 64
_LARGEST_BYTES = 512_000_000
_FIRST = "MinMax"


def every_rule() -> list[Observer]:
    """All observers as they are made without arguments, the one that cuts nothing first."""
    known = entries("observer")
    return [known[name]() for name in sorted(known, key=lambda name: (name != _FIRST, name))]


@dataclass(frozen=True)
class Tried:
    """What is chosen from.

    Attributes:
        owners: `id` of a point -> number of its range: some points share one.
        ranges: For each range, what the rules say, the first cutting nothing.
        specs: For each range, its integers.
    """

    owners: Mapping[int, int]
    ranges: Sequence[Sequence[Range]]
    specs: Sequence[QuantSpec]


def samples_to_try(model: keras.Model) -> int:
    """How many samples ranges are tried on, at most: what stands at all points is held at once."""
    made = [tensor for node in graph.nodes(model) for tensor in node.outputs]
    values = sum(math.prod(n or 1 for n in tensor.shape[1:]) for tensor in made)
    return max(1, min(_TRIED, _LARGEST_BYTES // (4 * max(values, 1))))


def best_ranges(model: keras.Model, tried: Tried, arrays: Batch, run: graph.Visitor) -> list[Range]:
    """For each range the one with which what reads it is closest to what it reads unrounded.

    All points are tried in one pass: at each reader, with each range of what it reads, all else being unrounded. Where
    the model's outputs are then closer with the ranges that cut nothing, it is those.

    Args:
        model: Functional model without nested models.
        tried: What is chosen from.
        arrays: A few samples, one array for each input.
        run: How the calls that are no points are run.
    """
    inputs = [tf.constant(array) for array in filled(arrays, fixed_batch(model) or 1)]
    inputs = [value[: fixed_batch(model)] if fixed_batch(model) else value for value in inputs]
    readers = _Readers(tried, run)
    exact = _outputs(graph.Rebuild(readers.visit).run(model, inputs, "", 0))
    readers.at_outputs(model)
    chosen = [ranges[int(np.argmin(errors))] for ranges, errors in zip(tried.ranges, readers.errors, strict=True)]
    widest = [ranges[0] for ranges in tried.ranges]
    errors = [_error_of(model, tried, each, inputs, exact, run) for each in (widest, chosen)]
    return chosen if errors[1] < errors[0] else widest


class _Readers:
    """Visitor that runs each reader of a point with all ranges that were found for it."""

    def __init__(self, tried: Tried, run: graph.Visitor) -> None:
        self._tried, self._run = tried, run
        self._values: dict[int, tuple[int, Any]] = {}
        self.errors = [np.zeros(len(ranges)) for ranges in tried.ranges]

    def visit(self, call: graph.Call) -> Any:
        owner = self._tried.owners.get(id(call.operation))
        if owner is not None:
            self._values[id(call.node.outputs[0])] = (owner, call.args[0])
            return call.args[0]
        made = self._run(call)
        known = [self._values[id(t)] for t in call.node.input_tensors if id(t) in self._values]
        for owner, values in known:
            self._try(call, owner, values, _outputs(made))
        return made

    def at_outputs(self, model: keras.Model) -> None:
        """Points that are outputs of the model, by their own error."""
        for tensor in graph.functional(model).outputs:
            if id(tensor) in self._values:
                owner, values = self._values[id(tensor)]
                spec = self._tried.specs[owner]
                found = [_rounded(values, tried, spec) for tried in self._tried.ranges[owner]]
                self.errors[owner] += [_relative([each], [values]) for each in found]

    def _try(self, call: graph.Call, owner: int, values: Any, exact: Sequence[Any]) -> None:
        # Equal ranges, which are many where nothing is worth cutting, are run once.
        errors: dict[Range, float] = {}
        for tried in self._tried.ranges[owner]:
            if tried not in errors:
                rounded = _rounded(values, tried, self._tried.specs[owner])
                args, kwargs = tree.map_structure(
                    lambda each, rounded=rounded: rounded if each is values else each, (call.args, call.kwargs)
                )
                made = _outputs(self._run(replace(call, args=args, kwargs=kwargs)))
                errors[tried] = _relative(made, exact)
        self.errors[owner] += [errors[tried] for tried in self._tried.ranges[owner]]


def _error_of(
    model: keras.Model, tried: Tried, ranges: Sequence[Range], inputs: Sequence[Any], exact: Sequence[Any], run: Any
) -> float:
    """Square error of the model's outputs with some ranges, relative to each output's own square."""

    def visit(call: graph.Call) -> Any:
        owner = tried.owners.get(id(call.operation))
        return run(call) if owner is None else _rounded(call.args[0], ranges[owner], tried.specs[owner])

    made = _outputs(graph.Rebuild(visit).run(model, list(inputs), "", 0))
    return _relative(made, exact)


def _relative(made: Sequence[Any], exact: Sequence[Any]) -> float:
    """Square error of tensors, each relative to its own square."""
    return sum(_squares(a, b) / max(_squares(b, tf.zeros_like(b)), 1e-30) for a, b in zip(made, exact, strict=True))


def _outputs(made: Any) -> list[Any]:
    return [each for each in tree.flatten(made) if getattr(each, "dtype", None) is not None and each.dtype.is_floating]


def _rounded(values: Any, ends: Range, spec: QuantSpec) -> Any:
    scale, zero_point = (
        float(each) for each in affine.affine_parameters(np.float32(ends[0]), np.float32(ends[1]), spec)
    )
    return affine.fake_quantize(values, scale, zero_point, spec)


def _squares(values: Any, exact: Any) -> float:
    return float(tf.reduce_sum(tf.square(tf.cast(values, tf.float32) - tf.cast(exact, tf.float32))))
