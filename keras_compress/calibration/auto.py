"""The rule for each range that does the least harm to what is computed with it, on samples that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from numpy.typing import NDArray

from keras_compress.calibration.observer import Observer
from keras_compress.calibration.record import Record
from keras_compress.core import affine
from keras_compress.core.affine import QuantSpec
from keras_compress.core.registry import entries
from keras_compress.data.samples import Batch, filled, fixed_batch
from keras_compress.graph import graph

Range = tuple[float, float]
Array = NDArray[Any]
# Samples that ranges are tried on, and what their values at all points may take.
_TRIED = 128
_LARGEST_BYTES = 512_000_000
# Fewer are tried as a whole: half of them would say nothing of the others.
_FEWEST = 16
# Relative square error of a reader at which no other range is worth the time.
_GOOD = 1e-3
_FIRST = "MinMax"
# Real inputs go further than some that were seen: the rule that cuts nothing is tried with more room, too.
_WIDER = (1.0, 1.05, 1.1, 1.2)
# What occurs again and again (a background, a bias) is best met exactly: ends are moved by up to so much for it.
_MOVED = np.linspace(0.97, 1.03, 7)


def every_rule() -> list[Observer]:
    """All observers as they are made without arguments, the one that cuts nothing first."""
    known = entries("observer")
    return [known[name]() for name in sorted(known, key=lambda name: (name != _FIRST, name))]


@dataclass(frozen=True)
class Tried:
    """What is chosen from.

    Attributes:
        owners: `id` of a point -> number of its range: some points share one.
        records: For each range, what was seen of all data.
        specs: For each range, its integers.
    """

    owners: Mapping[int, int]
    records: Sequence[Record]
    specs: Sequence[QuantSpec]


@dataclass(frozen=True)
class _Candidate:
    """A range, and what each half of the samples is rounded with where it is judged: what the other half says."""

    range: Range
    halves: tuple[Range, Range]


# One for each range.
Chosen = list[_Candidate]


class _Candidates(Sequence[_Candidate]):
    """Candidates for one range, all but the first found when they are asked for: where that is good, they never are.

    Args:
        first: The one that cuts nothing.
        others: Finds the others.
        count: How many these are.
    """

    def __init__(self, first: _Candidate, others: Callable[[], Chosen], count: int) -> None:
        self.first = first
        self._others, self._count = others, count
        self._found: Chosen | None = None

    def others(self) -> Chosen:
        """All behind the first."""
        if self._found is None:
            self._found = self._others()
        return self._found

    def __len__(self) -> int:
        return 1 + self._count

    def __getitem__(self, number: Any) -> Any:
        return self.first if number == 0 else [self.first, *self.others()][number]


def samples_to_try(model: keras.Model) -> int:
    """How many samples ranges are tried on, at most: what stands at all points is held at once."""
    made = [tensor for node in graph.nodes(model) for tensor in node.outputs]
    values = sum(math.prod(n or 1 for n in tensor.shape[1:]) for tensor in made)
    return max(1, min(_TRIED, _LARGEST_BYTES // (4 * max(values, 1))))


def best_ranges(model: keras.Model, tried: Tried, arrays: Batch, run: graph.Visitor) -> list[Range]:
    """For each range the one with which what reads it is closest to what it reads unrounded.

    A rule is judged by the range that it finds on one half of the samples, on the other half: on the samples that it
    has seen, to cut seems to cost nothing. The first one is tried with more room, too. Where the whole model's outputs
    are then closer with the ranges that cut nothing, it is those. In the end the ends of each range are moved a little,
    to where its readers are closest. A range with which a reader is within 30 dB stays, but at outputs of the model.

    All points are tried in one pass: at each reader, with each range of what it reads, all else being unrounded.

    Args:
        model: Functional model without nested models.
        tried: What is chosen from.
        arrays: A few samples, one array for each input.
        run: How the calls that are no points are run.
    """
    inputs = [tf.constant(array) for array in filled(arrays, fixed_batch(model) or 1)]
    inputs = [value[: fixed_batch(model)] if fixed_batch(model) else value for value in inputs]
    trial = _Trial(model, tried, inputs, run)
    candidates = trial.candidates()
    chosen = trial.better(trial.best(candidates), [each.first for each in candidates])
    moved = trial.best([_moved(each) for each in chosen], good=0.0)
    return [each.range for each in trial.better(moved, chosen)]


@dataclass(frozen=True)
class _Reader:
    """A call that reads points: what it reads and gives, unrounded.

    Attributes:
        call: The call.
        read: Number of the range of each point that it reads, and the values there.
        exact: What it gives.
        squares: Sum of the squares of each of these.
    """

    call: graph.Call
    read: Sequence[tuple[int, Any]]
    exact: Sequence[Any]
    squares: Sequence[float]

    def error(self, run: graph.Visitor, values: Any, rounded: Any) -> float:
        """How far it is with other values in the place of some that it reads."""
        args, kwargs = _replaced((self.call.args, self.call.kwargs), values, rounded)
        return _relative(_outputs(run(replace(self.call, args=args, kwargs=kwargs))), self.exact, self.squares)


def _replaced(arguments: Any, values: Any, rounded: Any) -> Any:
    return tree.map_structure(lambda each: rounded if each is values else each, arguments)


def _from_one() -> list[Any]:
    """Factors by which ends are moved, those that move least first: of equals the first is taken."""
    return sorted(_MOVED, key=lambda factor: abs(factor - 1.0))


def _moved(candidate: _Candidate) -> _Candidates:
    """A candidate, and the same with its ends moved."""
    none, *factors = _from_one()
    made = [_scaled(candidate, float(factor)) for factor in factors]
    return _Candidates(_scaled(candidate, float(none)), lambda: made, len(made))


def _scaled(candidate: _Candidate, factor: float) -> _Candidate:
    def of(ends: Range) -> Range:
        return factor * ends[0], factor * ends[1]

    # What the ends are moved for is what occurs in both halves: both are rounded with them.
    return _Candidate(of(candidate.range), (of(candidate.range), of(candidate.range)))


class _Trial:
    """Runs a model with the ranges that are tried.

    All that the samples give is computed once, and held: each reader is then run by itself.
    """

    def __init__(self, model: keras.Model, tried: Tried, inputs: Sequence[Any], run: graph.Visitor) -> None:
        self._model, self._tried, self._inputs, self._run = model, tried, inputs, run
        self._readers: list[_Reader] = []
        # `id` of a tensor behind a point -> number of its range, and what stands there.
        self._points: dict[int, tuple[int, Any]] = {}
        self._exact = _outputs(graph.Rebuild(self._see).run(model, list(inputs), "", 0))
        self._squares = [_squares(each) for each in self._exact]
        self._errors: dict[tuple[Any, ...], float] = {}

    def _see(self, call: graph.Call) -> Any:
        owner = self._tried.owners.get(id(call.operation))
        if owner is not None:
            self._points[id(call.node.outputs[0])] = (owner, call.args[0])
            return call.args[0]
        made = self._run(call)
        read = [self._points[id(t)] for t in call.node.input_tensors if id(t) in self._points]
        if read:
            exact = _outputs(made)
            self._readers.append(_Reader(call, read, exact, [_squares(each) for each in exact]))
        return made

    def candidates(self) -> list[_Candidates]:
        """Of each range, by the rules, the one that cuts nothing first."""
        first, *rules = every_rule()
        found = []
        for whole, spec, halves in zip(self._tried.records, self._tried.specs, self._records(), strict=True):
            of_rule = partial(_by_rule, whole, spec, halves)
            wider = [(first, factor) for factor in _WIDER[1:]]
            others = [*wider, *((rule, 1.0) for rule in rules)]
            made = partial(_all_of, of_rule, others)
            found.append(_Candidates(of_rule(first, _WIDER[0]), made, len(others)))
        return found

    def best(self, candidates: Sequence[_Candidates], good: float = _GOOD) -> Chosen:
        """The candidate of each range with which its readers are closest to what they give unrounded.

        Args:
            candidates: Of each range.
            good: Relative square error of the first candidate at which the others are not tried.
        """
        errors = [np.zeros(len(each)) for each in candidates]
        for reader in self._readers:
            for owner, values in reader.read:
                error_of = partial(reader.error, self._run, values)
                errors[owner] += self._errors_of(candidates[owner], owner, values, error_of, good)
        for tensor in graph.functional(self._model).outputs:
            if id(tensor) in self._points:
                # Points that are outputs of the model, by their own error.
                owner, values = self._points[id(tensor)]
                error_of = partial(_error_itself, values)
                errors[owner] += self._errors_of(candidates[owner], owner, values, error_of, good=0.0)
        return [each[int(np.argmin(found))] for each, found in zip(candidates, errors, strict=True)]

    def _errors_of(
        self, candidates: _Candidates, owner: int, values: Any, error_of: Callable[[Any], float], good: float
    ) -> Any:
        """The error of a reader with each candidate for what it reads; the first one's for all where that is good."""
        spec, first = self._tried.specs[owner], candidates.first
        # Equal ranges, which are many where nothing is worth cutting, are run once.
        errors = {first.halves: error_of(_rounded(values, first, spec))}
        if errors[first.halves] <= good:
            return errors[first.halves]
        for each in candidates.others():
            if each.halves not in errors:
                errors[each.halves] = error_of(_rounded(values, each, spec))
        return [errors[each.halves] for each in candidates]

    def better(self, chosen: Chosen, other: Chosen) -> Chosen:
        """The choice with which the model's outputs are closer to the exact ones."""
        same = [each.halves for each in chosen] == [each.halves for each in other]
        return other if same else min((other, chosen), key=self.error)

    def error(self, chosen: Chosen) -> float:
        """Square error of the model's outputs, relative to each output's own square."""
        key = tuple(each.halves for each in chosen)
        if key not in self._errors:
            outputs = graph.Rebuild(partial(self._with, chosen)).run(self._model, list(self._inputs), "", 0)
            self._errors[key] = _relative(_outputs(outputs), self._exact, self._squares)
        return self._errors[key]

    def _with(self, chosen: Chosen, call: graph.Call) -> Any:
        owner = self._tried.owners.get(id(call.operation))
        if owner is None:
            return self._run(call)
        return _rounded(call.args[0], chosen[owner], self._tried.specs[owner])

    def _records(self) -> list[tuple[Record | None, Record | None]]:
        """What each half of the samples has at each range; `None` where they are too few, or have nothing finite."""
        records = [(Record(counts=True), Record(counts=True)) for _ in self._tried.records]
        for owner, values in self._points.values():
            for record, half in zip(records[owner], _halves(values), strict=True):
                _note(record, np.asarray(half, np.float32))
        few = len(self._inputs[0]) < _FEWEST

        def known(record: Record) -> Record | None:
            return None if few or record.low > record.high else record

        return [(known(first), known(second)) for first, second in records]


