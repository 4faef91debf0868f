"""Units that pruning left without use, cut out of an integer graph: the same outputs from fewer weights."""

from __future__ import annotations

from typing import Any

import keras_compress.tflite.dead_units  # noqa: F401 (its rules register themselves)
from keras_compress.tflite.dead_units.cut import Cut
from keras_compress.tflite.dead_units.narrowing import narrow_inputs
from keras_compress.tflite.dead_units.rule import look, rule_for
from keras_compress.tflite.dead_units.units import WEIGHTED, width
from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.lowering.versions import set_versions


def drop_dead_units(graph: Graph, *, bits_per_weight: float = 1.0) -> list[str]:
    """Remove channels and neurons that are constant or that nothing reads, and inputs that nothing reads.

    A unit without weights gives a constant, which goes into the bias of the layers behind it. What the rules do not
    know stays whole: an operator of another kind, packed weights, a constant on which the kernels' roundings differ.
    Each tensor keeps one channel at least, and the graph's inputs and outputs keep all; where a layer ignores some of
    its inputs that cannot go, a SLICE or GATHER is put before it if that saves bytes.

    Outputs are the same integers for every input, on TFLite-Micro, LiteRT's reference kernels and XNNPACK. LiteRT's
    built-in depthwise kernel rounds a channel in one of two ways, by its place, and so may differ from itself by 1.

    Args:
        graph: Integer graph: int8, or int16 with int8 weights.
        bits_per_weight: What a weight of 0 takes in the file: 8 in a plain one, about 1 in an encoded one.

    Returns:
        A note for each layer that lost something and each operator inserted; none where the graph is as it was.

    Raises:
        ValueError: `bits_per_weight` is negative.
    """
    if not bits_per_weight >= 0:
        raise ValueError(f"Expected bits_per_weight >= 0. Received: bits_per_weight={bits_per_weight}")
    before = _sizes(graph)
    notes: list[str] = []
    while cut := Cut(look(graph)):
        for op, rule in [(op, rule_for(cut.units, op)) for op in graph.operators]:
            if rule is not None:
                rule.cut(cut, op)
        cut.finish()
        notes = _notes(graph, before) or ["channels that nothing reads are gone"]
    narrowed = narrow_inputs(graph, bits_per_weight)
    if narrowed:
        set_versions(graph)
    return notes + narrowed


def _sizes(graph: Graph) -> dict[int, tuple[int, int]]:
    """Place of an operator with weights -> outputs and columns of its weight."""
    return {
        place: (width(graph, op.outputs[0]), _columns(graph, op))
        for place, op in enumerate(graph.operators)
        if graph.kind(op) in WEIGHTED
    }


def _columns(graph: Graph, op: Any) -> int:
    # A depthwise weight has a column for each output.
    return 1 if graph.kind(op) == "DEPTHWISE_CONV_2D" else width(graph, op.inputs[1])


def _notes(graph: Graph, before: dict[int, tuple[int, int]]) -> list[str]:
    """A line for each operator whose weight became smaller."""
    notes = []
    for place, sizes in _sizes(graph).items():
        if sizes != before[place]:
            op = graph.operators[place]
            counts = zip(sizes, before[place], ("outputs", "inputs"), strict=True)
            left = " and ".join(f"{after} of {old} {what}" for after, old, what in counts if after != old)
            notes.append(f"{graph.kind(op)} {graph.name(op.outputs[0])!r}: {left} are left")
    return notes
