"""CONCATENATION and the pads: outputs that come from several places."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_compress.tflite.dead_units.cut import Cut, own
from keras_compress.tflite.dead_units.rounding import Known
from keras_compress.tflite.dead_units.rule import Rule, same_grid
from keras_compress.tflite.dead_units.units import Units, grid_of, width
from keras_compress.tflite.flatbuffer import Graph


class Concatenation(Rule):
    """Inputs side by side on the last axis, or one after the other on another."""

    handles = ("CONCATENATION",)

    def fits(self, units: Units, op: Any) -> bool:
        widths, output = [width(units.graph, t) for t in op.inputs], width(units.graph, op.outputs[0])
        constant = any(units.graph.is_constant(t) for t in op.inputs)
        plain = not getattr(op.builtinOptions, "fusedActivationFunction", 0) and not constant
        return plain and (sum(widths) == output if _along_last(units.graph, op) else set(widths) == {output})

    def tie(self, units: Units, op: Any) -> None:
        output, start = units.of(op.outputs[0]), 0
        for tensor in op.inputs:
            places = units.of(tensor)
            units.tie(places, output[start : start + places.size])
            start += places.size if _along_last(units.graph, op) else 0
        units.open(op.outputs[0])

    def known(self, units: Units, op: Any) -> Known | None:
        grids = {grid_of(units.graph, t) for t in (*op.inputs, op.outputs[0])}
        if len(grids) > 1 or None in grids:
            return None
        parts = [units.known(t) for t in op.inputs]
        if _along_last(units.graph, op):
            return Known(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        values = np.stack([part.values for part in parts])
        return Known(values[0], np.all([part.sure for part in parts], axis=0) & (values == values[0]).all(0))


class Pad(Rule):
    """Zeros, or the value of PADV2, around the data; those beside the channels are channels of their own."""

    handles = ("PAD", "PADV2")

    def fits(self, units: Units, op: Any) -> bool:
        paddings = units.graph.constant(op.inputs[1])
        if paddings is None or paddings.shape != (len(units.graph.shape(op.inputs[0])), 2):
            return False
        if len(op.inputs) > 2 and not (units.graph.is_constant(op.inputs[2]) and same_grid(units.graph, op)):
            return False
        return width(units.graph, op.inputs[0]) + int(paddings[-1].sum()) == width(units.graph, op.outputs[0])

    def tie(self, units: Units, op: Any) -> None:
        places, before = units.of(op.inputs[0]), _paddings(units.graph, op)[-1, 0]
        units.tie(places, units.of(op.outputs[0])[before : before + places.size])
        units.open(op.outputs[0])

    def known(self, units: Units, op: Any) -> Known | None:
        grid = grid_of(units.graph, op.outputs[0])
        if grid is None or not same_grid(units.graph, op):
            return None
        given = units.graph.constant(op.inputs[2]) if len(op.inputs) > 2 else None
        value = grid.zero_point if given is None else int(given.reshape(-1)[0])
        paddings, data = _paddings(units.graph, op), units.known(op.inputs[0])
        if paddings[:-1].any():
            data = data.where(data.values == value)
        around = paddings[-1]
        return Known(
            np.pad(data.values, around, constant_values=value), np.pad(data.sure, around, constant_values=True)
        )

    def cut(self, cut: Cut, op: Any) -> None:
        paddings, kept = _paddings(cut.graph, op).copy(), cut.kept(op.outputs[0])
        if kept.all() or not paddings[-1].any():
            return
        before, after = paddings[-1]
        paddings[-1] = kept[:before].sum(), kept[kept.size - after :].sum()
        cut.graph.set_constant(own(cut.graph, op, 1), paddings)


class MirrorPad(Rule):
    """The data's own values around it."""

    handles = ("MIRROR_PAD",)

    def fits(self, units: Units, op: Any) -> bool:
        return units.graph.is_constant(op.inputs[1]) and super().fits(units, op)

    def known(self, units: Units, op: Any) -> Known | None:
        return units.known(op.inputs[0]) if same_grid(units.graph, op) else None


def _along_last(graph: Graph, op: Any) -> bool:
    axis, rank = op.builtinOptions.axis, len(graph.shape(op.outputs[0]))
    return bool(axis % rank == rank - 1)


def _paddings(graph: Graph, op: Any) -> Any:
    return graph.constant(op.inputs[1])
