"""Bytes of the converted file, as a cost for channel pruning."""

from __future__ import annotations

from typing import Any

from keras_compress.convert.convert import convert
from keras_compress.core.registry import register
from keras_compress.structured.channel_graph import ChannelGraph, Removed
from keras_compress.structured.cost import Cost
from keras_compress.structured.surgery import cut


@register("cost", "Bytes")
class FileBytes(Cost):
    """Size of the `.tflite` file, read from the file: each candidate is cut and converted.

    A conversion takes seconds. The size is nearly a straight line over the number of weights, so that two or three
    conversions find the ratio.

    Args:
        mode: As for `kc.convert`: `"float32"`, `"float16"`, `"dynamic"`, `"int8"`, ...
        representative_dataset: Data for `mode="int8"`, as for `kc.convert`.
        target: `"litert"` or `"tflm"`.
    """

    evaluations = 6
    tolerance = 0.005
    unit = "bytes"

    def __init__(self, mode: str = "float32", representative_dataset: Any = None, target: str = "litert") -> None:
        self.mode = mode
        self.representative_dataset = representative_dataset
        self.target = target

    def value(self, graph: ChannelGraph, removed: Removed) -> float:
        return float(len(self.content(graph, removed)))

    def content(self, graph: ChannelGraph, removed: Removed) -> bytes:
        """The file of the model without the removed channels."""
        model = cut(graph, removed)
        artifact = convert(model, self.target, mode=self.mode, representative_dataset=self.representative_dataset)
        return artifact.content
