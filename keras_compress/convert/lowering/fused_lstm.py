"""LSTMs as one operator: in the place of what stands for them in the float file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_compress.convert.flatbuffer import Graph
from keras_compress.convert.lowering.grid import Grid
from keras_compress.convert.lowering.rule import Lowering, Rule
from keras_compress.convert.lstm.integers import LstmIntegers
from keras_compress.convert.lstm.operator import KIND, lstm_operator
from keras_compress.convert.plan import fingerprint


def place_lstms(graph: Graph, known: Mapping[str, tuple[str, LstmIntegers]]) -> dict[int, tuple[str, LstmIntegers]]:
    """Replace each product with a matrix that stands for an LSTM by an LSTM that has a sequence only, as yet.

    Args:
        graph: The float file.
        known: See `LoweringPlan.lstms`.

    Returns:
        Output of an LSTM -> its name and its integers.

    Raises:
        ValueError: An LSTM has no place in the file.
    """
    placed: dict[int, tuple[str, LstmIntegers]] = {}
    for number, op in enumerate(graph.operators if known else ()):
        matrix = graph.constant(op.inputs[1]) if graph.kind(op) == "FULLY_CONNECTED" else None
        found = None if matrix is None else known.get(fingerprint(matrix))
        if found is not None:
            placed[op.outputs[0]] = found
            graph.operators[number] = graph.make_operator(KIND, op.inputs[:1], op.outputs)
    missing = {name for name, _ in known.values()} - {name for name, _ in placed.values()}
    if missing:
        raise ValueError(f"Expected all LSTMs in the float model. Received: none for {sorted(missing)}")
    return placed


class FusedLstm(Rule):
    """UNIDIRECTIONAL_SEQUENCE_LSTM with a sequence only, which gets the rest of its operands."""

    handles = (KIND,)
    bits = (8,)

    def lower(self, state: Lowering, op: Any) -> None:
        name, lstm = state.lstms[op.outputs[0]]
        grids = [state.grids[tensor] for tensor in (op.inputs[0], op.outputs[0])]
        wanted = [Grid(*lstm.input_grid), Grid(*lstm.output_grid)]
        if grids != wanted:
            raise ValueError(f"Expected {wanted} at the ends of LSTM {name!r}. Received: {grids}")
        made = lstm_operator(state.graph, op.inputs[0], op.outputs[0], lstm, name)
        for field in ("inputs", "intermediates", "builtinOptions", "builtinOptionsType"):
            setattr(op, field, getattr(made, field))
