"""Network slimming: a penalty that draws the gammas of channels that matter little to zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_compress.core.global_state import global_state_kept
from keras_compress.core.registry import register
from keras_compress.core.selection import Selector, rules_take, settings_by_path
from keras_compress.graph.model import copy_layer, rebuild
from keras_compress.structured.channel_graph import ChannelGraph
from keras_compress.structured.dependency import channel_graph


@register("entry_point")
@global_state_kept()
@rules_take("strength")
def add_slimming(
    model: keras.Model,
    strength: float = 1e-4,
    *,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    allow_inexact: bool = False,
) -> keras.Model:
    """A copy of the model whose training adds `strength * sum |gamma|` to the loss.

    The sum is over the BatchNormalizations all of whose channels can be removed; others stay as they are. Train the
    copy, then `prune_channels(model, criterion="bn_gamma", scope="global", ...)`.

    **Gradient** of the penalty: `strength * sign(gamma)`.

    Args:
        model: Built model; a subclassed one becomes a Functional one.
        strength: Factor of the penalty, > 0. The paper takes 1e-4 for VGG and 1e-5 for ResNet and DenseNet.
        filters: Which BatchNormalizations: name, `"re:..."` or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}`, or with `"strength"`.
        allow_inexact: See `prune_channels`.

    Returns:
        A new model, not compiled. The penalty is a `gamma_regularizer` of its layers, saved with them.

    Raises:
        ValueError: For a strength <= 0, a gamma with another regularizer, or a model without a BatchNormalization whose
            channels can be removed.

    **Reference**: Liu et al., "Learning efficient convolutional networks through network slimming" (2017), equation 1.
    """
    graph = channel_graph(model, allow_inexact=allow_inexact)
    norms = _prunable_norms(graph)
    settings = settings_by_path([*norms.items()], {"strength": strength}, filters, rules)
    if not norms:
        raise ValueError(
            "Expected a model with BatchNormalization layers (scale=True) whose channels can be removed. "
            f"Received: {model.name!r}, which has none"
        )
    penalties = {id(norms[path]): _penalty(path, norms[path], **each) for path, each in settings.items()}

    def make(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        if id(layer) not in penalties:
            return copy_layer(layer)
        return copy_layer(layer, gamma_regularizer=penalties[id(layer)])

    slimmed: keras.Model = rebuild(graph.model, make)
    return slimmed


def _prunable_norms(graph: ChannelGraph) -> dict[str, keras.layers.Layer]:
    """`path -> layer` of each BatchNormalization all of whose channels can be removed."""
    prunable = {int(unit) for group in graph.prunable for unit in group.units}
    return {
        each.path: each.layer
        for each in graph.weights
        if isinstance(each.layer, keras.layers.BatchNormalization)
        and each.variable is each.layer.gamma
        and prunable.issuperset(graph.units[each.ids].tolist())
    }


def _penalty(path: str, norm: keras.layers.BatchNormalization, strength: float) -> dict[str, Any]:
    if not strength > 0.0:
        raise ValueError(f"Expected `strength` > 0. Received: strength={strength}")
    if norm.gamma_regularizer is not None:
        kind = type(norm.gamma_regularizer).__name__
        raise ValueError(f"Expected gammas without a regularizer. Received: {path!r} with {kind}")
    made: dict[str, Any] = keras.saving.serialize_keras_object(keras.regularizers.L1(strength))
    return made
