"""What Keras's recurrent cells compute: a part for the inputs of all steps at once, and a part for each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_compress.convert.expand.activations import with_activation
from keras_compress.convert.expand.arithmetic import as_array, combine
from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.weights import arranged, frozen
from keras_compress.core.transform import IntegerWeight
from keras_compress.quantizers.kinds import known_activation

Tensor = Any
States = list[Any]  # tensors, or `None` for a state that is still zero


@dataclass(frozen=True)
class CellRule:
    """How a cell is computed.

    Attributes:
        moved: The part of the sums that does not wait for the state: of `(steps, inputs)` for all steps, or of one.
        step: From a row of that, and the states, to the output and the new states.
        states: How many states it has.
        by_step: Whether `moved` takes one step only.
    """

    moved: Callable[[Emitter, Any, Tensor], Tensor]
    step: Callable[[Emitter, Any, Tensor, States], tuple[Tensor, States]]
    states: int = 1
    by_step: bool = False


def rule_of(cell: Any) -> CellRule | None:
    """How a cell of Keras's is computed, or one that inherits what it computes; `None` for another."""
    rule = next((_CELLS[cls.__name__] for cls in type(cell).__mro__ if _is_keras_cell(cls)), None)
    return rule if rule is not None and _inherits_call(cell) else None


def count_of_states(cell: Any) -> int:
    """How many states a cell, or a stack of them, has."""
    rule = rule_of(cell)
    return len(keras.tree.flatten(cell.state_size)) if rule is None else rule.states


def _is_keras_cell(cls: type) -> bool:
    return cls.__module__.startswith("keras.") and cls.__name__ in _CELLS


def _inherits_call(cell: Any) -> bool:
    owner = next(cls for cls in type(cell).__mro__ if "call" in vars(cls))
    return owner.__module__.startswith("keras.")


def _lstm_moved(emit: Emitter, cell: Any, inputs: Tensor) -> Tensor:
    bias = as_array(cell.bias) if cell.use_bias else None
    return emit.dense(inputs, emit.weight(cell.kernel), bias, name="input_gates")


def _lstm(emit: Emitter, cell: Any, moved: Tensor, states: States) -> tuple[Tensor, States]:
    gates = moved
    if states[0] is not None:
        recurrent = emit.dense(states[0], emit.weight(cell.recurrent_kernel), name="state_gates")
        gates = emit.new(keras.layers.Add(name="gates"), [gates, recurrent])
    return _gated(emit, cell, gates, states[1])


def _gated(emit: Emitter, cell: Any, gates: Tensor, carry: Tensor | None) -> tuple[Tensor, States]:
    """`c' = f c + i g`, `h' = o act(c')` with the gates i, f, g, o."""
    i, f, g, o = _lstm_gates(emit, cell, gates)
    new = emit.new(keras.layers.Multiply(name="new"), [i, g])
    if carry is not None:
        kept = emit.new(keras.layers.Multiply(name="kept_carry"), [f, carry])
        new = emit.new(keras.layers.Add(name="carry"), [kept, new])
    output = emit.new(keras.layers.Multiply(name="output"), [o, _activated(emit, cell.activation, new, "c")])
    return output, [output, new]


def _lstm_gates(emit: Emitter, cell: Any, gates: Tensor) -> list[Tensor]:
    """The gates i, f, g, o behind their activations."""
    units, gate = gates.shape[-1] // 4, cell.recurrent_activation
    if emit.recurrent.target == "litert" and known_activation(gate) == "sigmoid":
        # A call costs more there than values do: one for all four, of which nobody reads the third.
        i, f, _, o = _parts(emit, _activated(emit, gate, gates, "ifo"), 4, "gate")
        g = emit.apply(lambda x: x[..., 2 * units : 3 * units], gates, name="candidate")
    else:
        i, f, g, o = _parts(emit, gates, 4, "gate")
        i, f, o = (_activated(emit, gate, x, name) for x, name in ((i, "i"), (f, "f"), (o, "o")))
    return [i, f, _activated(emit, cell.activation, g, "g"), o]


def _conv_lstm_moved(emit: Emitter, cell: Any, image: Tensor) -> Tensor:
    settings = {"strides": cell.strides, "padding": cell.padding, "dilation_rate": cell.dilation_rate}
    return _convolved(emit, cell, image, cell.kernel, "input_gates", cell.bias if cell.use_bias else None, **settings)


def _conv_lstm(emit: Emitter, cell: Any, moved: Tensor, states: States) -> tuple[Tensor, States]:
    """An LSTM over images, with convolutions in place of products."""
    gates = moved
    if states[0] is not None:
        recurrent = _convolved(emit, cell, states[0], cell.recurrent_kernel, "state_gates", padding="same")
        gates = emit.new(keras.layers.Add(name="gates"), [gates, recurrent])
    return _gated(emit, cell, gates, states[1])


def _convolved(
    emit: Emitter, cell: Any, image: Tensor, kernel: keras.Variable, name: str, bias: Any = None, **settings: Any
) -> Tensor:
    layer_class = keras.layers.Conv1D if cell.rank == 1 else keras.layers.Conv2D
    layer = layer_class(
        4 * cell.filters,
        cell.kernel_size,
        use_bias=bias is not None,
        kernel_initializer="zeros",
        name=name,
        **settings,
    )
    layer.build(image.shape)
    if bias is not None:
        layer.bias.assign(bias)
    return emit.new(frozen(layer, emit.weight(kernel)), image, name=name)


