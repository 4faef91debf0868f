"""`summary`: what is compressed where in a Keras model, and how far it has come."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from keras_compress.core.frozen import FrozenGrid
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.history import history_of
from keras_compress.core.printable import printable
from keras_compress.core.shown import Shown, names, text_console, written_to
from keras_compress.core.slots import Slot, skip_reason
from keras_compress.core.ste import value_of
from keras_compress.core.transform import WeightTransform
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph
from keras_compress.graph.model import check_model, inner, slots_in, unfinished
from keras_compress.post_training.record import record_of
from keras_compress.quantizers.activation import QuantizeActivation, TrainedQuantizer
from keras_compress.report.macs import positions_by_layer

if TYPE_CHECKING:
    from keras_compress.post_training.compare import PassReport
    from keras_compress.report.sheet import Sheet

FLOAT_BITS = 32


@dataclass(frozen=True)
class WeightRow:
    """One weight of the model, as the layer sees it in inference.

    Attributes:
        path: The layer's path, e.g. `"encoder/conv1"`.
        slot: The variable in it, e.g. `"kernel"`.
        layer: Class of the layer.
        shape: The weight's shape in Keras's layout.
        transforms: Class names of its transforms, in order.
        weight_bits: Width of its integers; 32 where no transform puts it on a grid.
        activation_bits: Width of the values that the layer hands on; 32 where they are not quantized.
        sparsity: Share of zeros now, in [0, 1].
        final_sparsity: What its pruning schedule ends with; `None` without one.
        group: Name of the pruning group that reaches `final_sparsity` as a whole, not layer by layer.
        distinct_values: Different integers now, zero counted; different values where it is on no grid of integers.
        elements: Number of weights.
        macs: Multiplications with an addition for one sample; `None` where the shapes do not tell.
        counted: Whether the totals count it: one weight in two places is stored once.
    """

    path: str
    slot: str
    layer: str
    shape: tuple[int, ...]
    transforms: tuple[str, ...]
    weight_bits: int
    activation_bits: int
    sparsity: float
    final_sparsity: float | None
    group: str | None
    distinct_values: int
    elements: int
    macs: int | None
    counted: bool = True

    @property
    def float32_bytes(self) -> int:
        """Bytes as float32."""
        return 4 * self.elements

    @property
    def packed_bytes(self) -> int:
        """Bytes if each weight took `weight_bits` bits, without scales and codebooks."""
        return math.ceil(self.elements * self.weight_bits / 8)

    @property
    def int8_bytes(self) -> int:
        """Bytes of the weights in an int8 file."""
        return self.elements


@dataclass(frozen=True, repr=False)
class ModelSummary(Shown):
    """What `summary` found. Sizes are those of the weights in the rows alone.

    Attributes:
        name: The model's name.
        rows: One for each compressible weight, in the order of the model.
        skipped: `(path, reason)` of layers that cannot be compressed.
        pending: `(path, what training has not finished)`.
        not_finite: `(path, training batches with values that are NaN or infinite, which the range leaves out)`.
        passes: What passes of post-training quantization changed, layer by layer; `None` without any.
        history: What methods did to the model and left, a line each; of a model that was loaded, nothing is known.
    """

    name: str
    rows: tuple[WeightRow, ...]
    skipped: tuple[tuple[str, str], ...]
    pending: tuple[tuple[str, str], ...]
    not_finite: tuple[tuple[str, int], ...] = ()
    passes: PassReport | None = None
    history: tuple[str, ...] = ()

    @property
    def elements(self) -> int:
        """Number of weights in the rows."""
        return self._total(lambda row: row.elements)

    @property
    def float32_bytes(self) -> int:
        """Bytes as float32."""
        return self._total(lambda row: row.float32_bytes)

    @property
    def packed_bytes(self) -> int:
        """Bytes at each weight's own width."""
        return self._total(lambda row: row.packed_bytes)

    @property
    def int8_bytes(self) -> int:
        """Bytes in an int8 file."""
        return self._total(lambda row: row.int8_bytes)

    @property
    def macs(self) -> int | None:
        """Multiplications for one sample; `None` where they are not known for some row."""
        known = [row.macs for row in self.rows if row.macs is not None]
        return sum(known) if len(known) == len(self.rows) else None

    @property
    def sparsity(self) -> float:
        """Share of zeros now."""
        return self._mean(lambda row: row.sparsity)

    @property
    def final_sparsity(self) -> float:
        """Share of zeros when all schedules have ended; weights without one stay as they are."""
        return self._mean(lambda row: row.sparsity if row.final_sparsity is None else row.final_sparsity)

    def _total(self, figure: Callable[[WeightRow], int]) -> int:
        return sum(figure(row) for row in self.rows if row.counted)

    def _mean(self, figure: Callable[[WeightRow], float]) -> float:
        """Mean over the weights, not over the rows."""
        return sum(figure(row) * row.elements for row in self.rows if row.counted) / max(self.elements, 1)

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines; `print` shows the table."""
        return f"ModelSummary of {self.name}: {len(self.rows)} compressible weights, {self.elements:,} numbers", [
            ("bytes", f"{self.float32_bytes:,} as float32, {self.packed_bytes:,} at their own widths"),
            ("zeros", f"{self.sparsity:.1%} now, {self.final_sparsity:.1%} in the end"),
            ("not finished", names([f"{path}: {message}" for path, message in self.pending], ".pending")),
            ("left as is", names([f"{path}: {reason}" for path, reason in self.skipped], ".skipped")),
        ]

    def table(self) -> Sheet:
        """The rows and totals as a rich table."""
        from keras_compress.report.tables import summary_table

        return summary_table(self)

    def notes(self) -> list[str]:
        """What the table cannot say, line by line: the skipped layers, and what training has not finished."""
        said = ["Figures of the Keras model; `inspect_tflite` reads those of a file."]
        if any(row.group for row in self.rows):
            said.append("A name in brackets is a pruning group: its layers reach the sparsity together.")
        paths: dict[str, list[str]] = {}
        for path, message in self.pending:
            paths.setdefault(message, []).append(path)
        said += [f"Not finished: {message}: {', '.join(listed)}" for message, listed in paths.items()]
        said += self._missed()
        said += [f"{line}." for line in self.history]
        said += [
            f"Not finite: {number:,} training batches at {path} held NaN or infinite values: the range leaves them out."
            for path, number in self.not_finite
        ]
        return said + [f"Left as it is: {path}: {reason}" for path, reason in self.skipped]

    def _missed(self) -> list[str]:
        """Where the schedule has ended and fewer weights are zero than it asked for, one by one or as a group."""
        unfinished = {path for path, _ in self.pending}
        wanted: dict[tuple[str, str], list[WeightRow]] = {}
        for row in self.rows:
            if row.final_sparsity is not None and row.counted:
                key = ("the group", row.group) if row.group else (row.path, row.slot)
                wanted.setdefault(key, []).append(row)
        said = []
        for key, rows in wanted.items():
            elements, target = sum(row.elements for row in rows), rows[0].final_sparsity or 0.0
            zeros = round(sum(row.sparsity * row.elements for row in rows))
            if zeros < round(target * elements) and not any(row.path in unfinished for row in rows):
                said.append(
                    f"Sparsity reached: {zeros / elements:.4g} of {target:.4g} at {' '.join(key)}: "
                    f"{zeros:,} of {elements:,} weights are zero."
                )
        return said

    def __str__(self) -> str:
        console = text_console()
        self._print(console)
        return written_to(console)

    def _print(self, console: Any) -> None:
        console.print(self.table())
        if self.passes is not None:
            from keras_compress.report.tables import passes_table

            console.print(passes_table(self.passes))
        for line in self.notes():
            console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


@global_state_kept()
def summary(model: keras.Model, print_fn: Callable[[str], Any] | None = None) -> ModelSummary:
    """Print a table of a model's weights: transforms, bits, sparsity, distinct values, bytes and multiplications.

    The figures are those of the transformed weights, as the layers see them in inference now.

    Args:
        model: Functional, Sequential or subclassed model, plain, made by this library, or frozen.
        print_fn: Called with the whole text in place of printing it, as in `keras.Model.summary`.

    Returns:
        The figures.

    Raises:
        TypeError: For anything but a Keras 3 model.
        ValueError: For an unbuilt model.
    """
    check_model(model)
    positions = positions_by_layer(model)
    activations = _activation_bits(model)
    variables: set[int] = set()
    rows: list[WeightRow] = []
    skipped = []
    for path, layer in graph.walk(model):
        if reason := skip_reason(inner(layer)):
            skipped.append((path, reason))
        for slot in filter(partial(_is_weight, layer), slots_in(layer)):
            row = _row(path, layer, slot, positions.get(id(layer)), activations.get(id(layer), FLOAT_BITS), variables)
            rows.append(row)
    pending, not_finite = tuple(_pending(model)), tuple(_not_finite(model))
    found = ModelSummary(
        *(model.name, _with_short_groups(rows), tuple(skipped), pending, not_finite),
        passes=record_of(model).report,
        history=history_of(model),
    )
    if print_fn is not None:
        print_fn(str(found))
    else:
        from rich.console import Console

        found._print(Console())
    return found


def _with_short_groups(rows: Sequence[WeightRow]) -> tuple[WeightRow, ...]:
    """The rows with groups numbered: in one table the part that tells models apart is noise."""
    names = dict.fromkeys(row.group for row in rows if row.group)
    short: dict[str | None, str] = {}
    for name in names:
        stem = name.partition("-")[0]
        taken = sum(each.rpartition("_")[0] == stem or each == stem for each in short.values())
        short[name] = f"{stem}_{taken}" if taken else stem
    return tuple(replace(row, group=short.get(row.group)) for row in rows)


def _is_weight(layer: Any, slot: Slot) -> bool:
    """Not for the biases that `freeze` puts on a grid, or that are masked: they are no part of what is compressed."""
    listed = layer.transform_list if isinstance(layer, Compressed) else ()
    with_biases = any(isinstance(t, FrozenGrid) or t.ended_by for t in listed)
    return not (with_biases and len(slot.variable(inner(layer)).shape) == 1)


def _row(path: str, layer: Any, slot: Slot, positions: int | None, activation_bits: int, seen: set[int]) -> WeightRow:
    variable = slot.variable(inner(layer))
    transforms = layer.transforms.get(slot.name, []) if isinstance(layer, Compressed) else []
    weight = ops.convert_to_numpy(layer.weight(slot.name) if transforms else variable)
    grids = [t.integer_weight(layer.weight(slot.name, stop_before=t)) for t in transforms]
    final, group = _end_of_schedule(transforms)
    counted = id(variable) not in seen
    seen.add(id(variable))
    return WeightRow(
        path=path,
        slot=slot.name,
        layer=type(inner(layer)).__name__,
        shape=tuple(weight.shape),
        transforms=tuple(type(t).__name__ for t in transforms),
        weight_bits=next((grid.bits for grid in reversed(grids) if grid is not None), FLOAT_BITS),
        activation_bits=activation_bits,
        sparsity=float(np.mean(weight == 0)),
        final_sparsity=final,
        group=group,
        # One integer under many scales is many values, but one entry of a code book.
        distinct_values=len(np.unique(grids[-1].integers if grids and grids[-1] is not None else weight)),
        elements=weight.size,
        macs=None if positions is None else positions * weight.size,
        counted=counted,
    )


def _end_of_schedule(transforms: Sequence[WeightTransform]) -> tuple[float | None, str | None]:
    """Final sparsity and group of the pruner in a list of transforms."""
    for transform in transforms:
        schedule = getattr(transform, "schedule", None)
        if schedule is not None and getattr(transform, "has_target", True):
            # N:M pruners have their sparsity in the pattern; the schedule only says when.
            zeros, of = getattr(transform, "sparsity_m_by_n", (None, 1))
            return schedule.final_value() if zeros is None else zeros / of, getattr(transform, "group", None)
    return None, None


def _activation_bits(model: keras.Model, outside: int = FLOAT_BITS) -> dict[int, int]:
    """`id(layer)` -> bits of the first activation point behind the layer, before another weight.

    Args:
        model: Any model; of one without a graph, nothing is known.
        outside: Bits of what the model's outputs become.
    """
    bits: dict[int, int] = {}
    if not graph.is_graph(model):
        return bits
    table = graph.consumers(model)
    ends = {id(tensor) for tensor in graph.functional(model).outputs}
    for node in graph.nodes(model):
        layer = node.operation
        if graph.is_graph(layer):
            bits.update(_activation_bits(layer, _bits_behind(node, table, ends, outside)))
        elif isinstance(layer, keras.layers.Layer) and slots_in(layer):
            bits[id(layer)] = _bits_behind(node, table, ends, outside)
    return bits


def _bits_behind(node: Any, table: dict[int, list[Any]], ends: set[int], outside: int) -> int:
    waiting, seen = [node], {id(node)}
    while waiting:
        outputs = waiting.pop(0).outputs
        if any(id(tensor) in ends for tensor in outputs):
            return outside
        for reader in (r for t in outputs for r in table.get(id(t), [])):
            operation = reader.operation
            if isinstance(operation, QuantizeActivation):
                return int(operation.quantizer.bits)
            weighted = isinstance(operation, keras.layers.Layer) and bool(slots_in(operation))
            if id(reader) not in seen and not weighted:
                seen.add(id(reader))
                waiting.append(reader)
    return FLOAT_BITS


def _pending(model: keras.Model) -> Iterator[tuple[str, str]]:
    for path, layer in graph.walk(model):
        if isinstance(layer, Compressed):
            yield from ((path, message) for message in unfinished(layer))
        elif isinstance(layer, QuantizeActivation) and not layer.quantizer.trained():
            yield path, "its range was never trained"


def _not_finite(model: keras.Model) -> Iterator[tuple[str, int]]:
    for path, layer in graph.walk(model):
        point = layer.input_point if isinstance(layer, Compressed) else layer
        if isinstance(point, QuantizeActivation) and isinstance(point.quantizer, TrainedQuantizer):
            number = int(value_of(point.quantizer.not_finite))
            if number:
                yield path, number
