"""One operator of the deployed model on one runtime, fed the frozen model's own integers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.convert.artifact import Artifact
from keras_compress.data.samples import cut, fixed_batch
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.runtime import deployed
from keras_compress.runtime.kernel_error import KernelError
from keras_compress.runtime.rounding import ROUNDS_AS, expected_share, is_copied
from keras_compress.runtime.simulation import simulation
from keras_compress.runtime.target import Target
from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.segments import Segments

Array = NDArray[Any]
LARGEST_POINTS_BYTES = 256_000_000
# What may be beyond a kernel's known error, of all values: on the networks of `benchmarks/exactness.py` none is.
_BEYOND_KNOWN = 0.001


class VerificationError(RuntimeError):
    """The deployed model does not compute what the frozen model does; the message names the first operator."""


@dataclass(frozen=True)
class OpRow:
    """One operator (with what is fused into it) on one runtime, fed the frozen model's own integers.

    A difference is explained where the kernel's integer is within half a step and the kernel's own error of the exact
    value, or is what the kernel must compute (see `keras_compress.runtime.kernel_error`).

    Attributes:
        name: Activation point at its output.
        kernel: `"xnnpack"`, `"reference"`, `"tflm"`, or `"kc_binary"`.
        max_lsb: Largest difference from the frozen model's integers, in steps of the output.
        fraction_differing: Share of output values that differ at all.
        unexplained_lsb: Largest difference that is not explained, in steps.
        fraction_unexplained: Share of output values with such a difference.
        bound: Largest `fraction_unexplained` that passes: 0.1 % where the kernel's error is known, else `max_fraction`
            of `verify`, or what double rounding makes likely; 0 for an LSTM, of which the frozen model computes the
            same integers.
        ok: Whether what is not explained is within the bounds.
    """

    name: str
    kernel: str
    max_lsb: int
    fraction_differing: float
    unexplained_lsb: int
    fraction_unexplained: float
    bound: float
    ok: bool


@dataclass(frozen=True)
class Simulated:
    """The frozen model on some samples.

    Attributes:
        inputs: The samples, one array for each input.
        outputs: Its outputs.
        points: Integers at every activation point.
        exact: What they were rounded from.
    """

    inputs: list[Array]
    outputs: list[Array]
    points: dict[str, Array]
    exact: dict[str, Exact]


def simulated(frozen: keras.Model, inputs: list[Array]) -> Iterator[Simulated]:
    """A few samples at a time: the points of a large network hold some hundred megabytes for each."""
    layers = [layer for layer in frozen.layers if isinstance(layer, QuantizeActivation)]
    after, before = [layer.output for layer in layers], [layer.input for layer in layers]
    simulate = simulation(frozen, [*after, *before, *keras.tree.flatten(frozen.outputs)])
    per_sample = 8 * sum(math.prod(n or 1 for n in layer.output.shape[1:]) for layer in layers)
    size = max(1, LARGEST_POINTS_BYTES // max(per_sample, 1))
    batch = fixed_batch(frozen) or 1
    for part in cut(inputs, max(1, size // batch) * batch):
        found = simulate(part)
        points, exact = {}, {}
        for layer, real, unrounded in zip(layers, found, found[len(layers) :], strict=False):
            grid = layer.quantizer
            integers = np.rint(real.astype(np.float64) / grid.scale) + grid.zero_point
            points[layer.name] = integers.astype(np.int16 if grid.bits == 16 else np.int8)
            exact[layer.name] = Exact(unrounded, grid.scale, grid.zero_point)
        yield Simulated(part, found[2 * len(layers) :], points, exact)


@dataclass(frozen=True)
class Exact:
    """What the frozen model computed at a point, before its grid."""

    real: Array
    scale: float
    zero_point: int

    def steps(self, real: Array) -> Array:
        """Some of it on the grid's scale, neither rounded nor clipped."""
        steps: Array = real.astype(np.float64) / self.scale + self.zero_point
        return steps


@dataclass(frozen=True)
class Segment:
    """The operators between one point and those before it, as a file of their own."""

    point: str
    content: bytes
    graph: Graph
    inputs: tuple[str, ...]  # names of points, or of model inputs with a leading "input:"


def segments_of(artifact: Artifact, points: Set[str]) -> list[Segment]:
    """The plain file in pieces, one for each point of the frozen model at which something is computed."""
    point_of: dict[str, str] = {}
    for point, tensor in artifact.points.items():
        point_of.setdefault(tensor, point)
    found = []
    file, tensors = Segments(artifact.plain), set(point_of)
    for tensor, point in point_of.items():
        names = file.inputs_of(tensor, tensors)
        if point not in points or names in ([], [tensor]):
            continue  # a constant, or an input of integer type: nothing is computed
        sources = tuple(point_of.get(name, f"input:{name}") for name in names)
        found.append(Segment(point, *file.extract(names, [tensor]), sources))
    return found


