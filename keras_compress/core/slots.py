"""Which variables of a layer can be compressed, and where their output channels are.

One table for all layer classes. A user's own layer declares `get_compressible_weights()`, or the wrapper is given a
mapping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras


@dataclass(frozen=True)
class Slot:
    """One compressible variable of a layer.

    Attributes:
        name: Name of the slot, e.g. `"kernel"`; a path such as `"cell.kernel"` reaches into sub-layers.
        channel_axes: Output-channel axes of the variable. More than one (depthwise) count as one, flattened.
    """

    name: str
    channel_axes: tuple[int, ...] = (-1,)

    def variable(self, layer: keras.layers.Layer) -> keras.Variable:
        """The variable in `layer`."""
        found: Any = layer
        for part in self.name.split("."):
            found = getattr(found, part)
        return found


_KERNEL = (Slot("kernel"),)
_CELL = (Slot("cell.kernel"), Slot("cell.recurrent_kernel"))
SLOTS: dict[str, tuple[Slot, ...]] = {
    "Dense": _KERNEL,
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
    "Embedding": (Slot("embeddings"),),
    "LSTM": _CELL,
    "GRU": _CELL,
    "SimpleRNN": _CELL,
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
            return SLOTS[cls.__name__]
    return ()


def skip_reason(layer: keras.layers.Layer) -> str | None:
    """Why nothing of `layer` can be compressed, `None` where there is nothing to be said.

    Layers without a matrix (activations, pooling, normalisation) are not worth a word.
    """
    if slots_of(layer) or not any(len(v.shape) >= 2 for v in layer.trainable_variables):
        return None
    return (
        f"{type(layer).__name__} is not in the table of compressible layers; give the layer a "
        "`get_compressible_weights()` that returns {attribute: output-channel axes}"
    )
