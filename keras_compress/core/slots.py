"""Which variables of a layer can be compressed, and where their output channels are.

One table for all layer classes. A user's own layer declares `get_compressible_weights()`, or the wrapper is given a
mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

from keras_compress.core import keras_private
from keras_compress.core.kinds_of_layers import is_graph, is_user_written


@dataclass(frozen=True)
class Slot:
    """One compressible variable of a layer.

    Attributes:
        name: Name of the slot, e.g. `"kernel"`; a path such as `"cell.kernel"` or `"cells.0.kernel"` reaches into
            sub-layers, lists and dicts.
        channel_axes: Output-channel axes of the variable. More than one (depthwise) count as one, flattened.
    """

    name: str
    channel_axes: tuple[int, ...] = (-1,)

    def variable(self, layer: keras.layers.Layer) -> keras.Variable:
        """The variable in `layer`."""
        held: Any = layer
        for part in self.name.split("."):
            if isinstance(held, (list, tuple)):
                held = held[int(part)]
            else:
                held = held[part] if isinstance(held, dict) else getattr(held, part)
        return held


SlotFinder = Callable[[Any], tuple[Slot, ...]]


def _einsum(layer: keras.layers.EinsumDense) -> tuple[Slot, ...]:
    """Channels are the axes of the weight that stay in the output: the others are summed over."""
    operands, output = layer.equation.replace("...", "").split("->")
    weight = operands.split(",")[1]
    return (Slot("kernel", tuple(axis for axis, letter in enumerate(weight) if letter in output)),)


def _within(*names: str) -> SlotFinder:
    """The slots of sub-layers, under the name of the attribute that holds each."""

    def find(layer: Any) -> tuple[Slot, ...]:
        return tuple(slot for name in names for slot in _slots_at(name, getattr(layer, name, None)))

    return find


def _slots_at(name: str, held: Any) -> tuple[Slot, ...]:
    if isinstance(held, (list, tuple)):
        inner = [slot for index, each in enumerate(held) for slot in _slots_at(str(index), each)]
    elif is_graph(held):
        inner = list(_slots_at("layers", held.layers))
    else:
        inner = list(slots_of(held)) if isinstance(held, keras.layers.Layer) else []
    return tuple(replace(slot, name=f"{name}.{slot.name}") for slot in inner)


_KERNEL = (Slot("kernel"),)
_RECURRENT = (Slot("kernel"), Slot("recurrent_kernel"))
_CELL = (Slot("cell.kernel"), Slot("cell.recurrent_kernel"))
_ATTENTION = _within("_query_dense", "_key_dense", "_value_dense", "_gate_dense", "_output_dense")
SLOTS: dict[str, tuple[Slot, ...] | SlotFinder] = {
    "Dense": _KERNEL,
    "EinsumDense": _einsum,
    "Conv1D": _KERNEL,
    "Conv2D": _KERNEL,
    "Conv3D": _KERNEL,
    "Conv1DTranspose": (Slot("kernel", (-2,)),),
    "Conv2DTranspose": (Slot("kernel", (-2,)),),
    "Conv3DTranspose": (Slot("kernel", (-2,)),),
    "DepthwiseConv1D": (Slot("kernel", (-2, -1)),),
    "DepthwiseConv2D": (Slot("kernel", (-2, -1)),),
    "SeparableConv1D": (Slot("depthwise_kernel", (-2, -1)), Slot("pointwise_kernel")),
    "SeparableConv2D": (Slot("depthwise_kernel", (-2, -1)), Slot("pointwise_kernel")),
    # One scale for the table: a look-up gives numbers on one grid.
    "Embedding": (Slot("embeddings", ()),),
    "LSTM": _CELL,
    "GRU": _CELL,
    "SimpleRNN": _CELL,
    "ConvLSTM1D": _CELL,
    "ConvLSTM2D": _CELL,
    "ConvLSTM3D": _CELL,
    "LSTMCell": _RECURRENT,
    "GRUCell": _RECURRENT,
    "SimpleRNNCell": _RECURRENT,
    "StackedRNNCells": _within("cells"),
    "RNN": _within("cell"),
    "Bidirectional": _within("forward_layer", "backward_layer"),
    "TimeDistributed": _within("layer"),
    "SpectralNormalization": _within("layer"),
    "MultiHeadAttention": _ATTENTION,
    "GroupedQueryAttention": _ATTENTION,
}


def slots_of(layer: keras.layers.Layer, mapping: Mapping[str, Sequence[int]] | None = None) -> tuple[Slot, ...]:
    """The compressible slots of a layer; empty where it has none.

    Args:
        layer: Any Keras layer.
        mapping: Attribute path -> output-channel axes; used instead of the table.
    """
    declared = mapping
    if declared is None and hasattr(layer, "get_compressible_weights"):
        declared = layer.get_compressible_weights()
    if declared is not None:
        return tuple(Slot(name, tuple(axes)) for name, axes in declared.items())
    for cls in type(layer).__mro__:
        if cls.__name__ in SLOTS and cls.__module__.startswith("keras."):
            found = SLOTS[cls.__name__]
            return found(layer) if callable(found) else found
    return ()


def skip_reason(layer: keras.layers.Layer) -> str | None:
    """Why nothing of `layer` can be compressed, `None` where there is nothing to be said.

    Layers without a matrix (activations, pooling, normalisation), and those that say so themselves, are not worth a
    word. Of a layer that a user wrote
    only its own weights count: its sub-layers speak for themselves.
    """
    variables = keras_private.own_trainable(layer) if is_user_written(layer) else layer.trainable_variables
    says = hasattr(layer, "get_compressible_weights")
    if slots_of(layer) or says or not any(len(v.shape) >= 2 for v in variables):
        return None
    name = type(layer).__name__
    what = f"what {name} holds is" if name in SLOTS else f"{name} is"
    return (
        f"{what} not in the table of compressible layers; give the layer a "
        "`get_compressible_weights()` that returns {attribute: output-channel axes}"
    )
