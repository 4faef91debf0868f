"""How many bits the sums of a file's layers need: at the worst, from its integers, and on data, in NumPy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.convert.artifact import Artifact
from keras_compress.convert.compressed import expand_content
from keras_compress.core.shown import Shown, names
from keras_compress.data.samples import cut
from keras_compress.runtime import deployed
from keras_compress.runtime.integer_model import KERNELS, fused_limits, sums
from keras_compress.runtime.kernels import runner_of
from keras_compress.tflite.flatbuffer import Graph, read_model

Array = NDArray[Any]
Interval = tuple[int, int]
SAMPLES_AT_ONCE = 64
# What a kernel adds up in, whatever is needed.
_STOCK_BITS = {"int8": 32, "int16": 64}
_INTEGERS = tuple(_STOCK_BITS)
# Operators that give some of their inputs' integers, on the same grid.
_PASSING = (
    *("RESHAPE", "MAX_POOL_2D", "AVERAGE_POOL_2D", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "SLICE", "STRIDED_SLICE"),
    *("GATHER", "PAD", "BATCH_TO_SPACE_ND", "SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE"),
)
# Layers with sums that are not counted here, and why.
_NOT_COUNTED = {
    "TRANSPOSE_CONV": "a transposed convolution",
    "CONV_3D": "a convolution over volumes",
    "BATCH_MATMUL": "a product of two activations",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "an LSTM in one operator",
}


@dataclass(frozen=True)
class AccumulatorRow:
    """The sums of one layer: products of its inputs, less their zero point, with its weights, and the bias.

    Attributes:
        layer: Name of its output in the file.
        operator: Such as `"CONV_2D"`.
        terms: Products in one sum.
        step: What all its weights are multiples of: those of few bits are shifted up in the file. Sums are counted in
            it; what of a bias is below it is a constant that need not be added up.
        input_low, input_high: Smallest and largest input, less the zero point, that the operator before it can give; 0
            is among them.
        low, high: Lowest and highest value that any part of a sum can have for such inputs, in any order of adding.
        bits: Width of the narrowest two's complement accumulator that holds them: no input makes it overflow.
        stock_bits: Width that stock kernels add up in.
        observed_low, observed_high: Lowest and highest whole sum on the data; `None` without data.
        observed_bits: Width that holds these. With wrap-around, parts of a sum may overflow: a whole sum that fits
            comes out right.
        overflows: Share of the whole sums on the data that do not fit the width asked about; `None` without one.
    """

    layer: str
    operator: str
    terms: int
    step: int
    input_low: int
    input_high: int
    low: int
    high: int
    bits: int
    stock_bits: int
    observed_low: int | None = None
    observed_high: int | None = None
    observed_bits: int | None = None
    overflows: float | None = None


@dataclass(frozen=True, repr=False)
class AccumulatorBits(Shown):
    """The accumulators of a file.

    Attributes:
        rows: Its layers with integer sums, in order.
        skipped: Layers with other sums, and why they are not counted.
        width: The width asked about; `None` for none.
    """

    rows: tuple[AccumulatorRow, ...]
    skipped: tuple[str, ...]
    width: int | None = None

    @property
    def bits(self) -> int:
        """What holds the sums of all layers, at the worst; 0 without any."""
        return max((row.bits for row in self.rows), default=0)

    @property
    def observed_bits(self) -> int | None:
        """What holds them on the data; `None` without data."""
        seen = [row.observed_bits for row in self.rows if row.observed_bits is not None]
        return max(seen) if seen else None

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines."""
        widest = sorted(self.rows, key=lambda row: -row.bits)
        seen = self.observed_bits
        over = [f"{row.layer} {row.overflows:.3%}" for row in self.rows if row.overflows]
        return f"AccumulatorBits: {self.bits} bits hold every sum of {len(self.rows)} layers", [
            ("widest", names([f"{row.layer}: {row.bits}" for row in widest], ".rows")),
            ("on the data", "" if seen is None else f"{seen} bits"),
            (f"beyond {self.width}", names(over, ".rows")),
            ("not counted", names(self.skipped, ".skipped")),
        ]

    def notes(self) -> list[str]:
        """Lines: what was not counted, and what runs the file today."""
        stock = sorted({row.stock_bits for row in self.rows})
        lines = [f"Not counted: {line}." for line in self.skipped]
        if stock:
            lines.append(
                f"Stock kernels add up in {' and '.join(map(str, stock))} bits, whatever is needed: narrower ones are "
                "for hardware, or kernels, of your own."
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {"bits": self.bits, "observed_bits": self.observed_bits, **asdict(self)}


def accumulator_bits(
    model: Artifact | bytes | str | os.PathLike[str], x: Any = None, *, bits: int | None = None, bias: bool = True
) -> AccumulatorBits:
    """The width of the accumulator that each layer of an integer `.tflite` file needs, from the file's own integers.

    **Forward** For inputs q of zero point z with `l <= q - z <= h`, where the operator in front tells l and h (a ReLU,
    a sign, activations of few bits), no part of the sum `bias + sum w (q - z)` leaves
    `[min(bias, 0) + sum min(w l, w h), max(bias, 0) + sum max(w l, w h)]`, and some inputs reach both ends, as l <= 0
    and h >= 0: the bound is exact, for any order of adding. Weights are divided by their greatest common divisor g, the
    bias is `floor(bias / g)`. `b` bits hold `-2^(b-1) ... 2^(b-1) - 1`.

    Args:
        model: What `convert` returned, the bytes of a `.tflite` file, or its path. Encoded weights are decoded.
        x: Inputs to add up too, in NumPy: what the sums of these need.
        bits: A width to count overflows of, on `x`; 2 to 63.
        bias: Whether the bias is in the accumulator, as in stock kernels, or added behind it, as in WrapNet.

    Returns:
        One row for each convolution and dense layer on integers.

    Raises:
        ValueError: For a file that is no `.tflite` file, a width out of range, or one without `x`.
        TypeError: For anything else.
        OSError: The file cannot be read.
    """
    if bits is not None and (isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 63):
        raise ValueError(f"Expected `bits` as an integer in [2, 63]. Received: bits={bits!r}")
    if bits is not None and x is None:
        raise ValueError(f"Expected `x` to count overflows on. Received: bits={bits}, x=None")
    content, _ = deployed.content_of(model)
    plain = expand_content(content)
    graph = Graph(read_model(plain))
    skipped: list[str] = []
    operators = list(_counted(graph, skipped))
    layers = [_Layer.of(graph, op, bias) for op in operators]
    rows = [_row(graph, layer) for layer in layers]
    if x is not None and operators:
        rows = _observed(plain, graph, layers, rows, x, bits)
    return AccumulatorBits(tuple(rows), tuple(skipped), bits)


def bits_of(low: int, high: int) -> int:
    """Width of the narrowest two's complement number that holds both.

    >>> bits_of(-128, 127), bits_of(-129, 0), bits_of(0, 128), bits_of(0, 0)
    (8, 9, 9, 1)
    """
    return max(high if high > 0 else 0, -low - 1 if low < 0 else 0).bit_length() + 1


def _counted(graph: Graph, skipped: list[str]) -> Iterator[Any]:
    """Operators whose sums are of integers and constant weights; the others with weights are named."""
    for op in graph.operators:
        kind = graph.kind(op)
        if kind not in (*KERNELS, *_NOT_COUNTED):
            continue
        reason = _NOT_COUNTED.get(kind)
        if reason is None and graph.dtype(op.inputs[0]) not in _INTEGERS:
            reason = f"it reads {graph.dtype(op.inputs[0])}"
        if reason is None and graph.constant(op.inputs[1]) is None:
            reason = "its weights are computed"
        if reason is None:
            yield op
        else:
            skipped.append(f"{graph.name(op.outputs[0])} ({kind}): {reason}")


@dataclass(frozen=True)
class _Layer:
    """An operator's weights, one row for each output channel, and biases, in steps.

    Attributes:
        op: The operator.
        step: Greatest common divisor of the weights.
        weight: Over the step.
        bias: Over the step, rounded down; zeros where it is left out.
        left: What of the file's sums is no part of these: `sums = step * these + left`.
    """

    op: Any
    step: int
    weight: Array
    bias: Array
    left: Array

    @classmethod
    def of(cls, graph: Graph, op: Any, bias: bool) -> _Layer:
        values = np.asarray(graph.constant(op.inputs[1]), np.int64)
        if graph.kind(op) == "DEPTHWISE_CONV_2D":
            values = np.moveaxis(values, 3, 0)
        weight = values.reshape(len(values), -1)
        step = max(int(np.gcd.reduce(weight, axis=None)), 1)
        found = graph.constant(op.inputs[2]) if len(op.inputs) > 2 and op.inputs[2] >= 0 else None
        offsets = np.zeros(len(weight), np.int64) if found is None else found.astype(np.int64)
        counted = offsets // step if bias else np.zeros_like(offsets)
        return cls(op, step, weight // step, counted, offsets - step * counted)


def _row(graph: Graph, layer: _Layer) -> AccumulatorRow:
    op = layer.op
    low, high = centred_interval(graph, op.inputs[0])
    ends = np.stack([layer.weight * low, layer.weight * high])
    lows = ends.min(0).sum(1) + np.minimum(layer.bias, 0)
    highs = ends.max(0).sum(1) + np.maximum(layer.bias, 0)
    lowest, highest = int(lows.min()), int(highs.max())
    return AccumulatorRow(
        layer=graph.name(op.outputs[0]),
        operator=graph.kind(op),
        terms=layer.weight.shape[1],
        step=layer.step,
        input_low=low,
        input_high=high,
        low=lowest,
        high=highest,
        bits=bits_of(lowest, highest),
        stock_bits=_STOCK_BITS[graph.dtype(op.inputs[0])],
    )


def centred_interval(graph: Graph, tensor: int) -> Interval:
    """Smallest and largest integer of a tensor less its zero point, 0 included, as what writes it tells."""
    low, high = _interval(graph, tensor, graph.producers())
    zero = _zero_point(graph, tensor)
    # Padding is 0, whatever else there is.
    return min(low - zero, 0), max(high - zero, 0)


def _interval(graph: Graph, tensor: int, producers: dict[int, Any]) -> Interval:
    whole = np.iinfo(graph.dtype(tensor))
    low, high = int(whole.min), int(whole.max)
    op = producers.get(tensor)
    if op is None:
        return low, high
    kind = graph.kind(op)
    if kind in _PASSING and _grid(graph, op.inputs[0]) == _grid(graph, tensor):
        return _interval(graph, op.inputs[0], producers)
    if kind == "CONCATENATION" and all(_grid(graph, t) == _grid(graph, tensor) for t in op.inputs):
        found = [_interval(graph, t, producers) for t in op.inputs]
        return min(each[0] for each in found), max(each[1] for each in found)
    if kind in ("MAXIMUM", "MINIMUM") and (fixed := graph.constant(op.inputs[1])) is not None:
        before = _interval(graph, op.inputs[0], producers)
        ends = [fixed.min(), fixed.max()]
        bound: Callable[[Sequence[int]], int] = max if kind == "MAXIMUM" else min
        if _grid(graph, op.inputs[0]) == _grid(graph, tensor) == _grid(graph, op.inputs[1]):
            return int(bound([before[0], ends[0]])), int(bound([before[1], ends[1]]))
    return _clipped(graph, op, tensor, (low, high))


def _clipped(graph: Graph, op: Any, tensor: int, whole: Interval) -> Interval:
    """What the activation fused into an operator leaves."""
    quantization = graph.quantization(tensor)
    if quantization is None:
        return whole
    ends = fused_limits(op, float(quantization[0][0]), int(quantization[1]))
    return max(whole[0], ends[0]), min(whole[1], ends[1])


def _zero_point(graph: Graph, tensor: int) -> int:
    quantization = graph.quantization(tensor)
    return 0 if quantization is None else int(quantization[1])


def _grid(graph: Graph, tensor: int) -> tuple[Any, ...] | None:
    quantization = graph.quantization(tensor)
    return None if quantization is None else (*map(float, quantization[0]), int(quantization[1]))


def _observed(
    content: bytes, graph: Graph, layers: Sequence[_Layer], rows: Sequence[AccumulatorRow], x: Any, width: int | None
) -> list[AccumulatorRow]:
    """Rows with what the sums are for some inputs: the integers are the reference kernels', the sums NumPy's."""
    runner = runner_of("reference")
    arrays = deployed.grouped_inputs(runner, content, x)
    wanted = [graph.name(layer.op.inputs[0]) for layer in layers]
    ends: list[Interval] = [(0, 0)] * len(layers)
    over, counted = np.zeros(len(layers), np.int64), np.zeros(len(layers), np.int64)
    for part in cut(arrays, SAMPLES_AT_ONCE):
        values = runner.tensors(content, part, list(dict.fromkeys(wanted)))
        for number, (layer, name) in enumerate(zip(layers, wanted, strict=True)):
            given = values[name].reshape(-1, *graph.shape(layer.op.inputs[0])[1:])
            found = (sums(graph, layer.op, given) - layer.left) // layer.step
            seen = (int(found.min()), int(found.max()))
            ends[number] = seen if not counted[number] else _joined(ends[number], seen)
            counted[number] += found.size
            if width is not None:
                half = 2 ** (width - 1)
                over[number] += int(((found < -half) | (found >= half)).sum())
    return [
        replace(
            row,
            observed_low=low,
            observed_high=high,
            observed_bits=bits_of(low, high),
            overflows=None if width is None else float(beyond / of),
        )
        for row, (low, high), beyond, of in zip(rows, ends, over, counted, strict=True)
    ]


def _joined(one: Interval, other: Interval) -> Interval:
    return min(one[0], other[0]), max(one[1], other[1])
