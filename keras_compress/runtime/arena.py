"""Working memory on TFLite-Micro, as a cost."""

from __future__ import annotations

from typing import Any

import keras

from keras_compress.convert.file_bytes import FileBytes
from keras_compress.core.budget import Cost
from keras_compress.core.registry import register
from keras_compress.runtime.arena_probe import tflm_arena


@register("cost")
class Arena(Cost):
    """The smallest arena in which TFLite-Micro starts the file here: activations, and what its kernels keep.

    Args:
        mode: As for `kc.convert`.
        representative_dataset: Data for `mode="int8"`, as for `kc.convert`.
    """

    tolerance = 0.02
    noun = "arena"
    unit = "bytes"

    def __init__(self, mode: str = "float32", representative_dataset: Any = None) -> None:
        self.file = FileBytes(mode, representative_dataset, "tflm")

    def of(self, model: keras.Model) -> float:
        """Bytes.

        Raises:
            RuntimeError: Where TFLite-Micro is not available.
        """
        return float(tflm_arena(self.file.content(model)))
