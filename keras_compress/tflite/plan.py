"""What a file is to be: its mode, the type of its inputs and outputs, its runtime."""

from __future__ import annotations

from dataclasses import dataclass

MODES = ("float32", "float16", "dynamic", "int8", "16x8")
IO_TYPES = ("float32", "int8", "uint8", "int16")
# Description in a file, by the runtime whose rounding its integers follow: what the file does not show otherwise. Both
# take the same room.
MADE_FOR = {"litert": b"keras_compress", "tflm": b"kc, for TFLM"}


@dataclass(frozen=True)
class LoweringPlan:
    """What the lowering is to make of a float model.

    Attributes:
        mode: One of `MODES`.
        io: One of `IO_TYPES`: type of the model's inputs and outputs.
        target: `"litert"` or `"tflm"`: where two exact forms exist, the one that this runtime runs better.
        any_batch: Whether the file is to take any number of samples.
    """

    mode: str = "int8"
    io: str = "float32"
    target: str = "litert"
    any_batch: bool = False
