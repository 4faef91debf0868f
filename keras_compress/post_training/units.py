"""Which calls of a model are reconstructed together: each layer with what is fused into it, or blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph
from keras_compress.post_training.opened import wrappers_of
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.quantizers.kinds import Kind, kind_of

# Of larger blocks (a net without a cut, such as a U-Net) the layers are taken one by one.
LARGEST_BLOCK = 10
Unit = list[int]


def layer_units(flat: keras.Model) -> list[Unit]:
    """Positions of calls: a layer with weights, the BatchNormalization and ReLU behind it; others alone."""
    calls = graph.nodes(flat)
    positions = {id(node): position for position, node in enumerate(calls)}
    table = graph.consumers(flat)
    taken: set[int] = set()
    units = []
    for position, node in enumerate(calls):
        if position in taken:
            continue
        unit = [position]
        if isinstance(node.operation, Compressed):
            reader = graph.sole_consumer(node, flat, table)
            while reader is not None and kind_of(reader.operation) in (Kind.NORM, Kind.CLAMP):
                unit.append(positions[id(reader)])
                reader = graph.sole_consumer(reader, flat, table)
        taken.update(unit)
        units.append(unit)
    return units


def block_units(flat: keras.Model) -> list[Unit]:
    """Positions of calls between the tensors through which everything goes; a block begins with a point.

    A residual block is one, and so is each layer of a plain chain.
    """
    calls = graph.nodes(flat)
    starts = sorted({0, *_cuts(flat)})
    blocks = [list(range(start, end)) for start, end in zip(starts, [*starts[1:], len(calls)], strict=True)]
    large = {p for block in blocks if _weighted(calls, block) > LARGEST_BLOCK for p in block}
    by_layer = [unit for unit in layer_units(flat) if unit[0] in large]
    return sorted([*(block for block in blocks if block[0] not in large), *by_layer])


def _weighted(calls: Sequence[Any], block: Unit) -> int:
    return sum(bool(wrappers_of(calls[position])) for position in block)


def _cuts(flat: keras.Model) -> list[int]:
    """Positions of points before which one tensor alone is needed from there on."""
    calls = graph.nodes(flat)
    last = {id(t): position for position, node in enumerate(calls) for t in node.input_tensors}
    last.update((id(t), len(calls)) for t in flat.outputs)
    live = {id(t) for t in flat.inputs}
    found = []
    for position, node in enumerate(calls):
        if len(live) == 1 and isinstance(node.operation, QuantizeActivation):
            found.append(position)
        live |= {id(t) for t in node.outputs}
        live -= {key for key in live if last.get(key, -1) <= position}
    return found