def _gru_bias(cell: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """What is added to the sums of the inputs, and to the candidate's part of the sums of the state."""
    units = cell.units
    bias = as_array(cell.bias) if cell.use_bias else np.zeros((2 if cell.reset_after else 1, 3 * units), np.float32)
    if not cell.reset_after:
        return bias.reshape(-1), np.zeros(units, np.float32)
    # The gates z and r see the sum of both.
    return np.concatenate([bias[0, : 2 * units] + bias[1, : 2 * units], bias[0, 2 * units :]]), bias[1, 2 * units :]


def _gru_moved(emit: Emitter, cell: Any, inputs: Tensor) -> Tensor:
    return emit.dense(inputs, emit.weight(cell.kernel), _gru_bias(cell)[0], name="input_gates")


def _gru(emit: Emitter, cell: Any, moved: Tensor, states: States) -> tuple[Tensor, States]:
    """`h' = hh + z (h - hh)` with the gates z, r and the candidate hh."""
    units, hidden = cell.units, states[0]
    gates, candidate = _split(emit, moved, [2 * units, units], "input")
    recurrent = None
    if hidden is not None:
        recurrent = _gru_recurrent(emit, cell, hidden)
        gates = emit.new(keras.layers.Add(name="gates"), [gates, recurrent[0]])
    z, r = _parts(emit, _activated(emit, cell.recurrent_activation, gates, "zr"), 2, "gate")
    reset = _gru_reset(emit, cell, r, hidden, recurrent)
    if reset is not None:
        candidate = emit.new(keras.layers.Add(name="candidate"), [candidate, reset])
    new = _activated(emit, cell.activation, candidate, "hh")
    if hidden is None:
        less = emit.new(keras.layers.Multiply(name="less"), [z, new])
        output = emit.new(keras.layers.Subtract(name="output"), [new, less])
    else:
        change = emit.new(keras.layers.Subtract(name="change"), [hidden, new])
        kept = emit.new(keras.layers.Multiply(name="kept"), [z, change])
        output = emit.new(keras.layers.Add(name="output"), [new, kept])
    return output, [output]


def _gru_recurrent(emit: Emitter, cell: Any, hidden: Tensor) -> list[Tensor]:
    """Recurrent part of the gates z and r, and with `reset_after` of the candidate."""
    weight, units = emit.weight(cell.recurrent_kernel), cell.units
    if not cell.reset_after:
        return [emit.dense(hidden, _columns(weight, 0, 2 * units), name="state_gates")]
    bias = np.concatenate([np.zeros(2 * units, np.float32), _gru_bias(cell)[1]])
    made = emit.dense(hidden, weight, bias if bias.any() else None, name="state_gates")
    return _split(emit, made, [2 * units, units], "state")


def _gru_reset(
    emit: Emitter, cell: Any, r: Tensor, hidden: Tensor | None, recurrent: list[Tensor] | None
) -> Tensor | None:
    """What the reset gate lets through of the state, on its way to the candidate; `None` for nothing."""
    if cell.reset_after and recurrent is not None:
        return emit.new(keras.layers.Multiply(name="reset"), [r, recurrent[1]])
    if cell.reset_after:
        bias = _gru_bias(cell)[1]
        return combine(emit, "multiply", r, bias) if np.any(bias) else None
    if hidden is None:
        return None
    weight = _columns(emit.weight(cell.recurrent_kernel), 2 * cell.units, 3 * cell.units)
    gated = emit.new(keras.layers.Multiply(name="reset"), [r, hidden])
    return emit.dense(gated, weight, name="reset_state")


def _simple_moved(emit: Emitter, cell: Any, inputs: Tensor) -> Tensor:
    return emit.dense(inputs, emit.weight(cell.kernel), as_array(cell.bias) if cell.use_bias else None, name="input")


def _simple(emit: Emitter, cell: Any, moved: Tensor, states: States) -> tuple[Tensor, States]:
    """`h' = act(x W + h R + b)`."""
    hidden = states[0]
    if hidden is not None:
        recurrent = emit.dense(hidden, emit.weight(cell.recurrent_kernel), name="state")
        moved = emit.new(keras.layers.Add(name="sum"), [moved, recurrent])
    output = _activated(emit, cell.activation, moved, "output")
    return output, [output]


_CELLS = {
    "LSTMCell": CellRule(_lstm_moved, _lstm, states=2),
    "ConvLSTMCell": CellRule(_conv_lstm_moved, _conv_lstm, states=2, by_step=True),
    "GRUCell": CellRule(_gru_moved, _gru),
    "SimpleRNNCell": CellRule(_simple_moved, _simple),
}


def _columns(weight: IntegerWeight, start: int, stop: int) -> IntegerWeight:
    return arranged(weight, lambda w: w[:, start:stop])


def _parts(emit: Emitter, tensor: Tensor, count: int, name: str) -> list[Tensor]:
    """Equal parts of the last axis."""
    return list(emit.apply(lambda x: ops.split(x, count, axis=-1), tensor, name=name))


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
