"""Which recurrent layers become one operator, and what that is thought to cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

RECURRENT = ("auto", "fused", "unrolled")
# On LiteRT one operator takes 20 to 30 times as long as unrolled steps. These have 8 bits for the cell's state and the
# operator 16: over 28 and 56 steps of images they lose less than half a point of accuracy, over 112 a whole one. On
# TFLite-Micro the operator takes a small part of the arena. `docs/recurrent.md` has what was measured.
LONGEST_UNROLLED = 64
# Bytes of an operator besides the weights; of unrolled steps, for each unit (scales of four gates) and for each step.
_OPERATOR_BYTES, _UNIT_BYTES, _STEP_BYTES = 3_000, 144, 1_250
_SLOWER = {"litert": "20 to 30 times as long", "tflm": "a part of the time and memory"}
_FASTER = {"litert": "and a twentieth of the time or less", "tflm": "and more time and memory"}


@dataclass(frozen=True)
class RecurrentForm:
    """How recurrent layers are computed.

    Attributes:
        wanted: One of `RECURRENT`.
        target: `"litert"` or `"tflm"`.
    """

    wanted: str = "unrolled"
    target: str = "litert"

    def fuses(self, steps: int) -> bool:
        """Whether an LSTM over this many steps becomes one operator, where one computes it."""
        if self.wanted != "auto":
            return self.wanted == "fused"
        return self.target == "tflm" or steps > LONGEST_UNROLLED

    def described(self, fused: bool, steps: int, sizes: Sequence[int]) -> str:
        """What was chosen, and what the other form would cost.

        Args:
            fused: Whether one operator was chosen.
            steps: Of the sequence.
            sizes: Length of an input, and of the state of each LSTM of a stack.
        """
        weights = sum(4 * units * (inputs + units + 4) for inputs, units in pairwise(sizes))
        one = weights + (len(sizes) - 1) * _OPERATOR_BYTES
        many = weights + _UNIT_BYTES * sum(sizes[1:]) + (len(sizes) - 1) * steps * _STEP_BYTES
        if fused:
            other = f"{steps} unrolled steps would take about {many:,} bytes, {_FASTER[self.target]}"
            return f"one operator, about {one:,} bytes; {other}"
        other = f"one operator would take about {one:,} bytes, and {_SLOWER[self.target]}"
        return f"{steps} unrolled steps, about {many:,} bytes; {other}"
