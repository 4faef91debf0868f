"""Network slimming: a penalty that draws the gammas of channels that matter little to zero."""

from __future__ import annotations

import keras

from keras_compress.core.model import copy_layer, rebuild
from keras_compress.core.registry import register
from keras_compress.structured.channel_graph import ChannelGraph
from keras_compress.structured.dependency import channel_graph


@register("entry_point")
def add_slimming(model: keras.Model, strength: float = 1e-4, *, allow_inexact: bool = False) -> keras.Model:
    """A copy of the model whose training adds `strength * sum |gamma|` to the loss.

    The sum is over the BatchNormalizations all of whose channels can be removed; others stay as they are. Train the copy, then
    `prune_channels(model, criterion="bn_gamma", scope="global", ...)`.

    **Gradient** of the penalty: `strength * sign(gamma)`.

    Args:
        model: Built model; a subclassed one becomes a Functional one.
        strength: Factor of the penalty, > 0. The paper takes 1e-4 for VGG and 1e-5 for ResNet and DenseNet.
        allow_inexact: See `prune_channels`.

    Returns:
        A new model, not compiled. The penalty is a `gamma_regularizer` of its layers, saved with them.

    Raises:
        ValueError: For a strength <= 0, a gamma with another regularizer, or a model without a BatchNormalization whose
            channels can be removed.

    **Reference**: Liu et al., "Learning efficient convolutional networks through network slimming" (2017), equation 1.
    """
    if not strength > 0.0:
        raise ValueError(f"Expected `strength` > 0. Received: strength={strength}")
    graph = channel_graph(model, allow_inexact=allow_inexact)
    chosen = _prunable_norms(graph)
    if not chosen:
        raise ValueError(
            "Expected a model with BatchNormalization layers (scale=True) whose channels can be removed. "
            f"Received: {model.name!r}, which has none"
        )

    def make(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        if id(layer) not in chosen:
            return copy_layer(layer)
        if layer.gamma_regularizer is not None:
            raise ValueError(
                "Expected gammas without a regularizer. "
                f"Received: {path!r} with {type(layer.gamma_regularizer).__name__}"
            )
        penalty = keras.saving.serialize_keras_object(keras.regularizers.L1(strength))
        return copy_layer(layer, gamma_regularizer=penalty)

    slimmed: keras.Model = rebuild(graph.model, make)
    return slimmed


def _prunable_norms(graph: ChannelGraph) -> set[int]:
    """`id` of each BatchNormalization all of whose channels can be removed."""
    prunable = {int(unit) for group in graph.prunable for unit in group.units}
    return {
        id(each.layer)
        for each in graph.weights
        if isinstance(each.layer, keras.layers.BatchNormalization)
        and each.variable is each.layer.gamma
        and prunable.issuperset(graph.units[each.ids].tolist())
    }
