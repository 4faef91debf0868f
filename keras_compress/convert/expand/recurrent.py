"""Recurrent layers, unrolled: one small graph for each step, with the same integers in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_compress.convert.expand.arithmetic import as_array, combine
from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion
from keras_compress.convert.expand.fused_lstm import backwards, fused, last_step, run_fused
from keras_compress.convert.expand.products import reshaped, with_activation
from keras_compress.convert.expand.weights import arranged
from keras_compress.core.transform import IntegerWeight

Tensor = Any
States = list[Any]  # tensors, or `None` for a state that is still zero


class Recurrent(Expansion):
    """LSTM, GRU, SimpleRNN, and RNN around a cell of the user's or a stack of cells."""

    handles: ClassVar[tuple[str, ...]] = ("RNN", "LSTM", "GRU", "SimpleRNN")

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(("sequences", "initial_state", "mask"), args, strict=False)), **kwargs}
        _refuse(emit, operation, given)
        sequence, first = given["sequences"], given.get("initial_state")
        if fused(emit, operation, given):
            made = run_fused(emit, operation, sequence)
            return made if operation.return_sequences else last_step(emit, made)
        states = None if first is None else keras.tree.flatten(first)
        outputs, states = unroll(emit, operation, sequence, states)
        made = _stacked(emit, outputs) if operation.return_sequences else outputs[-1]
        return (made, *states) if operation.return_state else made


def _refuse(emit: Emitter, layer: Any, given: dict[str, Any]) -> None:
    steps = given["sequences"].shape[1]
    problem = None
    if given.get("mask") is not None:
        problem = "a mask (an Embedding with `mask_zero=True`, or Masking): it needs SELECT, which TFLM lacks"
    elif layer.stateful:
        problem = "stateful=True: return the states and feed them back instead"
    elif steps is None:
        problem = "a sequence of unknown length: give the Input a fixed number of steps, as unrolling needs"
    if problem:
        raise ValueError(
            f"Expected a recurrent layer that can be unrolled. Received: {emit.name('')!r} with {problem}."
        )


