"""Operators whose kernels write on a grid that is built into them."""

from __future__ import annotations

from typing import Any, ClassVar

from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.grids import Grid
from keras_compress.tflite.lowering.rule import Lowering, Rule


class FixedScale(Rule):
    """The output's grid follows from the width; one wanted on another grid is requantized afterwards."""

    grids: ClassVar[dict[int, Grid]] = {}

    def refusal(self, graph: Graph, op: Any, bits: int) -> str | None:
        return None if bits in self.grids else f"{graph.kind(op)} has no {bits}-bit kernel"

    def infer_output(self, graph: Graph, op: Any, inputs: list[Grid]) -> Grid | None:
        return self.grids.get(inputs[0].bits) if inputs else None

    def output_grid(self, state: Lowering, op: Any, inputs: list[Grid], outputs: list[Grid]) -> Grid | None:
        return self.grids[inputs[0].bits]


class Probability(FixedScale):
    """Softmax and sigmoid: 0..255/256, or 0..32767/32768."""

    handles = ("SOFTMAX", "LOGISTIC")
    grids = {8: Grid(1 / 256, -128), 16: Grid(1 / 32768, 0, 16)}


class Symmetric(FixedScale):
    """Tanh: -1..127/128, or -1..32767/32768."""

    handles = ("TANH",)
    grids = {8: Grid(1 / 128, 0), 16: Grid(1 / 32768, 0, 16)}


class UnitVector(FixedScale):
    """L2 normalization: -1..127/128."""

    handles = ("L2_NORMALIZATION",)
    grids = {8: Grid(1 / 128, 0)}


class LogProbability(FixedScale):
    """Log-softmax: -15.9375..0."""

    handles = ("LOG_SOFTMAX",)
    grids = {8: Grid(16 / 256, 127)}