def _by_rule(
    whole: Record, spec: QuantSpec, halves: tuple[Record | None, Record | None], rule: Observer, factor: float
) -> _Candidate:
    """What a rule says of all data, and of each half of the samples, all of it with more room."""
    found = rule.range(whole, spec)
    seen = [found if each is None else rule.range(each, spec) for each in halves]
    ends = [(factor * low, factor * high) for low, high in (found, seen[1], seen[0])]
    return _Candidate(ends[0], (ends[1], ends[2]))


def _all_of(of_rule: Callable[[Observer, float], _Candidate], rules: Sequence[tuple[Observer, float]]) -> Chosen:
    return [of_rule(rule, factor) for rule, factor in rules]


def _error_itself(exact: Any, rounded: Any) -> float:
    return _relative([rounded], [exact], [_squares(exact)])


def _halves(values: Any) -> tuple[Any, Any]:
    half = len(values) // 2
    return values[:half], values[half:]


def _note(record: Record, values: Array) -> None:
    finite = values[np.isfinite(values)]
    if finite.size and record.histogram is not None:
        record.add(float(finite.min()), float(finite.max()))
        record.histogram.add(finite)


def _rounded(values: Any, candidate: _Candidate, spec: QuantSpec) -> Any:
    """Values on the grids of a candidate: of the first half of the samples, and of the second."""
    if candidate.halves[0] == candidate.halves[1]:
        return _on_grid(values, candidate.halves[0], spec)
    pairs = zip(_halves(values), candidate.halves, strict=True)
    return tf.concat([_on_grid(half, ends, spec) for half, ends in pairs], axis=0)


def _on_grid(values: Any, ends: Range, spec: QuantSpec) -> Any:
    scale, zero_point = (
        float(each) for each in affine.affine_parameters(np.float32(ends[0]), np.float32(ends[1]), spec)
    )
    # NumPy makes the same values; starting TensorFlow's operators one by one takes longer.
    return tf.constant(affine.fake_quantize(np.asarray(values, np.float32), scale, zero_point, spec), values.dtype)


def _relative(made: Sequence[Any], exact: Sequence[Any], squares: Sequence[float]) -> float:
    """Square error of tensors, each relative to its own square."""
    pairs = zip(made, exact, squares, strict=True)
    return sum(_squares(a - b) / max(own, 1e-30) for a, b, own in pairs)


def _outputs(made: Any) -> list[Any]:
    return [each for each in tree.flatten(made) if getattr(each, "dtype", None) is not None and each.dtype.is_floating]


def _squares(values: Any) -> float:
    return float(tf.reduce_sum(tf.square(tf.cast(values, tf.float32))))
