"""What two `.tflite` files of one model have in common: operators, constants, grids, interface, outputs."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import common  # noqa: F401  (puts the code beside the benchmarks first)
import numpy as np

from keras_compress.tflite.flatbuffer import Graph, read_model

Array = np.ndarray[Any, Any]
# Type, scales, zero points.
Grid = tuple[str, tuple[float, ...], tuple[int, ...]]
_BIAS_TYPES = ("int32", "int64")


@dataclass(frozen=True)
class Constant:
    """One constant as one operator reads it.

    Attributes:
        reader: Kind of the operator.
        role: `"weight"`, `"bias"` (of 32 bits or more), `"encoded"` (bytes that the runtime decodes) or `"float"`.
        values: In the file's order.
        grid: Its type, scales and zero points.
    """

    reader: str
    role: str
    values: Array
    grid: Grid

    @property
    def key(self) -> tuple[str, bytes, Grid]:
        """What is equal for constants that are: shapes and readers may differ."""
        return self.role, self.values.tobytes(), self.grid

    def __str__(self) -> str:
        return f"{self.role} of {self.values.size} {self.grid[0]} in {self.reader}"


@dataclass
class Anatomy:
    """What a file is made of.

    Attributes:
        size: In bytes.
        operators: Their kinds, in order.
        constants: As operators read them, in order; shapes, axes and the like are left out.
        grids: Tensor that is computed and quantized -> its grid.
        interface: Inputs and outputs in order with names, types, shapes and grids, and the signature's entries.
        steps: For each output the scale of the integers behind it, 0 where it is float.
    """

    size: int
    operators: list[str] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)
    grids: dict[str, Grid] = field(default_factory=dict)
    interface: dict[str, list[str]] = field(default_factory=dict)
    steps: list[float] = field(default_factory=list)


def anatomy(content: bytes) -> Anatomy:
    """Takes a file apart."""
    model = read_model(content)
    found = Anatomy(len(content))
    for number in range(len(model.subgraphs)):
        graph = Graph(model, number)
        for op in graph.operators:
            kind = graph.custom_name(op) or graph.kind(op)
            found.operators.append(kind)
            found.constants += [c for c in (_constant(graph, kind, i) for i in op.inputs if i >= 0) if c]
        for tensor in range(len(graph.tensors)):
            grid = _grid(graph, tensor)
            if grid[1] and not graph.is_constant(tensor):
                found.grids[f"{number or ''}{graph.name(tensor)}#{tensor}"] = grid
    graph = Graph(model)
    found.interface = _interface(graph)
    found.steps = [_step(graph, tensor) for tensor in graph.outputs]
    return found


def _grid(graph: Graph, tensor: int) -> Grid:
    quantization = graph.tensors[tensor].quantization
    scales = () if quantization is None or quantization.scale is None else tuple(map(float, quantization.scale))
    points = () if not scales or quantization.zeroPoint is None else tuple(map(int, quantization.zeroPoint))
    return graph.dtype(tensor), scales, points


def _constant(graph: Graph, kind: str, tensor: int) -> Constant | None:
    values, grid = graph.constant(tensor), _grid(graph, tensor)
    if values is None:
        return None
    if grid[1]:
        role = "bias" if grid[0] in _BIAS_TYPES else "weight"
    elif grid[0].startswith("float"):
        role = "float"
    elif grid[0] == "uint8":
        role = "encoded"
    else:
        return None
    return Constant(kind, role, values.reshape(-1), grid)


def _interface(graph: Graph) -> dict[str, list[str]]:
    def shown(tensor: int) -> str:
        return f"{graph.shape(tensor)} {_grid(graph, tensor)}"

    found = {
        "input": [shown(tensor) for tensor in graph.inputs],
        "output": [shown(tensor) for tensor in graph.outputs],
        "input tensor": [graph.name(tensor) for tensor in graph.inputs],
        "output tensor": [graph.name(tensor) for tensor in graph.outputs],
        "signature": [],
    }
    for signature in graph.model.signatureDefs or []:
        for kind, entries, ends in (
            ("input", signature.inputs, graph.inputs),
            ("output", signature.outputs, graph.outputs),
        ):
            places = {tensor: place for place, tensor in enumerate(ends)}
            found["signature"] += [
                f"{signature.signatureKey.decode()}: {kind} {entry.name.decode()} is {places.get(entry.tensorIndex)}"
                for entry in entries
            ]
    return found


def _step(graph: Graph, tensor: int) -> float:
    """Scale of an output, or of what is dequantized into it."""
    producer = graph.producers().get(tensor)
    if producer is not None and graph.kind(producer) == "DEQUANTIZE":
        tensor = producer.inputs[0]
    scales = _grid(graph, tensor)[1]
    return scales[0] if scales else 0.0


@dataclass
class Part:
    """How one part of the new file compares.

    Attributes:
        state: `"same"`, `"better"`, `"changed"`, or `"told"`: changed in what does not matter to users of the file.
        text: A few words for the line of the model.
        details: Lines that say what differs.
    """

    state: str = "same"
    text: str = ""
    details: list[str] = field(default_factory=list)


def operators(old: Sequence[str], new: Sequence[str]) -> Part:
    """Kinds of operators; their order alone changes nothing that outputs do not show."""
    counts, now = collections.Counter(old), collections.Counter(new)
    lost, added = _listed(counts - now), _listed(now - counts)
    if not lost and not added:
        return Part() if list(old) == list(new) else Part("told", "operators in another order", [" ".join(new)])
    state = "better" if len(new) < len(old) else "changed" if len(new) > len(old) else "told"
    detail = f"operators gone: {lost or 'none'}; added: {added or 'none'}"
    return Part(state, f"{len(old)} -> {len(new)} operators", [detail])


def _listed(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def constants(old: Sequence[Constant], new: Sequence[Constant], fewer_operators: bool) -> Part:
    """Integers, scales, zero points of weights and biases: what one file alone has, side by side where it can be."""
    lost, added = _unmatched(old, new), _unmatched(new, old)
    if not lost and not added:
        same_order = [c.key for c in old] == [c.key for c in new]
        return Part() if same_order else Part("told", "constants in another order")
    details = []
    for before in list(lost):
        after = _counterpart(before, added)
        if after is not None:
            lost.remove(before)
            added.remove(after)
            details.append(_beside(before, after))
    pairs = len(details)
    details += [f"gone: {c}" for c in lost] + [f"added: {c}" for c in added]
    state = "better" if fewer_operators and not pairs and not added else "changed"
    counts = (f"{pairs} changed", f"{len(lost)} gone", f"{len(added)} added")
    return Part(state, "constants: " + ", ".join(c for c in counts if not c.startswith("0 ")), details)


def _unmatched(these: Iterable[Constant], those: Iterable[Constant]) -> list[Constant]:
    left = collections.Counter(c.key for c in those)
    found = []
    for constant in these:
        if left[constant.key]:
            left[constant.key] -= 1
        else:
            found.append(constant)
    return found


def _counterpart(old: Constant, among: Iterable[Constant]) -> Constant | None:
    """The constant of the same role and size that is most like it."""
    alike = (c for c in among if (c.role, c.values.size) == (old.role, old.values.size))
    return min(alike, key=lambda c: (not np.array_equal(c.values, old.values), c.reader != old.reader), default=None)


def _beside(old: Constant, new: Constant) -> str:
    """What differs between two constants of a size."""
    found = []
    difference = np.abs(old.values.astype(np.float64) - new.values.astype(np.float64))
    if difference.any():
        found.append(f"{np.count_nonzero(difference)} of {difference.size} values by up to {difference.max():.6g}")
        if np.array_equal(np.sort(old.values), np.sort(new.values)):
            found.append("the same values in another order")
    if old.grid[0] != new.grid[0]:
        found.append(f"type {old.grid[0]} -> {new.grid[0]}")
    if old.grid[1] != new.grid[1]:
        found.append(_scales(old.grid[1], new.grid[1]))
    if old.grid[2] != new.grid[2]:
        found.append(f"zero points {_short(old.grid[2])} -> {_short(new.grid[2])}")
    return f"{old}{'' if old.reader == new.reader else f' -> {new.reader}'}: " + "; ".join(found)


def _scales(old: tuple[float, ...], new: tuple[float, ...]) -> str:
    if len(old) != len(new) or not old:
        return f"{len(old)} -> {len(new)} scales"
    ratio = np.abs(np.array(new) / np.array(old) - 1.0).max()
    return f"scales {_short(old)} -> {_short(new)}, by up to {ratio:.2g} of theirs"


def _short(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.9g}" for value in values[:2]) + (", ..." if len(values) > 2 else "")


def grids(old: Anatomy, new: Anatomy, points: tuple[Mapping[str, str], Mapping[str, str]]) -> Part:
    """Scales and zero points of what is computed: at each activation point, and all others as a bag."""
    before, after = (_by_name(a.grids) for a in (old, new))
    details, shared = [], [p for p in points[0] if p in points[1]]
    for point in shared:
        was, now = before.get(points[0][point]), after.get(points[1][point])
        if was != now:
            details.append(f"point {point}: {was} -> {now}")
    at_points = len(details)
    bags = [collections.Counter(a.grids.values()) for a in (old, new)]
    # With fewer operators there are fewer tensors; a grid that was nowhere is a change.
    added = set(bags[1]) - set(bags[0])
    details += [f"new grid: {grid}" for grid in added] + [f"no more: {grid}" for grid in set(bags[0]) - set(bags[1])]
    fewer = len(new.operators) < len(old.operators)
    if at_points or added or (set(bags[0]) - set(bags[1]) and not fewer):
        return Part("changed", f"grids: {at_points} points, {len(added)} new", details)
    return Part("told" if details else "same", "fewer grids" if details else "", details)


def _by_name(found: Mapping[str, Grid]) -> dict[str, Grid]:
    return {name.rsplit("#", 1)[0]: grid for name, grid in found.items()}


def interface(old: Mapping[str, list[str]], new: Mapping[str, list[str]]) -> Part:
    """Inputs, outputs, their order, names and signature; names of tensors that a signature names otherwise are told."""
    details = [f"{key}: {old[key]} -> {new[key]}" for key in old if old[key] != new[key]]
    names_only = all(line.startswith(("input tensor", "output tensor")) for line in details)
    if not details:
        return Part()
    return Part("told" if names_only else "changed", "tensor names" if names_only else "interface", details)


def points(old: Mapping[str, str], new: Mapping[str, str]) -> Part:
    """Activation points that the file has tensors of: what `verify` compares."""
    lost, added = [p for p in old if p not in new], [p for p in new if p not in old]
    details = [f"point gone: {p}" for p in lost] + [f"point added: {p}" for p in added]
    if not details:
        return Part()
    return Part("changed" if lost else "told", f"{len(lost)} points gone, {len(added)} added", details)


def float_operators(old: Sequence[Sequence[str]], new: Sequence[Sequence[str]]) -> Part:
    """Kinds of operators left in float32."""
    before, after = (collections.Counter(op[0] for op in ops) for ops in (old, new))
    lost, added = _listed(before - after), _listed(after - before)
    if not lost and not added:
        return Part()
    details = [f"no more in float32: {lost or 'none'}; in float32 now: {added or 'none'}"]
    return Part("changed" if added else "better", f"{len(old)} -> {len(new)} float operators", details)


def notes(old: Sequence[str], new: Sequence[str]) -> Part:
    """What the conversion says it did."""
    details = [f"note gone: {n}" for n in old if n not in new] + [f"note added: {n}" for n in new if n not in old]
    return Part("told", "notes", details) if details else Part()


def outputs(kernel: str, old: Sequence[Array], new: Sequence[Array], steps: Sequence[float]) -> Part:
    """Outputs of one kernel: bit for bit, or by how many steps they differ."""
    if [a.shape for a in old] != [a.shape for a in new]:
        detail = f"{kernel}: shapes {[a.shape for a in old]} -> {[a.shape for a in new]}"
        return Part("changed", f"{kernel}: shapes", [detail])
    details, texts = [], []
    for number, (before, after) in enumerate(zip(old, new, strict=True)):
        if np.array_equal(before, after, equal_nan=True):
            continue
        difference = np.abs(before.astype(np.float64) - after.astype(np.float64))
        step = steps[number] if number < len(steps) else 0.0
        what = f"{difference.max() / step:.3g} steps" if step else f"{difference.max():.3g}"
        texts.append(what)
        share = f"{np.count_nonzero(difference)} of {difference.size}"
        details.append(f"{kernel}, output {number}: {share} values differ by up to {what}")
    return Part("changed", f"{kernel}: {', '.join(texts)}", details) if details else Part()
