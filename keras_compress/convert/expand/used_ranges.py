"""Ranges that end where what reads them becomes constant: integers for values beyond would be wasted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_compress.convert.expand.activations import range_of_use
from keras_compress.graph import graph
from keras_compress.quantizers.activation import QuantizeActivation


def end_with_use(model: keras.Model, points: Sequence[QuantizeActivation]) -> None:
    """Cut the measured ranges of some points to where the one function that reads each of them varies.

    Args:
        model: Flat model.
        points: Points of it whose ranges were measured.
    """
    table, wanted = graph.consumers(model), {id(point) for point in points}
    uses: dict[int, list[tuple[float, float]]] = {}
    quantizers: dict[int, Any] = {}
    for node in graph.nodes(model):
        if id(node.operation) in wanted:
            reader = graph.sole_consumer(node, model, table)
            quantizer = node.operation.quantizer
            quantizers[id(quantizer)] = quantizer
            uses.setdefault(id(quantizer), []).append(range_of_use(None if reader is None else reader.operation))
    for key, quantizer in quantizers.items():
        lows, highs = zip(*uses[key], strict=True)
        quantizer.set_range(*(float(end) for end in np.clip(quantizer.range(), min(lows), max(highs))))
