"""LSTMs as one operator."""

from __future__ import annotations

from typing import Any

from keras_compress.tflite.grids import Grid
from keras_compress.tflite.lowering.rule import Lowering, Rule
from keras_compress.tflite.lstm.integers import LstmIntegers
from keras_compress.tflite.lstm.operator import KIND, lstm_operator


class FusedLstm(Rule):
    """UNIDIRECTIONAL_SEQUENCE_LSTM with a sequence only, which gets the rest of its operands."""

    handles = (KIND,)
    bits = (8,)

    def lower(self, state: Lowering, op: Any) -> None:
        name, packed = state.lstms[op.outputs[0]]
        lstm = LstmIntegers.unpacked(packed)
        grids = [state.grids[tensor] for tensor in (op.inputs[0], op.outputs[0])]
        wanted = [Grid(*lstm.input_grid), Grid(*lstm.output_grid)]
        if grids != wanted:
            raise ValueError(f"Expected {wanted} at the ends of LSTM {name!r}. Received: {grids}")
        made = lstm_operator(state.graph, op.inputs[0], op.outputs[0], lstm, name)
        for field in ("inputs", "intermediates", "builtinOptions", "builtinOptionsType"):
            setattr(op, field, getattr(made, field))
