"""The cell states of unrolled LSTMs in a flat model, and their ranges."""

from __future__ import annotations

import re
from typing import Any

import keras

from keras_compress.calibration.cells import CellRange, end_of_use
from keras_compress.convert.expand.masks import HELD
from keras_compress.graph import graph
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.quantizers.kinds import activation_name

Node = Any
_CELL = re.compile(rf"\.step\d+\.((?:.*\.)?)(kept_|{HELD})?carry$")


def is_cell(path: str) -> bool:
    """Whether a call gives cell states, or the part of them that is kept, or what a mask makes of them."""
    return _CELL.search(path) is not None


def fit_cells(model: keras.Model) -> None:
    """Cut the ranges of cell states to what is of use, layer by layer.

    States that something else reads than the next step and a tanh keep the measured range: what they are for is not
    known. What a mask makes of a state has its range, so that a step that counts is not rounded again.

    Args:
        model: Flat model whose points are calibrated.
    """
    held, cells = _by_path(model, HELD), _by_path(model, "")
    pairs = [(cells[path], quantizer) for path, quantizer in held.items() if path in cells]
    for cell, quantizer in pairs:
        (low, high), (other_low, other_high) = cell.range(), quantizer.range()
        cell.set_range(min(low, other_low), max(high, other_high))
    _cut_cells(model)
    for cell, quantizer in pairs:
        quantizer.set_range(*cell.range())


def _by_path(model: keras.Model, prefix: str) -> dict[str, CellRange]:
    """Path of a state -> the range of the point behind it, or behind what a prefix says is made of it."""
    found = {}
    for point in model.layers:
        if isinstance(point, QuantizeActivation) and isinstance(point.quantizer, CellRange):
            match = _CELL.search(str(point.stands_for))
            if match is not None and (match[2] or "") == prefix:
                found[str(point.stands_for).replace(f"{prefix}carry", "carry")] = point.quantizer
    return found


def _cut_cells(model: keras.Model) -> None:
    table, layers = graph.consumers(model), _by_layer(model)
    for kept, cells in layers.values():
        quantizers = [node.operation.quantizer for node in (*kept, *cells)]
        seen = [quantizer.taken() for quantizer in quantizers]
        outputs = {id(tensor) for tensor in graph.functional(model).outputs}
        known = all(values is not None for values in seen) and len(kept) == len(cells)
        if not known or not all(_only_tanh_reads(node, table, outputs) for node in cells):
            continue
        end = end_of_use(seen[: len(kept)], seen[len(kept) :])
        for number, quantizer in enumerate(quantizers):
            quantizer.cut(end, kept=number < len(kept))


def _by_layer(model: keras.Model) -> dict[str, tuple[list[Node], list[Node]]]:
    """Layer -> the points of what its steps keep and of their states, in the order of computation."""
    found: dict[str, tuple[list[Node], list[Node]]] = {}
    for node in graph.nodes(model):
        point = node.operation
        if isinstance(point, QuantizeActivation) and isinstance(point.quantizer, CellRange):
            path = str(point.stands_for)
            match = _CELL.search(path)
            if match is not None and match[2] != HELD:
                pair = found.setdefault(f"{path[: match.start()]} {match[1]}", ([], []))
                pair[0 if match[2] else 1].append(node)
    return found


def _only_tanh_reads(node: Node, table: dict[int, list[Node]], outputs: set[int]) -> bool:
    """Whether states go to a tanh and to the product of the next step only."""
    tensor = node.outputs[0]
    readers = [reader.operation for reader in table.get(id(tensor), [])]
    functions = [r for r in readers if not isinstance(r, keras.layers.Multiply)]
    return id(tensor) not in outputs and bool(functions) and all(activation_name(f) == "tanh" for f in functions)
