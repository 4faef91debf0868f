"""Bytes of the converted file, as a cost."""

from __future__ import annotations

from typing import Any

import keras

from keras_compress.convert.convert import convert
from keras_compress.core.budget import Cost
from keras_compress.core.registry import register


@register("cost", "Bytes")
class FileBytes(Cost):
    """Size of the `.tflite` file, read from the file: each candidate is converted.

    A conversion takes seconds. The size is nearly a straight line over the number of weights, so that two or three
    conversions find the ratio.

    Args:
        mode: As for `kc.convert`: `"float32"`, `"float16"`, `"dynamic"`, `"int8"`, ...
        representative_dataset: Data for `mode="int8"`, as for `kc.convert`.
        target: `"litert"` or `"tflm"`.
    """

    tolerance = 0.005
    noun = "bytes"

    def __init__(self, mode: str = "float32", representative_dataset: Any = None, target: str = "litert") -> None:
        self.mode = mode
        self.representative_dataset = representative_dataset
        self.target = target

    def of(self, model: keras.Model) -> float:
        return float(len(self.content(model)))

    def content(self, model: keras.Model) -> bytes:
        """The file of a model."""
        artifact = convert(model, self.target, mode=self.mode, representative_dataset=self.representative_dataset)
        return artifact.content
