"""Which recurrent layers become one operator, and what that is thought to cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

RECURRENT = ("auto", "fused", "unrolled")
# On LiteRT, where one operator takes 4 to 20 times as long as unrolled steps: over more steps these lose accuracy, as
# they have 8 bits for the cell's state and the operator 16. On TFLite-Micro the operator is faster too, and takes a
# small part of the arena. `docs/recurrent.md` has what was measured.
LONGEST_UNROLLED = 16
# Bytes of an operator besides the weights, and of an unrolled step, which grow with the units: biases and their scales.
_OPERATOR_BYTES, _STEP_BYTES, _STEP_BYTES_OF_A_UNIT = 3_000, 2_800, 56
_FASTER = {"litert": "and a fourth to a twentieth of the time", "tflm": "and more time and memory"}


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
        step = sum(_STEP_BYTES + _STEP_BYTES_OF_A_UNIT * units for units in sizes[1:])
        one, many = weights + (len(sizes) - 1) * _OPERATOR_BYTES, weights + steps * step
        if fused:
            other = f"{steps} unrolled steps would take about {many:,} bytes, {_FASTER[self.target]}"
            return f"one operator, about {one:,} bytes; {other}"
        other = f"one operator would take about {one:,} bytes, and 4 to 20 times as long"
        return f"{steps} unrolled steps, about {many:,} bytes; {other}"
