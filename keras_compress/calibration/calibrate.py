"""Ranges from the values that each activation point sees while data are run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_compress.calibration.auto import Tried, best_ranges, every_rule, samples_to_try
from keras_compress.calibration.observer import observer_of
from keras_compress.calibration.record import Record, together
from keras_compress.core import affine, keras_private, progress
from keras_compress.core.quiet import quiet_tensorflow
from keras_compress.core.ste import finite_extremes
from keras_compress.core.warn import warn
from keras_compress.data.batches import FirstSamples, batches
from keras_compress.data.samples import Batch, cut, filled, fixed_batch, input_specs
from keras_compress.graph import graph
from keras_compress.quantizers.activation import FixedGrid, QuantizeActivation
from keras_compress.quantizers.activation_grid import ActivationGrid
from keras_compress.quantizers.kinds import activation_name

LARGEST_VALUES_BYTES = 64_000_000
# So many pieces of the data are run layer by layer: tracing a large network takes seconds, a piece a tenth of one.
PIECES_UNTRACED = 16


class MeasuredRange(ActivationGrid):
    """A range that calibration sets, and nothing trains.

    Args:
        bits: 2 to 8, or 16 (symmetric).
        name: Where it is, for errors.
    """

    # Whether `observe` is to be given the values, and whether with what they make of what they multiply.
    watches = False
    weighs = False

    def __init__(self, bits: int = 8, name: str | None = None) -> None:
        self.set_bits(bits)
        self.name = name
        self._ends: tuple[np.float32, np.float32] | None = None
        self._parameters: tuple[Any, Any] | None = None

    def trained(self) -> bool:
        return self._ends is not None

    def set_range(self, low: float, high: float) -> None:
        """Set the range exactly."""
        self._ends = (np.float32(low), np.float32(high))
        self._parameters = None

    def range(self) -> tuple[Any, Any]:
        """`(low, high)`, before 0.0 is included.

        Raises:
            ValueError: The range was never set.
        """
        if self._ends is None:
            raise ValueError(f"Expected a range that calibration has set. Received: none at {self.name!r}")
        return self._ends

    def observe(self, values: NDArray[Any], squares: NDArray[Any]) -> None:
        """Take note of values, where `watches` asks for them; their extremes are not all that counts.

        Args:
            values: What stands at the point, any shape.
            squares: Mean squares of what is multiplied with each of them, products with it, in the same shape.
        """

    def parameters(self) -> tuple[Any, Any]:
        # The calls of a layer may share a range, and each asks for it.
        if self._parameters is None:
            self._parameters = affine.affine_parameters(*self.range(), self.spec)
        return self._parameters

    def __call__(self, inputs: Any, training: bool = False) -> Any:
        if not self.trained():
            return inputs
        scale, zero_point = (float(p) for p in self.parameters())
        return self.inferred(lambda values: affine.fake_quantize(values, scale, zero_point, self.spec), inputs)


def untrained_points(model: keras.Model) -> list[QuantizeActivation]:
    """Points of a flat model whose range is not known."""
    return [layer for layer in model.layers if isinstance(layer, QuantizeActivation) and not layer.quantizer.trained()]


@progress.shown("calibrating")
def calibrate(
    model: keras.Model,
    representative_dataset: Any,
    watch: Callable[[Batch], object] | None = None,
    *,
    observer: Any = "min_max",
    run: graph.Visitor = graph.Call.values,
    again: bool = False,
) -> int:
    """Set the ranges that are not known by what stands there over some data. Known ranges stay, and quantize meanwhile.

    However many data there are, of each point a few numbers are kept.

    Args:
        model: Functional model without nested models; its quantizers are set in place.
        representative_dataset: See `keras_compress.data.batches.batches`.
        watch: Called with the first batch.
        observer: How ranges follow from the values: an observer, its name (`"mse"`), or `"auto"`, which chooses for
            each point by the error of what reads it, and of the whole model's outputs.
        run: How the other calls are run; as they are by default.
        again: Measure points whose range is known, too.

    Returns:
        How many samples were seen.

    Raises:
        ValueError: For data that do not fit or give no finite value at a point, or an unknown observer.
    """
    auto = observer == "auto"
    rules = every_rule() if auto else [observer_of(observer)]
    points = points_to_measure(model, again)
    first = FirstSamples(samples_to_try(model) if auto else 0, input_specs(model))
    records = [Record(any(rule.counts for rule in rules)) for _ in points]
    seen = _see(model, points, records, representative_dataset, _Look(watch, first.add, run))
    by_quantizer = _by_quantizer(points)
    merged = [(quantizer, together([records[n] for n in mine])) for quantizer, mine in by_quantizer]
    if auto:
        owners = {id(points[n]): number for number, (_, mine) in enumerate(by_quantizer) for n in mine}
        specs = [quantizer.spec for quantizer, _ in merged]
        tried = Tried(owners, [record for _, record in merged], specs)
        chosen = best_ranges(model, tried, first.arrays, run)
    else:
        chosen = [rules[0].range(record, quantizer.spec) for quantizer, record in merged]
    for (quantizer, _), (low, high) in zip(merged, chosen, strict=True):
        quantizer.set_range(low, high)
    return seen


def points_to_measure(model: keras.Model, again: bool) -> list[QuantizeActivation]:
    """Points whose range is to be measured; those of a fixed grid never are."""
    if not again:
        return untrained_points(model)
    points = [layer for layer in model.layers if isinstance(layer, QuantizeActivation)]
    return [point for point in points if hasattr(point.quantizer, "set_range")]


@dataclass(frozen=True)
class _Look:
    """Who sees the first batch, who all batches, and how calls are run."""

    first: Callable[[Batch], object] | None
    each: Callable[[Batch], object]
    run: graph.Visitor


def _see(model: keras.Model, points: list[QuantizeActivation], records: list[Record], data: Any, look: _Look) -> int:
    """Run the data and note in the records what stands at the points; how many samples there were."""
    counting = any(record.histogram is not None for record in records)
    extremes, pieces, seen = _extremes(model, points, _of_array, look.run, counting), 0, 0
    size = _batch_size(model)
    spoilt = np.zeros(len(points), bool)
    inputs = _InputValues(model)
    with quiet_tensorflow():
        for batch in batches(data, model):
            if not seen and look.first is not None:
                look.first(batch)
            look.each(batch)
            inputs.add(batch)
            for piece in cut(batch, size):
                arrays = filled(piece, fixed_batch(model) or 1)
                if pieces == PIECES_UNTRACED:
                    extremes = _traced(model, points, look.run, counting)
                pieces += 1
                found, watched = extremes([tf.constant(array) for array in arrays])
                _note(points, records, found, watched)
                spoilt |= np.array([not whole for _, _, whole in found], bool)
            seen += len(batch[0])
            progress.advance(len(batch[0]))
    _check_finite([point.name for point in points], np.array([r.low > r.high for r in records], bool), spoilt)
    inputs.warn_of_equal()
    return seen


def _note(points: list[QuantizeActivation], records: list[Record], found: Any, watched: Mapping[int, Any]) -> None:
    """Take down what one piece of the data gave."""
    for position, (point, record, (low, high, _)) in enumerate(zip(points, records, found, strict=True)):
        record.add(float(low), float(high))
        if position in watched:
            values, squares = (each.numpy() for each in watched[position])
            if record.histogram is not None:
                record.histogram.add(values)
            if _is_watched(point):
                point.quantizer.observe(values, squares)


class _InputValues:
    """Lowest and highest value of each model input, over all batches."""

    def __init__(self, model: keras.Model) -> None:
        self._names = [tensor.name for tensor in model.inputs]
        self._lows, self._highs = np.full(len(self._names), np.inf), np.full(len(self._names), -np.inf)
        self._counts = np.zeros(len(self._names), int)

    def add(self, batch: Batch) -> None:
        """Take note of a batch; what is not a real number counts for nothing."""
        for number, array in enumerate(map(np.asarray, batch)):
            if array.size and array.dtype.kind == "f":
                self._counts[number] += array.size
                self._lows[number] = np.fmin(self._lows[number], np.fmin.reduce(array, axis=None))
                self._highs[number] = np.fmax(self._highs[number], np.fmax.reduce(array, axis=None))

    def warn_of_equal(self) -> None:
        """Say which inputs had one value throughout: the ranges behind them fit nothing else."""
        equal = np.flatnonzero((self._counts > 1) & (self._lows == self._highs))
        if len(equal):
            listed = ", ".join(f"{self._names[number]!r} (all {self._lows[number]:g})" for number in equal)
            warn(
                "Expected a `representative_dataset` of real data, from which ranges follow. "
                f"Received: all values are equal in input {listed}"
            )


def _check_finite(names: list[str], empty: NDArray[Any], spoilt: NDArray[Any]) -> None:
    """Say where values were not finite, which no range takes in; refuse points that saw no other.

    Raises:
        ValueError: Naming the points.
    """
    if empty.any():
        raise ValueError(
            "Expected a `representative_dataset` and weights that give finite values. "
            f"Received: NaN or infinite ones only at {[name for name, e in zip(names, empty, strict=True) if e][:10]}"
        )
    if spoilt.any():
        listed = ", ".join(repr(name) for name in np.asarray(names)[spoilt][:10].tolist())
        warn(
            f"The representative dataset gives values that are NaN or infinite at {listed}: the ranges leave them out."
        )


def _by_quantizer(points: list[QuantizeActivation]) -> list[tuple[Any, list[int]]]:
    """Each quantizer with the positions of its points: calls of one layer may share one."""
    found: dict[int, tuple[Any, list[int]]] = {}
    for position, point in enumerate(points):
        found.setdefault(id(point.quantizer), (point.quantizer, []))[1].append(position)
    return list(found.values())


def _extremes(
    model: keras.Model,
    points: list[QuantizeActivation],
    measure: Callable[[Any], Any],
    run: graph.Visitor,
    counting: bool,
) -> Callable[[list[tf.Tensor]], Any]:
    """A function from a batch to what `measure` finds at each of some points, which let the values pass.

    Behind that it gives, by the positions of the points, all values of those that are watched, or of all where values
    are counted, with the mean squares of their products.

    The points themselves are left out: a conditional for each would take most of the time of tracing and running.
    """
    measured = {id(point) for point in points}
    wanted = {n: id(point) for n, point in enumerate(points) if counting or _is_watched(point)}
    kept_values = set(wanted.values())
    factors = _factors(model, [point for point in points if getattr(point.quantizer, "weighs", False)])

    def extremes(inputs: list[tf.Tensor]) -> tuple[list[Any], dict[int, tuple[tf.Tensor, tf.Tensor]]]:
        ends: dict[int, Any] = {}
        values: dict[int, tf.Tensor] = {}
        squares: dict[int, tf.Tensor] = {}

        def visit(call: graph.Call) -> Any:
            key = id(call.operation)
            if _is_of_shares(call):
                return call.args[0]
            if key not in measured:
                point = call.operation
                made = point.values(call.args[0]) if isinstance(point, QuantizeActivation) else run(call)
                for factor in factors.get(key, ()):
                    squares[factor] = squares.get(factor, 0.0) + _mean_squares(made, values[factor])
                return made
            ends[key] = measure(call.args[0])
            if key in kept_values:
                values[key] = call.args[0]
            return call.args[0]

        graph.Rebuild(visit).run(model, inputs, "", 0)
        kept = {n: (values[key], squares.get(key, tf.zeros([]))) for n, key in wanted.items()}
        return [ends[id(point)] for point in points], kept

    return extremes


def _is_of_shares(call: graph.Call) -> bool:
    """Whether a call is a softmax's point, whose grid is the kernel's or, where that is too coarse, another one."""
    if not isinstance(call.operation, QuantizeActivation) or not isinstance(call.operation.quantizer, FixedGrid):
        return False
    return activation_name(keras_private.maker(call.node.input_tensors[0])) == "softmax"


def _traced(
    model: keras.Model, points: list[QuantizeActivation], run: graph.Visitor, counting: bool
) -> Callable[[list[tf.Tensor]], Any]:
    """The same as one TensorFlow graph."""
    measured = _extremes(model, points, lambda values: finite_extremes(tf.cast(values, "float32")), run, counting)
    signature = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in model.inputs]
    return tf.function(measured, input_signature=[signature], autograph=False)  # type: ignore[no-any-return]


def _of_array(values: Any) -> tuple[Any, Any, Any]:
    """Lowest and highest finite value (the one above the other where there is none), and whether all are finite."""
    array = np.asarray(values, np.float32)
    # Two passes where all is finite, as nearly always: one NaN makes both NaN.
    lowest, highest = array.min(), array.max()
    if np.isfinite(lowest) and np.isfinite(highest):
        return lowest, highest, True
    finite = array[np.isfinite(array)]
    return finite.min(initial=np.inf), finite.max(initial=-np.inf), False


def _factors(model: keras.Model, points: list[QuantizeActivation]) -> dict[int, list[int]]:
    """`id` of an operation -> that of each of some points whose values it multiplies."""
    table, wanted = graph.consumers(model), {id(point) for point in points}
    found: dict[int, list[int]] = {}
    for node in graph.nodes(model):
        if id(node.operation) in wanted:
            for reader in table.get(id(node.outputs[0]), []):
                found.setdefault(id(reader.operation), []).append(id(node.operation))
    return found


def _mean_squares(products: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Of the products with each entry of a factor that was broadcast, in the factor's shape."""
    shape = [1] * (len(products.shape) - len(factor.shape)) + list(factor.shape)
    axes = [axis for axis, size in enumerate(shape) if size == 1]
    return tf.reshape(tf.reduce_mean(tf.square(products), axis=axes, keepdims=True), tf.shape(factor))


def _is_watched(point: QuantizeActivation) -> bool:
    return getattr(point.quantizer, "watches", False)


def _batch_size(model: keras.Model) -> int:
    """Samples that are run at once: the model's own batch, or few enough that one layer's values stay small.

    No layer's values take more than `LARGEST_VALUES_BYTES`.
    """
    fixed = fixed_batch(model)
    if fixed is not None:
        return fixed
    tensors = [tensor for node in graph.nodes(model) for tensor in node.outputs]
    largest = max((math.prod(n or 1 for n in tensor.shape[1:]) for tensor in tensors), default=1)
    return max(1, LARGEST_VALUES_BYTES // (4 * max(largest, 1)))
