"""Which recurrent layers become one operator, and what that is thought to cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

RECURRENT = ("auto", "fused", "unrolled")
# On LiteRT, where 8 bits for the cell's state cost accuracy over more steps: of the rows of Fashion-MNIST (28 steps)
# 84.4 % are classified in float32, 84.5 % by one operator, 80.1 % unrolled. An LSTM of 64 units over 14, 40, 49 and 100
# steps of 16 numbers takes, in ms on x86-64: 0.23, 0.64, 0.79 and 1.69 as one operator, 0.012, 0.057, 0.067 and 0.43
# unrolled, 0.024, 0.059, 0.074 and 0.17 in float32. On TFLite-Micro one operator takes 0.19 to 1.4, unrolled steps 0.37
# to 7.0, and 20 to 60 times the arena.
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
