"""Which recurrent layers become one operator, and what that is thought to cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

RECURRENT = ("auto", "fused", "unrolled")
# On LiteRT, where unrolled steps run ten times faster: beyond this many, conversion takes minutes.
_LONGEST_UNROLLED = 128
# Bytes of an operator, and of what a step takes when it is unrolled, besides the weights.
_OPERATOR_BYTES, _STEP_BYTES = 3_000, 6_500


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
        return self.target == "tflm" or steps > _LONGEST_UNROLLED

    def described(self, fused: bool, steps: int, sizes: Sequence[int]) -> str:
        """What was chosen, and what the other form would cost.

        Args:
            fused: Whether one operator was chosen.
            steps: Of the sequence.
            sizes: Length of an input, and of the state of each LSTM of a stack.
        """
        weights = sum(4 * units * (inputs + units + 4) for inputs, units in pairwise(sizes))
        layers = len(sizes) - 1
        one, many = weights + layers * _OPERATOR_BYTES, weights + layers * steps * _STEP_BYTES
        if fused:
            return f"one operator, about {one:,} bytes; {steps} unrolled steps would take about {many:,} bytes"
        return f"{steps} unrolled steps, about {many:,} bytes; one operator would take about {one:,} bytes"
