"""Recurrent layers whose input kernel is one matrix."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

_RECURRENT = (keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN)
# Why the other kernel of a recurrent layer is left.
OF_STATES = "it multiplies the state inside the loop, where no plain layer can stand"


def cells_of(layer: Any) -> list[Any]:
    """The cell of an LSTM, GRU or SimpleRNN, those of both directions of a Bidirectional; of other layers none."""
    layers = directions_of(layer)
    return [each.cell for each in layers] if all(type(each) in _RECURRENT for each in layers) else []


def directions_of(layer: Any) -> list[Any]:
    """Both layers of a Bidirectional; any other layer itself."""
    return [layer.forward_layer, layer.backward_layer] if type(layer) is keras.layers.Bidirectional else [layer]


def input_kernel(cells: list[Any]) -> NDArray[Any]:
    """Of shape `(inputs, gates x units)`; both directions read the same inputs, so theirs stand side by side."""
    return np.concatenate([keras.ops.convert_to_numpy(cell.kernel) for cell in cells], axis=1)
