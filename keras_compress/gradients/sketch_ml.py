"""SketchML: sparse gradients by sketches of their values and differences of their keys."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.core.registry import register
from keras_compress.gradients.codec import (
    Array,
    GradientCodec,
    Gradients,
    Shapes,
    WorkerState,
    check_integer,
    check_number,
    is_number,
    sizes,
)
from keras_compress.gradients.message import Reader, Writer
from keras_compress.gradients.min_max_sketch import MinMaxSketch
from keras_compress.gradients.packing import read_bits, read_keys, write_bits, write_keys
from keras_compress.gradients.quantiles import SKETCHES


@register("gradient_codec")
class SketchML(GradientCodec):
    """For sparse gradients: keys by their differences, values by their bucket, whose index is in a MinMaxSketch.

    All gradients are one list of keys (places) and values that are not 0; negative and positive values are written
    apart.
    **Buckets** ends are quantiles of the magnitudes, so that all hold as many; a bucket stands for the middle of its
    ends, and 0 is the smallest one.
    **Groups** of neighbouring buckets have a `MinMaxSketch` each, of `ceil(bins n)` cells a row for its n keys.
    **Decoded** the middle of the bucket that the sketch tells: that of the value, or of a smaller one of its group.
    No sign changes, and no magnitude becomes larger than its bucket's middle.

    Gradients decay, which Adam and others of its kind make up for. Where most values are not 0, a key takes more than a
    byte, and little is gained; a message holds `8 * buckets` bytes beside the values.

    Args:
        buckets: For each sign; a multiple of `groups`, 65,536 at the most.
        groups: 1 at least.
        rows: Hash functions of a sketch, 1 to 16.
        bins: Cells in a row for each key, above 0, to 1.
        sketch: `"exact"`, or `"kll"`: quantiles by a sketch, of the package `datasketches` (extra `sketches`).
        seed: Of the hash functions.

    Raises:
        ValueError: For arguments out of range.

    **Reference**: Jiang et al., "SketchML: Accelerating Distributed Machine Learning with Data Sketches" (SIGMOD
    2018), section 3.
    **Deviations**: cells hold the index within the group, in as many bits as it needs, and not a byte; quantiles are
    exact unless a sketch is asked for.
    """

    def __init__(
        self,
        buckets: int = 128,
        groups: int = 8,
        rows: int = 2,
        bins: float = 0.2,
        sketch: str = "exact",
        seed: int = 0,
    ) -> None:
        self.groups = check_integer("groups", groups, 1, 2**16)
        self.buckets = check_integer("buckets", buckets, 1, 2**16)
        if buckets % groups:
            raise ValueError(f"Expected `buckets` as a multiple of `groups`. Received: {buckets} and {groups}")
        self.rows = check_integer("rows", rows, 1, 16)
        self.bins = check_number("bins", bins, "0 < `bins` <= 1", is_number(bins) and 0 < bins <= 1)
        if sketch not in SKETCHES:
            raise ValueError(f"Expected `sketch` out of {sorted(SKETCHES)}. Received: sketch={sketch!r}")
        self.sketch = sketch
        self.seed = check_integer("seed", seed, 0, 2**31 - 1)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"buckets": 12, "groups": 3, "rows": 3, "bins": 0.5, "seed": 1}]

    def write(self, name: str, gradient: Array, state: WorkerState, writer: Writer) -> None:
        self.write_all({name: gradient}, state, writer)

    def read(self, reader: Reader, shape: tuple[int, ...]) -> Array:
        return self.read_all(reader, {"": shape})[""]

    def write_all(self, gradients: Gradients, state: WorkerState, writer: Writer) -> None:
        values = np.concatenate([each.reshape(-1) for each in gradients.values()])
        for chosen in (values > 0, values < 0):
            keys = np.flatnonzero(chosen)
            self._write_magnitudes(keys, np.abs(values[keys]), writer)

    def read_all(self, reader: Reader, shapes: Shapes) -> dict[str, Array]:
        values = np.zeros(sizes(shapes.values()), np.float32)
        for sign in (np.float32(1.0), np.float32(-1.0)):
            for keys, magnitudes in self._read_magnitudes(reader):
                values[keys] = sign * magnitudes
        ends = np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1]
        parts = np.split(values, ends)
        return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    def bucketed(self, magnitudes: Array) -> tuple[NDArray[np.int64], Array]:
        """The bucket of each magnitude, and what each bucket stands for."""
        ends = SKETCHES[self.sketch](magnitudes, self.buckets)
        # Halves first: the sum of two may leave float32.
        middles = (ends[:-1] / 2 + ends[1:] / 2).astype(np.float32)
        return np.searchsorted(ends[1:-1], magnitudes, side="right").astype(np.int64), middles

    @property
    def _bits(self) -> int:
        return (self.buckets // self.groups - 1).bit_length()

    def _write_magnitudes(self, keys: NDArray[np.int64], magnitudes: Array, writer: Writer) -> None:
        writer.numbers(len(keys))
        if not len(keys):
            return
        indices, middles = self.bucketed(magnitudes)
        writer.array(middles, "<f4")
        width = self.buckets // self.groups
        groups = (indices // width).astype(np.uint16)
        # Stable: keys stay in order.
        order = np.argsort(groups, kind="stable")
        ends = np.bincount(groups, minlength=self.groups).cumsum()[:-1]
        for group, chosen in enumerate(np.split(order, ends)):
            self._write_group(keys[chosen], indices[chosen] - group * width, writer)

    def _write_group(self, keys: NDArray[np.int64], indices: NDArray[np.int64], writer: Writer) -> None:
        writer.numbers(len(keys))
        if len(keys):
            sketch = MinMaxSketch.empty(self.rows, self._bins_of(len(keys)), self.buckets // self.groups - 1, self.seed)
            sketch.insert(keys, indices)
            write_keys(writer, keys)
            write_bits(writer, sketch.cells.reshape(-1), self._bits)

    def _read_magnitudes(self, reader: Reader) -> list[tuple[NDArray[np.int64], Array]]:
        (count,) = reader.numbers(1)
        if not count:
            return []
        middles = reader.array("<f4", self.buckets)
        width = self.buckets // self.groups
        return [self._read_group(reader, middles[start : start + width]) for start in range(0, self.buckets, width)]

    def _read_group(self, reader: Reader, middles: Array) -> tuple[NDArray[np.int64], Array]:
        (count,) = reader.numbers(1)
        if not count:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        keys = read_keys(reader, count)
        bins = self._bins_of(count)
        cells = read_bits(reader, self.rows * bins, self._bits).reshape(self.rows, bins)
        return keys, middles[MinMaxSketch(cells, self.seed).query(keys)]

    def _bins_of(self, keys: int) -> int:
        return math.ceil(self.bins * keys)
