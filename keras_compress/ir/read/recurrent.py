"""Recurrent layers that are one operator."""

from __future__ import annotations

from typing import Any

from keras_compress.ir.graph import Tensor
from keras_compress.ir.operators import LSTM
from keras_compress.ir.read.reader import Reader
from keras_compress.ir.read.table import reads


@reads("FusedLSTM")
def fused_lstm(reader: Reader, layer: Any, inputs: Tensor) -> Any:
    """All steps at once."""
    return reader.add(LSTM, inputs, units=layer.units, integers=layer.integers().packed())
