"""Quantization parameters that TFLite-Micro does not need, left out of a file for it, and put back.

A channel of a convolution takes 28 bytes beside its weights: scale and zero point of the weight (4 and 8 bytes), its
bias, and scale and zero point of that. The runtime repeats a single zero point for all channels, and its convolutions
never read the bias's scales, which are the product of the data's and the weight's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.lowering.rule import rule_of
from keras_compress.tflite.lowering.weighted import Weighted


def slim_scales(graph: Graph) -> None:
    """Keep one zero point of several that are equal, and no scales of biases that have one for each channel."""
    for bias, scales in _per_channel_biases(graph):
        found = graph.quantization(bias)
        if found is not None and np.array_equal(found[0], scales) and _zero_points(graph, bias) == {0}:
            graph.tensors[bias].quantization = None
    for tensor in _per_channel(graph):
        if len(_zero_points(graph, tensor)) == 1:
            quantization = graph.tensors[tensor].quantization
            quantization.zeroPoint = np.asarray(quantization.zeroPoint)[:1]


def restore_scales(graph: Graph) -> None:
    """Undo `slim_scales`."""
    for bias, scales in _per_channel_biases(graph):
        if graph.quantization(bias) is None:
            graph.set_quantization(bias, scales)
    for tensor in _per_channel(graph):
        quantization = graph.tensors[tensor].quantization
        if len(quantization.zeroPoint) == 1:
            quantization.zeroPoint = np.repeat(quantization.zeroPoint, len(quantization.scale))


def _per_channel(graph: Graph) -> Iterator[int]:
    for tensor in range(len(graph.tensors)):
        found, quantization = graph.quantization(tensor), graph.tensors[tensor].quantization
        if found is not None and found[0].size > 1 and quantization.zeroPoint is not None:
            yield tensor


def _zero_points(graph: Graph, tensor: int) -> set[int]:
    found = graph.tensors[tensor].quantization.zeroPoint
    return set() if found is None else set(np.unique(found).tolist())


def _per_channel_biases(graph: Graph) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Biases beside weights of several scales, and the scales that they have: the data's times the weight's."""
    for op in graph.operators:
        rule = rule_of(graph.kind(op))
        if not isinstance(rule, Weighted) or rule.bias >= len(op.inputs) or op.inputs[rule.bias] < 0:
            continue
        data, weight = graph.quantization(op.inputs[rule.data]), graph.quantization(op.inputs[rule.weight])
        if data is not None and weight is not None and weight[0].size > 1:
            yield op.inputs[rule.bias], (np.float64(data[0][0]) * weight[0].astype(np.float64)).astype(np.float32)
