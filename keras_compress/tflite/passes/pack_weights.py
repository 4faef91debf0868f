"""Weights of few bits, several in a byte."""

from __future__ import annotations

from collections.abc import Mapping

from keras_compress.tflite.flatbuffer import Graph


def pack_weights(graph: Graph, bits_of: Mapping[int, int]) -> None:
    """Store int8 weights as INT4 or INT2 tensors.

    Args:
        graph: Integer graph; only operators whose kernels take packed weights read these tensors.
        bits_of: Weight -> bits of one value, 4 or 2; its integers fit.
    """
    for tensor, bits in bits_of.items():
        graph.pack_constant(tensor, bits)
