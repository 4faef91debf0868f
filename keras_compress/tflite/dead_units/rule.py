"""What is known of one kind of operator to remove units around it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from keras_compress.tflite.dead_units.cut import Cut
from keras_compress.tflite.dead_units.rounding import Known
from keras_compress.tflite.dead_units.units import Units, grid_of, width
from keras_compress.tflite.flatbuffer import Graph


class Rule:
    """Operators of one data input and one output whose channels stay what they are, each for itself.

    A subclass registers itself for each name in its `handles`.
    """

    handles: ClassVar[tuple[str, ...]] = (
        "ABS", "CAST", "CEIL", "COS", "DEQUANTIZE", "ELU", "EXP", "FLOOR", "GELU", "L2_POOL_2D", "LOG", "LOGISTIC",
        "NEG", "RESIZE_BILINEAR", "ROUND", "RSQRT", "SIN", "SQRT", "SQUARE",
    )  # fmt: skip

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for kind in cls.handles:
            RULES[kind] = cls()

    def fits(self, units: Units, op: Any) -> bool:
        """Whether this use of the operator is one that the rule knows; its tensors stay whole otherwise."""
        return len(op.outputs) == 1 and width(units.graph, op.inputs[0]) == width(units.graph, op.outputs[0])

    def tie(self, units: Units, op: Any) -> None:
        """Say which places belong together, and open what can be cut."""
        units.tie(units.of(op.inputs[0]), units.of(op.outputs[0]))
        units.open(op.outputs[0])

    def known(self, units: Units, op: Any) -> Known | None:
        """What is known of the output, or None for nothing."""
        return None

    def mind(self, units: Units, op: Any) -> None:
        """Say which inputs matter; those tied to an output matter through it."""

    def cut(self, cut: Cut, op: Any) -> None:
        """Take places out of the operator's constants and options. Shapes are still the old ones."""


RULES: dict[str, Rule] = dict.fromkeys(Rule.handles, Rule())


def look(graph: Graph) -> Units:
    """What the rules know of a graph."""
    units = Units(graph)
    for op in graph.operators:
        # First of all: a weight that such an operator shares with another must stay whole for both.
        if rule_for(units, op) is None:
            units.freeze((*op.inputs, *op.outputs))
    for op in graph.operators:
        rule = rule_for(units, op)
        if rule is None:
            units.freeze((*op.inputs, *op.outputs))
            continue
        rule.tie(units, op)
        known = rule.known(units, op)
        if known is not None:
            units.learn(op.outputs[0], known)
        rule.mind(units, op)
    return units


def rule_for(units: Units, op: Any) -> Rule | None:
    """The rule that knows this use of an operator, or None."""
    rule = RULES.get(units.graph.kind(op))
    return rule if rule is not None and all(t >= 0 for t in op.outputs) and rule.fits(units, op) else None


def same_grid(graph: Graph, op: Any) -> bool:
    """Whether the first input and the output hold integers of one grid."""
    grid = grid_of(graph, op.inputs[0])
    return grid is not None and grid == grid_of(graph, op.outputs[0])


def zero_at_zero(units: Units, op: Any) -> Known | None:
    """The output of an operator that gives exactly 0 for 0, whatever else it computes."""
    given, made = grid_of(units.graph, op.inputs[0]), grid_of(units.graph, op.outputs[0])
    if given is None or made is None:
        return None
    data = units.known(op.inputs[0])
    zeros = np.full(data.values.shape, made.zero_point, np.int64)
    return Known(zeros, data.sure & (data.values == given.zero_point))
