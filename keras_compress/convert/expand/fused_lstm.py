"""LSTMs that become one operator over all steps, where a runtime has a kernel for what they compute."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.lstm.layers import LstmCells, LstmOutput
from keras_compress.quantizers.kinds import known_activation

Tensor = Any


def fused(emit: Emitter, layer: Any, given: dict[str, Any]) -> bool:
    """Whether a call of a recurrent layer is to become operators over all steps; the choice is noted."""
    if emit.recurrent.wanted == "unrolled":
        return False
    name, steps = emit.name("").rstrip("."), given["sequences"].shape[1]
    reason = _unlike_the_kernel(emit, layer, given)
    if reason is not None:
        emit.without_operator.append(f"{name}: unrolled over {steps} steps: there is no operator for a layer {reason}")
        return False
    chosen = emit.recurrent.fuses(steps)
    emit.notes.append(_note(emit, name, layer, given["sequences"], chosen))
    return chosen


def _note(emit: Emitter, name: str, layer: Any, sequence: Tensor, chosen: bool) -> str:
    sizes = [int(np.prod(sequence.shape[2:])), *(cell.units for cell in cells_of(layer))]
    return f"{name}: {emit.recurrent.described(chosen, sequence.shape[1], sizes)}"


def _unlike_the_kernel(emit: Emitter, layer: Any, given: dict[str, Any]) -> str | None:
    """Why an LSTM kernel does not compute what a layer does; `None` where it does."""
    if given.get("mask") is not None:
        return "with a mask"
    if given.get("initial_state") is not None:
        return "whose first states are given"
    if layer.return_state:
        return "whose states are given out"
    for cell in cells_of(layer):
        if type(cell) is not keras.layers.LSTMCell:
            return f"whose cell is {type(cell).__name__}"
        names = known_activation(cell.activation), known_activation(cell.recurrent_activation)
        if names != ("tanh", "sigmoid"):
            return f"with the activations {names[0]} and {names[1]} in place of tanh and sigmoid"
        if any(emit.real(variable) is None for variable in _weights(cell)):
            return "trained with scales of its own for its weights; the operator has one for each gate"
    return None


def cells_of(layer: Any) -> list[Any]:
    """The cell of a recurrent layer, or the stack of them that it has."""
    stacked = isinstance(layer.cell, keras.layers.StackedRNNCells)
    return list(layer.cell.cells) if stacked else [layer.cell]


def _weights(cell: Any) -> list[Any]:
    return [cell.kernel, cell.recurrent_kernel, *([cell.bias] if cell.use_bias else [])]


def run_fused(emit: Emitter, layer: Any, sequence: Tensor) -> Tensor:
    """Outputs of all steps, in the order in which they are computed."""
    if layer.go_backwards:
        sequence = backwards(emit, sequence, "backwards")
    cells = cells_of(layer)
    if len(cells) == 1:
        return _lstm(emit, cells[0], sequence)
    for number, cell in enumerate(cells):
        with emit.inside(f"cell{number}"):
            sequence = _lstm(emit, cell, sequence)
    return sequence


def backwards(emit: Emitter, sequence: Tensor, name: str) -> Tensor:
    """The steps in the other order."""
    return emit.apply(lambda x: ops.flip(x, axis=1), sequence, name=name)


def last_step(emit: Emitter, sequence: Tensor) -> Tensor:
    """What the last step gives."""
    return emit.apply(lambda x: x[:, -1], sequence, name="last")


def _lstm(emit: Emitter, cell: Any, sequence: Tensor) -> Tensor:
    cells = LstmCells(cell.units, name="cells")
    cells.build(sequence.shape)
    cells.kernel.assign(_real(emit, cell.kernel))
    cells.recurrent_kernel.assign(_real(emit, cell.recurrent_kernel))
    cells.bias.assign(_real(emit, cell.bias) if cell.use_bias else np.zeros(4 * cell.units))
    return emit(LstmOutput(name="output"), emit(cells, sequence))


def _real(emit: Emitter, variable: keras.Variable) -> NDArray[Any]:
    found = emit.real(variable)
    if found is None:
        raise ValueError(f"Expected a weight without a grid of its own. Received: one at {emit.name('')!r}")
    return found
