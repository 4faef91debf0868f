"""Recurrent layers: a unit is removed with its part of each gate and of each state."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import tree

from keras_compress.core.registry import register
from keras_compress.structured.channel_ids import Axes, Ids
from keras_compress.structured.rules.probe import freeze_mixed
from keras_compress.structured.rules.rule import Rule, Visit

# Gates lie one behind the other on the last axis of kernels and biases.
_GATES = {"SimpleRNNCell": 1, "GRUCell": 3, "LSTMCell": 4, "ConvLSTMCell": 4}


@register("channel_rule")
class RecurrentRule(Rule):
    """Kernels `(inputs, gates * units)` and `(units, gates * units)`; a convolution's with positions before."""

    handles = ("RNN", "SimpleRNN", "GRU", "LSTM", "ConvLSTM")

    def outputs(self, visit: Visit) -> list[Axes]:
        layer, cell = visit.operation, visit.operation.cell
        gates = _GATES.get(type(cell).__name__) if type(cell).__module__.startswith("keras.") else None
        if gates is None:
            return visit.freeze_all(f"has a {type(cell).__name__}, for which there is no channel rule")
        came = visit.only_last("takes it for a position in time or space")
        count = cell.recurrent_kernel.shape[-2]
        out = visit.channels(count)
        gated = np.tile(out, gates)
        self._weights(visit, cell, came, out, gated)
        self._count(visit, cell, came, out, gated)
        self._states(visit, out)
        own = "filters" if hasattr(cell, "filters") else "units"
        visit.setting(own if own in layer.get_config() else ("cell", "config", own), out)
        # Of one step; a convolution's gates have positions.
        step = len(visit.shape) - 1
        for function in (cell.activation, getattr(cell, "recurrent_activation", None)):
            freeze_mixed(visit, function, {step - 1: out}, step)
        if layer.stateful:
            visit.freeze(out, f"{visit.path} keeps its states from batch to batch")
        visit.read()
        return [{len(tensor.shape) - 1: out} for tensor in visit.outputs]

    def _weights(self, visit: Visit, cell: Any, came: Ids | None, out: Ids, gated: Ids) -> None:
        visit.weight(cell.kernel, -2, came, "in")
        visit.weight(cell.kernel, -1, gated, "out")
        visit.weight(cell.recurrent_kernel, -2, out, "in")
        visit.weight(cell.recurrent_kernel, -1, gated, "out")
        # A GRU may have two rows of biases.
        visit.weight(cell.bias, -1, gated, "out")

    def _count(self, visit: Visit, cell: Any, came: Ids | None, out: Ids, gated: Ids) -> None:
        steps = visit.shape[1] or 1
        space = visit.outputs[-1].shape[1:-1] if hasattr(cell, "filters") else ()
        if hasattr(cell, "filters") and visit.operation.return_sequences and len(visit.outputs) == 1:
            space = space[1:]
        positions = steps * int(np.prod([n or 1 for n in space], dtype=np.int64))
        for kernel, ids in ((cell.kernel, came), (cell.recurrent_kernel, out)):
            taps = int(np.prod(kernel.shape[:-2], dtype=np.int64))
            visit.product(positions * taps, kernel.shape[-2] if ids is None else ids, gated)

    def _states(self, visit: Visit, out: Ids) -> None:
        """What the layer begins with goes with its units; a mask tells of positions only."""
        states = tree.flatten(visit.argument("initial_state"))
        for number, tensor in enumerate(visit.tensors):
            if any(tensor is state for state in states):
                last = len(tensor.shape) - 1
                visit.freeze_axes(number, f"{visit.path} takes it for a position", but=last)
                if last not in visit.inputs[number]:
                    visit.freeze(out, f"{visit.path} begins with states of fixed width")
                else:
                    visit.tie(visit.inputs[number][last], out)
            elif tensor is not visit.tensors[0]:
                visit.freeze_axes(number, f"{visit.path} takes it for a mask")