def unroll(emit: Emitter, layer: Any, sequence: Tensor, states: States | None) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs of all steps, in the order in which they are computed, and the last states."""
    steps = list(range(sequence.shape[1]))
    inputs = _step_inputs(emit, sequence)
    current: States = states if states is not None else [None] * len(keras.tree.flatten(layer.cell.state_size))
    outputs = []
    for step in reversed(steps) if layer.go_backwards else steps:
        with emit.inside(f"step{step}"):
            output, current = cell_step(emit, layer.cell, inputs[step], current)
        outputs.append(output)
    return outputs, current


def _step_inputs(emit: Emitter, sequence: Tensor) -> list[Tensor]:
    steps, *sample = sequence.shape[1:]
    rows = reshaped(emit, sequence, (steps, int(np.prod(sample))), "rows")  # TFLM slices four dimensions at most
    inputs = [emit.apply(lambda x, i=i: x[:, i], rows, name=f"step{i}.input") for i in range(steps)]
    return [reshaped(emit, x, sample, f"step{i}.sample") for i, x in enumerate(inputs)]


def _stacked(emit: Emitter, outputs: Sequence[Tensor]) -> Tensor:
    sample = outputs[0].shape[1:]
    rows = [reshaped(emit, x, (int(np.prod(sample)),), "output_row") for x in outputs]
    stacked = emit.apply(lambda *steps: ops.stack(list(steps), axis=1), *rows, name="sequence")
    return reshaped(emit, stacked, (len(outputs), *sample), "sequence_of_samples")


def cell_step(emit: Emitter, cell: Any, inputs: Tensor, states: States) -> tuple[Tensor, States]:
    """One step of a cell: its output and its new states."""
    known = next((_CELLS[cls.__name__] for cls in type(cell).__mro__ if _is_keras_cell(cls)), None)
    if isinstance(cell, keras.layers.StackedRNNCells):
        return _stack_step(emit, cell, inputs, states)
    if known is not None and _inherits_call(cell):
        return known(emit, cell, inputs, states)
    return _traced_step(emit, cell, inputs, states)


def _is_keras_cell(cls: type) -> bool:
    return cls.__module__.startswith("keras.") and cls.__name__ in _CELLS


def _inherits_call(cell: Any) -> bool:
    owner = next(cls for cls in type(cell).__mro__ if "call" in vars(cls))
    return owner.__module__.startswith("keras.")


def _stack_step(emit: Emitter, stack: Any, inputs: Tensor, states: States) -> tuple[Tensor, States]:
    made: States = []
    for number, cell in enumerate(stack.cells):
        count = len(keras.tree.flatten(cell.state_size))
        with emit.inside(f"cell{number}"):
            inputs, new = cell_step(emit, cell, inputs, states[len(made) : len(made) + count])
        made += new
    return inputs, made


def _traced_step(emit: Emitter, cell: Any, inputs: Tensor, states: States) -> tuple[Tensor, States]:
    """A cell that the user wrote: what its `call` does with symbolic tensors."""
    sizes = keras.tree.flatten(cell.state_size)
    filled = [_zeros(emit, inputs, n) if s is None else s for s, n in zip(states, sizes, strict=True)]
    output, new = emit(cell, inputs, filled, name="cell")
    return output, keras.tree.flatten(new)


def _zeros(emit: Emitter, inputs: Tensor, size: Any) -> Tensor:
    """A state of zeros as a tensor of the graph: what users write may need one."""
    if len(inputs.shape) != 2 or not isinstance(size, int):
        raise ValueError(
            f"Expected a cell of vectors. Received: inputs of shape {inputs.shape}, a state of {size} at "
            f"{emit.name('')!r}"
        )
    weight = IntegerWeight(np.zeros((inputs.shape[-1], size), np.int32), np.ones((1, 1), np.float32), 8)
    return emit.dense(inputs, weight, name="first_state")


def _lstm(emit: Emitter, cell: Any, inputs: Tensor, states: States) -> tuple[Tensor, States]:
    """`c' = f c + i g`, `h' = o act(c')` with the gates i, f, g, o."""
    hidden, carry = states
    bias = as_array(cell.bias) if cell.use_bias else None
    gates = emit.dense(inputs, emit.weight(cell.kernel), bias, name="input_gates")
    if hidden is not None:
        recurrent = emit.dense(hidden, emit.weight(cell.recurrent_kernel), name="state_gates")
        gates = emit(keras.layers.Add(name="gates"), [gates, recurrent])
    i, f, g, o = _split(emit, gates, [cell.units] * 4, "gate")
    i = _activated(emit, cell.recurrent_activation, i, "i")
    f = _activated(emit, cell.recurrent_activation, f, "f")
    o = _activated(emit, cell.recurrent_activation, o, "o")
    new = emit(keras.layers.Multiply(name="new"), [i, _activated(emit, cell.activation, g, "g")])
    if carry is not None:
        kept = emit(keras.layers.Multiply(name="kept"), [f, carry])
        new = emit(keras.layers.Add(name="carry"), [kept, new])
    output = emit(keras.layers.Multiply(name="output"), [o, _activated(emit, cell.activation, new, "c")])
    return output, [output, new]


def _gru(emit: Emitter, cell: Any, inputs: Tensor, states: States) -> tuple[Tensor, States]:
    """`h' = hh + z (h - hh)` with the gates z, r and the candidate hh."""
    units, hidden = cell.units, states[0]
    bias = as_array(cell.bias) if cell.use_bias else np.zeros((2 if cell.reset_after else 1, 3 * units), np.float32)
    first, second = (bias[0], bias[1]) if cell.reset_after else (bias.reshape(-1), np.zeros(3 * units, np.float32))
    if hidden is None:
        # The state is zero: of the recurrent product its bias is left.
        first = np.concatenate([first[: 2 * units] + second[: 2 * units], first[2 * units :]])
    moved = emit.dense(inputs, emit.weight(cell.kernel), first, name="input_gates")
    gates, candidate = _split(emit, moved, [2 * units, units], "input")
    recurrent = None
    if hidden is not None:
        recurrent = _gru_recurrent(emit, cell, hidden, second)
        gates = emit(keras.layers.Add(name="gates"), [gates, recurrent[0]])
    z, r = _split(emit, _activated(emit, cell.recurrent_activation, gates, "zr"), [units, units], "gate")
    reset = _gru_reset(emit, cell, r, hidden, recurrent, second[2 * units :])
    if reset is not None:
        candidate = emit(keras.layers.Add(name="candidate"), [candidate, reset])
    new = _activated(emit, cell.activation, candidate, "hh")
    if hidden is None:
        less = emit(keras.layers.Multiply(name="less"), [z, new])
        output = emit(keras.layers.Subtract(name="output"), [new, less])
    else:
        change = emit(keras.layers.Subtract(name="change"), [hidden, new])
        kept = emit(keras.layers.Multiply(name="kept"), [z, change])
        output = emit(keras.layers.Add(name="output"), [new, kept])
    return output, [output]


def _gru_recurrent(emit: Emitter, cell: Any, hidden: Tensor, bias: Any) -> list[Tensor]:
    """Recurrent part of the gates z and r, and with `reset_after` of the candidate."""
    weight, units = emit.weight(cell.recurrent_kernel), cell.units
    if not cell.reset_after:
        return [emit.dense(hidden, _columns(weight, 0, 2 * units), name="state_gates")]
    made = emit.dense(hidden, weight, bias if cell.use_bias else None, name="state_gates")
    return _split(emit, made, [2 * units, units], "state")


def _gru_reset(
    emit: Emitter, cell: Any, r: Tensor, hidden: Tensor | None, recurrent: list[Tensor] | None, bias: Any
) -> Tensor | None:
    """What the reset gate lets through of the state, on its way to the candidate; `None` for nothing."""
    if cell.reset_after and recurrent is not None:
        return emit(keras.layers.Multiply(name="reset"), [r, recurrent[1]])
    if cell.reset_after:
        return combine(emit, "multiply", r, bias) if np.any(bias) else None
    if hidden is None:
        return None
    weight = _columns(emit.weight(cell.recurrent_kernel), 2 * cell.units, 3 * cell.units)
    gated = emit(keras.layers.Multiply(name="reset"), [r, hidden])
    return emit.dense(gated, weight, name="reset_state")


def _simple(emit: Emitter, cell: Any, inputs: Tensor, states: States) -> tuple[Tensor, States]:
    """`h' = act(x W + h R + b)`."""
    hidden = states[0]
    made = emit.dense(inputs, emit.weight(cell.kernel), as_array(cell.bias) if cell.use_bias else None, name="input")
    if hidden is not None:
        recurrent = emit.dense(hidden, emit.weight(cell.recurrent_kernel), name="state")
        made = emit(keras.layers.Add(name="sum"), [made, recurrent])
    output = _activated(emit, cell.activation, made, "output")
    return output, [output]


_CELLS = {"LSTMCell": _lstm, "GRUCell": _gru, "SimpleRNNCell": _simple}


def _columns(weight: IntegerWeight, start: int, stop: int) -> IntegerWeight:
    return arranged(weight, lambda w: w[:, start:stop])


def _split(emit: Emitter, tensor: Tensor, sizes: Sequence[int], name: str) -> list[Tensor]:
    """Slices of the last axis."""
    ends = np.cumsum(sizes)
    return [
        emit.apply(lambda x, a=int(end - n), b=int(end): x[..., a:b], tensor, name=f"{name}{number}")
        for number, (n, end) in enumerate(zip(sizes, ends, strict=True))
    ]


def _activated(emit: Emitter, activation: Any, tensor: Tensor, name: str) -> Tensor:
    with emit.inside(name):
        return with_activation(emit, activation, tensor)


class Bidirectional(Expansion):
    """Two recurrent layers over one sequence, one of them backwards."""

    handles = ("Bidirectional",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(("sequences", "initial_state", "mask"), args, strict=False)), **kwargs}
        sequence, first = given["sequences"], given.get("initial_state")
        halves: list[Any] = [None, None] if first is None else [first[: len(first) // 2], first[len(first) // 2 :]]
        made, states = [], []
        for layer, half, name in zip(
            (operation.forward_layer, operation.backward_layer), halves, ("forward", "backward"), strict=True
        ):
            _refuse(emit, layer, given)
            with emit.inside(name):
                if fused(emit, layer, {"sequences": sequence, "initial_state": half}):
                    made.append(_half(emit, layer, sequence, operation.return_sequences))
                    continue
                outputs, last = unroll(emit, layer, sequence, half)
                if operation.return_sequences:
                    # Both in the order of the sequence.
                    made.append(_stacked(emit, outputs[::-1] if layer.go_backwards else outputs))
                else:
                    made.append(outputs[-1])
            states += last
        merged = _merged(emit, operation.merge_mode, made)
        if not operation.return_state:
            return merged
        return (*merged, *states) if operation.merge_mode is None else (merged, *states)


def _half(emit: Emitter, layer: Any, sequence: Tensor, sequences: bool) -> Tensor:
    """What a fused half gives: all steps in the order of the sequence, or its last."""
    outputs = run_fused(emit, layer, sequence)
    if not sequences:
        return last_step(emit, outputs)
    return backwards(emit, outputs, "forwards") if layer.go_backwards else outputs


def _merged(emit: Emitter, mode: str | None, made: list[Tensor]) -> Any:
    if mode is None:
        return tuple(made)
    if mode == "concat":
        return emit(keras.layers.Concatenate(name="merged"), made)
    if mode == "mul":
        return emit(keras.layers.Multiply(name="merged"), made)
    total = emit(keras.layers.Add(name="merged"), made)
    return combine(emit, "multiply", total, np.float32(0.5)) if mode == "ave" else total


class TimeDistributed(Expansion):
    """A layer for each step of a sequence."""

    handles = ("TimeDistributed",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("mask") is not None:
            raise ValueError(f"Expected no mask in int8. Received: one at {emit.name('')!r}")
        if isinstance(operation.layer, keras.layers.Dense):
            return emit(operation.layer, args[0])  # on the last axis in any case
        outputs = []
        for step, inputs in enumerate(_step_inputs(emit, args[0])):
            with emit.inside(f"step{step}"):
                outputs.append(emit(operation.layer, inputs))
        return _stacked(emit, outputs)
