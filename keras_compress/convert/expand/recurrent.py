"""Recurrent layers, unrolled: one small graph for each step, with the same integers in all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_compress.convert.expand.arithmetic import combine
from keras_compress.convert.expand.cells import count_of_states, rule_of
from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion
from keras_compress.convert.expand.fused_lstm import backwards, fused, last_step, run_fused
from keras_compress.convert.expand.masks import StepMask, step_masks
from keras_compress.convert.expand.products import reshaped
from keras_compress.core.transform import IntegerWeight

Tensor = Any
States = list[Any]  # tensors, or `None` for a state that is still zero


class Recurrent(Expansion):
    """LSTM, GRU, SimpleRNN, LSTMs over images, and RNN around a cell of the user's or a stack of cells."""

    handles: ClassVar[tuple[str, ...]] = ("RNN", "LSTM", "GRU", "SimpleRNN", "ConvLSTM1D", "ConvLSTM2D")

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(("sequences", "initial_state", "mask"), args, strict=False)), **kwargs}
        _refuse(emit, operation, given)
        sequence, first = given["sequences"], given.get("initial_state")
        if fused(emit, operation, given):
            made = run_fused(emit, operation, sequence)
            return made if operation.return_sequences else last_step(emit, made)
        states = None if first is None else keras.tree.flatten(first)
        outputs, states = unroll(emit, operation, sequence, states, given.get("mask"))
        made = _stacked(emit, outputs) if operation.return_sequences else outputs[-1]
        return (made, *states) if operation.return_state else made


def _refuse(emit: Emitter, layer: Any, given: dict[str, Any]) -> None:
    steps = given["sequences"].shape[1]
    problem = None
    if layer.stateful:
        problem = (
            "stateful=True, and a file keeps no states of unrolled steps: make them inputs and outputs with "
            "`initial_state` and `return_state=True`, and feed them back, or convert an LSTM without stateful=True by "
            "recurrent='fused', whose operator keeps its states from run to run"
        )
    elif steps is None:
        problem = "a sequence of unknown length: give the Input a fixed number of steps, as unrolling needs"
    if problem:
        raise ValueError(
            f"Expected a recurrent layer that can be unrolled. Received: {emit.name('')!r} with {problem}."
        )


