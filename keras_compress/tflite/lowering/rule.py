"""What the lowering knows of an operator: grids in, grids out, and how its constants are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.grids import ConstantGrid, Grid


@dataclass
class Lowering:
    """State of one lowering.

    Attributes:
        graph: The model being edited.
        weights: Constant -> its integers, of those that are known.
        grids: Tensor -> grid, for every activation tensor that holds integers.
        constants: Integer copies of constants already made, by what they were made from.
        packed: Weight that will be packed -> bits of one value.
        target: Runtime that the file is for.
        notes: What was added that the float model does not have, for the reader of the report.
        lstms: Output of an LSTM -> its name and its integers.
    """

    graph: Graph
    weights: Mapping[int, ConstantGrid]
    grids: dict[int, Grid]
    constants: dict[tuple[Any, ...], int] = field(default_factory=dict)
    packed: dict[int, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    target: str = "litert"
    lstms: Mapping[int, tuple[str, bytes]] = field(default_factory=dict)

    def label(self, op: Any) -> str:
        """How messages call an operator."""
        return f"{self.graph.kind(op)} {self.graph.name(op.outputs[0])!r}"


class Rule:
    """Lowering of the operators in `handles`; the free case: any grid in, any grid out.

    A subclass registers itself for each name in its `handles`.

    Class attributes:
        handles: Kinds of operators.
        bits: Widths of integers that it has kernels for.
        takes_widths: Whether its tensors may differ in width: it moves integers, or has them moved before it.
    """

    handles: ClassVar[tuple[str, ...]] = ()
    bits: ClassVar[tuple[int, ...]] = (8, 16)
    takes_widths: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for kind in cls.handles:
            RULES[kind] = cls()

    def refusal(self, graph: Graph, op: Any, bits: int) -> str | None:
        """Why this use of the operator has no integer kernel, or None."""
        return None if bits in self.bits else f"{graph.kind(op)} has no {bits}-bit kernel"

    def infer_output(self, graph: Graph, op: Any, inputs: list[Grid]) -> Grid | None:
        """Grid of the outputs when the inputs' grids decide it, else None."""
        return None

    def infer_input(self, graph: Graph, op: Any, output: Grid) -> Grid | None:
        """Grid that inputs without one should take, given an output's, else None."""
        return None

    def input_grid(self, op: Any, tensor: int, inputs: list[Grid], outputs: list[Grid]) -> Grid | None:
        """Grid on which this input has to arrive, or None when its own will do."""
        return None

    def output_grid(self, state: Lowering, op: Any, inputs: list[Grid], outputs: list[Grid]) -> Grid | None:
        """Grid on which the kernel writes, or None when the wanted one will do."""
        return None

    def lower(self, state: Lowering, op: Any) -> None:
        """Put the operator's constants and options into their integer form."""


RULES: dict[str, Rule] = {}


def rule_of(kind: str) -> Rule | None:
    """The rule that handles a kind of operator, or None: it stays float."""
    return RULES.get(kind)