@dataclass
class Tally:
    """Differences of one operator on one runtime."""

    segment: Segment
    kernel: str
    input_names: tuple[str, ...]
    batch: int = 1
    values: int = 0
    # Largest difference and how many there are: of all, and of those that are not explained.
    largest: int = 0
    differing: int = 0
    largest_unexplained: int = 0
    unexplained: int = 0
    # Of 8-bit outputs of which a share must be off: how often each integer occurs, `(channels, 256)`.
    counts: Any = 0

    def __post_init__(self) -> None:
        self.rounds_as = ROUNDS_AS.get(self.kernel, self.kernel)
        self.error = KernelError.of(self.segment.graph, self.rounds_as)
        # Of the values, what the kernel must put one step off, where its error is not known.
        self.share = 0.0 if self.error.known else expected_share(self.segment.graph, self.rounds_as)

    def add(self, runner: Target, simulated: Simulated) -> None:
        """Run the operator on some samples and count."""
        segment = self.segment
        points, exact = simulated.points, simulated.exact[segment.point]
        signature = runner.describe(segment.content, segment.point)
        # Of a file made for several samples at a time, one call runs as many. Rows that the batch was folded into are
        # more than samples.
        calls = len(simulated.inputs[0]) // self.batch
        fed = []
        for source, spec in zip(segment.inputs, signature.inputs, strict=True):
            values = (
                points[source]
                if source in points
                else deployed.as_input(self._model_input(source, simulated.inputs), spec)
            )
            fed.append(shaped(values, (calls, *spec.sample_shape), source))
        got = runner.run(segment.content, fed, segment.point)[0]
        expected = shaped(points[segment.point], got.shape, segment.point)
        places = np.flatnonzero(got != expected)
        difference = np.abs(_at(places, got) - _at(places, expected))
        unexplained = self._unexplained(got, places, difference, exact, fed)
        self.values += got.size
        self.largest, self.differing = _added(difference, self.largest, self.differing)
        self.largest_unexplained, self.unexplained = _added(unexplained, self.largest_unexplained, self.unexplained)
        if expected.dtype == np.int8 and self.share > 0:
            self.counts = self.counts + _counts(expected)

    def _unexplained(self, got: Array, places: Array, difference: Array, exact: Exact, fed: list[Array]) -> Array:
        """Steps that the kernel's arithmetic does not explain, at the places where there is a difference."""
        found, given, channels = difference, _at(places, got), got.shape[-1]
        if self.error.computed is not None:
            found = np.minimum(found, np.abs(given - _at(places, self.error.computed(fed[0]))))
        steps = exact.steps(shaped(exact.real, got.shape, self.segment.point).reshape(-1)[places])
        allowed = self.error.at(places % channels, channels).allows(given, steps, exact.zero_point)
        return np.where(allowed, 0, found)

    def _model_input(self, source: str, inputs: list[Array]) -> Array:
        """Data of a model input, from its tensor's name."""
        if len(inputs) == 1:
            return inputs[0]
        tensor = source.removeprefix("input:").removeprefix("serving_default_").removesuffix(":0")
        if tensor not in self.input_names:
            raise ValueError(
                f"Expected inputs out of {self.input_names}. Received: {source!r} at {self.segment.point!r}"
            )
        return inputs[self.input_names.index(tensor)]

    def row(self, max_lsb: int, max_fraction: float) -> OpRow:
        """The finding, beside its bound."""
        share = min(max_fraction, _BEYOND_KNOWN) if self.error.known else max(max_fraction, self.share)
        expected = self.share / 2
        # Equal sums meet the same tie: of few different ones, each is one throw of the dice.
        of_ties = expected + 3 * float(np.sqrt(expected / min(self.values, _different(self.counts))))
        bound = min(1.0, max(share + 3 * float(np.sqrt(share / self.values)), of_ties))
        bound = 0.0 if is_copied(self.segment.graph, self.rounds_as) else bound
        differing, unexplained = self.differing / self.values, self.unexplained / self.values
        return OpRow(
            self.segment.point,
            self.kernel,
            self.largest,
            differing,
            self.largest_unexplained,
            unexplained,
            bound,
            ok=self.largest_unexplained <= max_lsb and unexplained <= bound,
        )


def _at(places: Array, values: Array) -> Array:
    return values.reshape(-1)[places].astype(np.int32)


def _added(difference: Array, largest: int, count: int) -> tuple[int, int]:
    return max(largest, int(difference.max(initial=0))), count + int(np.count_nonzero(difference))


def _counts(values: Array) -> Array:
    """How often each int8 integer occurs in each channel, the last axis: `(channels, 256)`."""
    rows = values.reshape(-1, values.shape[-1]).astype(np.int64) + 128
    channels = rows.shape[-1]
    found: Array = np.bincount((rows + 256 * np.arange(channels)).reshape(-1), minlength=256 * channels)
    return found.reshape(channels, 256)


def _different(counts: Any) -> float:
    """How many independent values there are in effect: what is cut off at either end cannot be off by rounding."""
    if np.ndim(counts) == 0:
        return np.inf
    occurring = np.flatnonzero(counts.sum(axis=0))
    within = np.delete(counts, occurring[[0, -1]], axis=1)
    return float(counts.sum() ** 2 / max(1.0, np.square(within.astype(np.float64)).sum()))


def shaped(values: Array, shape: tuple[int, ...], name: str) -> Array:
    """Values in the shape that the file has at `name`.

    Raises:
        VerificationError: If they do not fit.
    """
    if values.size != math.prod(shape):
        raise VerificationError(f"Expected the shape {values.shape} at {name!r}. Received: {shape} in the file")
    return values.reshape(shape)