def unroll(
    emit: Emitter, layer: Any, sequence: Tensor, states: States | None, mask: Tensor | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs of all steps, in the order in which they are computed, and the last states."""
    steps = list(range(sequence.shape[1]))
    rule = rule_of(layer.cell)
    # What does not wait for the state is one product for all steps, where it can be.
    step_of: Callable[..., tuple[Tensor, States]]
    if rule is None or rule.by_step:
        inputs, step_of = _rows(emit, sequence), cell_step
    else:
        inputs, step_of = _rows(emit, rule.moved(emit, layer.cell, sequence)), rule.step
    current: States = states if states is not None else [None] * count_of_states(layer.cell)
    masks = None if mask is None else step_masks(emit, mask)
    outputs: list[Tensor] = []
    for step in reversed(steps) if layer.go_backwards else steps:
        with emit.inside(f"step{step}"):
            output, new = step_of(emit, layer.cell, inputs[step], current)
            if masks is not None:
                before = outputs[-1] if outputs else None
                output, new = _masked(emit, layer, masks[step], output, before, new, current)
        current = new
        outputs.append(output)
    return outputs, current


def _masked(
    emit: Emitter, layer: Any, mask: StepMask, output: Tensor, before: Tensor | None, new: States, old: States
) -> tuple[Tensor, States]:
    """A step that leaves its states, and the output before it, where its mask says so."""
    names = ["carry" if number else "output" for number in range(len(new))]
    if count_of_states(layer.cell) > 2 or rule_of(layer.cell) is None:
        names = [f"state{number}" for number in range(len(new))]
    states = [mask.held(emit, made, kept, name) for made, kept, name in zip(new, old, names, strict=True)]
    if layer.zero_output_for_mask:
        return mask.gated(emit, output, "masked_output"), states
    # What was given out is the state but where the first states were given.
    if output is new[0] and before is old[0]:
        return states[0], states
    return mask.held(emit, output, before, "given_output"), states


def _rows(emit: Emitter, sequence: Tensor) -> list[Tensor]:
    """The steps of a sequence."""
    steps, *sample = sequence.shape[1:]
    rows = reshaped(emit, sequence, (steps, int(np.prod(sample))), "rows")
    inputs = emit.apply(lambda x: ops.unstack(x, axis=1), rows, name="steps")
    return [reshaped(emit, x, sample, f"step{i}.sample") for i, x in enumerate(inputs)]


def _stacked(emit: Emitter, outputs: Sequence[Tensor]) -> Tensor:
    sample = outputs[0].shape[1:]
    rows = [reshaped(emit, x, (int(np.prod(sample)),), "output_row") for x in outputs]
    stacked = emit.apply(lambda *steps: ops.stack(list(steps), axis=1), *rows, name="sequence")
    return reshaped(emit, stacked, (len(outputs), *sample), "sequence_of_samples")


def cell_step(emit: Emitter, cell: Any, inputs: Tensor, states: States) -> tuple[Tensor, States]:
    """One step of a cell: its output and its new states."""
    if isinstance(cell, keras.layers.StackedRNNCells):
        return _stack_step(emit, cell, inputs, states)
    rule = rule_of(cell)
    if rule is not None:
        return rule.step(emit, cell, rule.moved(emit, cell, inputs), states)
    return _traced_step(emit, cell, inputs, states)


def _stack_step(emit: Emitter, stack: Any, inputs: Tensor, states: States) -> tuple[Tensor, States]:
    made: States = []
    for number, cell in enumerate(stack.cells):
        count = count_of_states(cell)
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


class Bidirectional(Expansion):
    """Two recurrent layers over one sequence, one of them backwards."""

    handles = ("Bidirectional",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(("sequences", "initial_state", "mask"), args, strict=False)), **kwargs}
        sequence, first = given["sequences"], given.get("initial_state")
        halves: list[Any] = [None, None] if first is None else [first[: len(first) // 2], first[len(first) // 2 :]]
        ways, states = [], []
        for layer, half, name in zip(
            (operation.forward_layer, operation.backward_layer), halves, ("forward", "backward"), strict=True
        ):
            _refuse(emit, layer, given)
            with emit.inside(name):
                if fused(emit, layer, {**given, "initial_state": half}):
                    ways.append(_half(emit, layer, sequence, operation.return_sequences))
                    continue
                outputs, last = unroll(emit, layer, sequence, half, given.get("mask"))
                if operation.return_sequences:
                    # Both in the order of the sequence.
                    ways.append(_stacked(emit, outputs[::-1] if layer.go_backwards else outputs))
                else:
                    ways.append(outputs[-1])
            states += last
        merged = _merged(emit, operation.merge_mode, ways)
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
        return emit.new(keras.layers.Concatenate(name="merged"), made)
    if mode == "mul":
        return emit.new(keras.layers.Multiply(name="merged"), made)
    total = emit.new(keras.layers.Add(name="merged"), made)
    return combine(emit, "multiply", total, np.float32(0.5)) if mode == "ave" else total


class TimeDistributed(Expansion):
    """A layer for each step of a sequence."""

    handles = ("TimeDistributed",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        # A layer that takes no mask is given none, whatever the steps.
        if kwargs.get("mask") is not None and "mask" in inspect.signature(operation.layer.call).parameters:
            raise ValueError(
                f"Expected a layer that takes no mask in TimeDistributed, in {emit.mode}. "
                f"Received: {type(operation.layer).__name__} with one at {emit.name('')!r}; put the layer there "
                "without a mask, or convert with mode='float32' for LiteRT."
            )
        if isinstance(operation.layer, keras.layers.Dense):
            return emit(operation.layer, args[0])  # on the last axis in any case
        outputs = []
        for step, inputs in enumerate(_rows(emit, args[0])):
            with emit.inside(f"step{step}"):
                outputs.append(emit(operation.layer, inputs))
        return _stacked(emit, outputs)
