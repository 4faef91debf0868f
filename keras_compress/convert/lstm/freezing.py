"""What the flat graph knows of an LSTM in two parts, when it is frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_compress.convert.lstm.layers import FusedLSTM, LstmCells
from keras_compress.core import keras_private
from keras_compress.quantizers.activation import FixedGrid, QuantizeActivation
from keras_compress.quantizers.kinds import Kind, kind_of
from keras_compress.tflite.lstm.integers import lstm_integers, overflows

Node = Any


def frozen_lstm(
    node: Node,
    sequence: Any,
    source: FixedGrid | None,
    target: FixedGrid,
    runtime: str,
    known: Mapping[str, FixedGrid],
) -> Any:
    """The outputs of an LSTM as its kernel computes them; the range of its cells is that of the point between.

    Args:
        node: The call of `LstmOutput` in the flat graph.
        sequence: What the LSTM reads, in the new graph.
        source: Its grid.
        target: That of the outputs.
        runtime: `"litert"` or `"tflm"`: whose kernel.
        known: Activation point -> grid that it gets, whatever was measured there.

    Raises:
        ValueError: The sequence has no grid, or the sums of a gate could pass 32 bits.
    """
    cells = cells_behind(node)
    name = cells.name.removesuffix(".cells")
    if source is None or source.bits != 8:
        raise ValueError(
            "Expected an activation quantizer of up to 8 bits in front of an LSTM that becomes one operator. "
            f"Received: none at {name!r}; put one there, or use recurrent='unrolled'."
        )
    point = keras_private.maker(node.input_tensors[0])
    quantizer = known.get(point.name, point.quantizer)
    low, high = (float(end) for end in quantizer.range())
    lstm = lstm_integers(
        np.asarray(cells.kernel),
        np.asarray(cells.recurrent_kernel),
        np.asarray(cells.bias),
        (source.scale, source.zero_point),
        (target.scale, target.zero_point),
        max(-low, high),
    )
    if overflows(lstm):
        raise ValueError(
            f"Expected gates whose sums fit 32 bits. Received: larger ones at {name!r}; use recurrent='unrolled'."
        )
    return FusedLSTM.of(lstm, runtime, name)(sequence)


def cells_behind(node: Node) -> LstmCells:
    """The layer that gives a call of `LstmOutput` its cell states."""
    cells: LstmCells = keras_private.maker(keras_private.maker(node.input_tensors[0]).input)
    return cells


def shared_point(node: Node, table: dict[int, list[Node]]) -> Node:
    """The point whose grid a call writes on: behind it, or behind what moves its values or joins them with others.

    Args:
        node: The call.
        table: What `graph.consumers` gives for its model.
    """
    while not isinstance(node.operation, QuantizeActivation):
        node = table[id(node.outputs[0])][0]
        if not isinstance(node.operation, QuantizeActivation) and kind_of(node.operation) not in (Kind.SAME, Kind.JOIN):
            raise ValueError(f"Expected an activation point behind an LSTM. Received: {node.operation.name!r}")
    return node
