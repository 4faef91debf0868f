"""`FilterSelector`: which channels stay, trained with all else frozen; and cutting them out of a quantized model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree
from numpy.typing import NDArray

from keras_compress.core.registry import PACKAGE
from keras_compress.core.ste import value_of
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph as keras_graph
from keras_compress.graph.input_points import input_points_apart
from keras_compress.graph.model import LayerCopies, compressed_layers, copied, copy_layer, rebuild
from keras_compress.structured.channel_graph import ChannelGraph, ChannelGroup, Reading
from keras_compress.structured.dependency import channel_graph
from keras_compress.structured.surgery import cut

Tensor = Any
START = 1e-4


@tf.custom_gradient
def selected(selectors: Tensor) -> tuple[Tensor, Any]:
    """Which channels stay.

    **Forward** `(sign(m) + 1) / 2`: 1 for `m >= 0`, else 0. **Gradient** 1/2 for `|m| <= 1`, else 0.
    """

    def gradient(upstream: Tensor) -> Tensor:
        return 0.5 * upstream * tf.cast(tf.abs(selectors) <= 1.0, upstream.dtype)

    return tf.cast(selectors >= 0.0, selectors.dtype), gradient


@keras.saving.register_keras_serializable(package=PACKAGE)
class FilterSelector(keras.layers.Layer):
    """The subsidiary component of one layer: a trained number for each of its filters, whose sign keeps or drops it.

    **Forward** `y_c = x_c (sign(m_c) + 1) / 2`. **Gradient** See `selected`.
    **Loss** `strength * sum_c (sign(m_c) + 1) / 2` while training: what each filter that stays costs.

    Args:
        places: For each index of the axis the number of its filter, -1 for one that stays.
        axis: The axis of the channels.
        strength: Of the loss, >= 0.

    Input and output shape: any, the same.

    **Reference**: Xu et al., "A main/subsidiary network framework for simplifying binary neural networks" (2019),
    section 3.
    **Deviations**: it stands where the channels are read, not at the filters, so that a dropped filter is as good as
    gone: behind a normalization a filter of zeros still is a constant sign. Numbers begin a little above 0, where all
    filters stay, not around it.
    """

    def __init__(self, places: Sequence[int], axis: int = -1, strength: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        if not strength >= 0:
            raise ValueError(f"Expected `strength` >= 0. Received: strength={strength}")
        self.places, self.axis, self.strength = [int(each) for each in places], int(axis), float(strength)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        count = max(self.places) + 1
        self.selectors = self.add_weight(
            name="selectors", shape=(count,), initializer=keras.initializers.Constant(START), trainable=True
        )

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        mask = selected(tf.identity(value_of(self.selectors)))
        if training and self.strength:
            self.add_loss(self.strength * ops.sum(mask))
        places = np.array(self.places) % (max(self.places) + 2)
        by_index = tf.gather(tf.concat([mask, [1.0]], 0), places)
        shape = [1] * len(inputs.shape)
        shape[self.axis] = -1
        return inputs * ops.cast(ops.reshape(by_index, shape), inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "places": self.places, "axis": self.axis, "strength": self.strength}


def readings_of(graph: ChannelGraph, group: ChannelGroup) -> list[Reading]:
    """Where the channels of a group are read, each tensor once for each of its readers."""
    return [each for each in graph.readings if np.isin(graph.units[each.ids], group.units).any()]


def with_selector(graph: ChannelGraph, group: ChannelGroup, strength: float) -> tuple[keras.Model, FilterSelector]:
    """A copy of a model that trains nothing but which channels of a group stay.

    Args:
        graph: Channels of the model.
        group: One whose channels are read from one tensor, see `readings_of`.
        strength: What each channel that stays costs.
    """
    readings = readings_of(graph, group)
    first = readings[0]
    order = np.argsort(group.units)
    units = graph.units[first.ids]
    at = np.clip(np.searchsorted(group.units[order], units), 0, len(group) - 1)
    places = np.where(group.units[order][at] == units, order[at], -1)
    selector = FilterSelector(places.tolist(), first.axis, strength, name=f"{group.name.replace('/', '_')}_selector")
    operations = {id(each.operation) for each in readings}
    made: list[Any] = []

    def frozen(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        copy = copy_layer(layer)
        copy.trainable = False
        return copy

    def visit(call: keras_graph.Call) -> Any:
        if id(call.operation) not in operations and id(getattr(call.operation, "layer", None)) not in operations:
            return copies(call)
        old = tree.flatten(keras_graph.arguments_of(call.node))
        new = tree.flatten((call.args, call.kwargs))
        for number, tensor in enumerate(old):
            if tensor is first.tensor:
                if not made:
                    made.append(selector(new[number]))
                new[number] = made[0]
        args, kwargs = tree.pack_sequence_as((call.args, call.kwargs), new)
        return copies.visit(keras_graph.Call(**{**vars(call), "args": args, "kwargs": kwargs}))

    copies = LayerCopies(frozen, inside=False)
    return keras_graph.Rebuild(visit).model(graph.model), selector


def without_channels(model: keras.Model, dropped: dict[str, NDArray[Any]]) -> keras.Model:
    """A copy of a quantized model without some channels: latent weights are cut, and quantized as before.

    What quantizers have trained for a weight begins anew, from the weight that is left.

    Args:
        model: Model with quantizers or without.
        dropped: Name of a group of the model's channels -> which of its channels go, bool.
    """
    model = input_points_apart(model)
    wrappers = dict(compressed_layers(model))
    plain = rebuild(model, lambda _, layer: copy_layer(layer.layer if isinstance(layer, Compressed) else layer))
    graph = channel_graph(plain)
    removed = graph.none_removed()
    for group in graph.groups:
        if group.name in dropped:
            removed[group.units[dropped[group.name]]] = True

    def wrapped(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        copy, wrapper = copy_layer(layer), wrappers.get(path)
        if wrapper is None:
            return copy
        listed = {name: [_again(each) for each in each_slot] for name, each_slot in wrapper.transforms.items()}
        gradients = None if wrapper.gradients is None else copy_layer(wrapper.gradients)
        made = Compressed(copy, listed, slots=wrapper.slot_axes, gradients=gradients, name=wrapper.name)
        for transform in made.transform_list:
            made.initialize(transform)
        return made

    smaller: keras.Model = copied(cut(graph, removed), LayerCopies(wrapped, inside=False))
    return smaller


def _again(transform: Any) -> Any:
    """A transform of the same configuration, without variables."""
    return type(transform).from_config(transform.get_config())
