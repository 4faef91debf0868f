"""BatchNormalization multiplied into the float weights before it, its statistics kept."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np

from keras_compress.core.batch_norm import Affine, affine_of, channel_shape, foldable, takes_factors
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.slots import slots_of
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph as keras_graph
from keras_compress.graph.batch_norms import graphs_in
from keras_compress.graph.model import LayerCopies, check_model, compressed_layers, copied, copy_layer
from keras_compress.graph.with_bias import copy_with_bias
from keras_compress.post_training.halves import has_halves, with_halves
from keras_compress.post_training.record import ChannelStatistics, carry, record_of
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.structured.opened import opened
from keras_compress.structured.unit_places import all_nodes


@global_state_kept()
def fold_batch_norms(model: keras.Model) -> keras.Model:
    """The same function without the BatchNormalizations that can go into the weights before them.

    With `factor = gamma / sqrt(variance + epsilon)`, `W <- factor W` and `b <- factor (b - mean) + beta`. Layers of the
    table of `foldable` classes have a bias afterwards, BatchNormalization or not, as other passes put what they find
    into it. A layer or a normalization that is called twice, or is called in training, is left alone.

    Separable convolutions become the depthwise and the pointwise one that devices run anyway, so that what is between
    them can be scaled and has a range.

    What a normalization knew of its outputs is carried with the model: their mean `beta`, and their standard deviation
    `|gamma| sqrt(variance / (variance + epsilon))`.

    Args:
        model: Plain built model. Of a subclassed one, the layers that its `call` runs, as a Functional model.

    Raises:
        ValueError: For a model with transforms or points, or one whose `call` does not run on symbolic tensors.
    """
    refuse_quantized(model)
    record = record_of(model)
    model = with_halves(opened(model))
    norms = _norms(model)
    folded = {id(norm) for norm in norms.values()}
    statistics = dict(record.statistics)

    def make(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        if _is_norm(layer) and id(layer) not in folded:
            statistics.setdefault(path, statistics_of(layer))
        if not takes_factors(layer) or not hasattr(layer, "bias"):
            return copy_layer(layer)
        copy = copy_with_bias(layer)
        if id(layer) in norms:
            _fold(copy, affine_of(norms[id(layer)]))
            statistics[path] = statistics_of(norms[id(layer)])
        return copy

    def visit(call: keras_graph.Call) -> Any:
        return call.args[0] if id(call.operation) in folded else copies(call)

    copies = LayerCopies(make, visit, inside=False)
    made: keras.Model = copied(model, copies)
    left = [path for path, layer in keras_graph.walk(made) if _is_norm(layer)]
    notes = [f"BatchNormalization left, as no layer can take it in: {', '.join(left)}"] if left else []
    return carry(made, type(record)(statistics, record.notes).noted(*notes))


def folded(model: keras.Model) -> keras.Model:
    """What `fold_batch_norms` gives, or the model itself where a pass has made it of that: to be read, not changed."""
    return model if _is_folded(model) else fold_batch_norms(model)


def _is_folded(model: keras.Model) -> bool:
    if not keras_graph.is_graph(model):
        return False
    known = record_of(model).statistics
    for path, layer in keras_graph.walk(model):
        # What is within other layers or models has a slash in its path.
        if "/" in path or isinstance(layer, (Compressed, QuantizeActivation)) or has_halves(layer):
            return False
        if _is_norm(layer) and path not in known:
            return False
        if takes_factors(layer) and getattr(layer, "bias", layer) is None:
            return False
    return not _norms(model)


def refuse_quantized(model: keras.Model) -> None:
    """Refuse what is no plain model.

    Raises:
        ValueError: Naming the first layer with transforms, or the first point.
    """
    check_model(model)
    wrapped = next((path for path, _ in compressed_layers(model)), None)
    points = (path for path, layer in keras_graph.walk(model) if isinstance(layer, QuantizeActivation))
    found = wrapped or next(points, None)
    if found is not None:
        raise ValueError(
            "Expected a plain model: passes of post-training quantization come before `quantize_model`; take "
            f"`kc.strip(model)`, or the model that it was made from. Received: {model.name!r}, quantized or compressed "
            f"at {found!r}"
        )


def statistics_of(norm: keras.layers.BatchNormalization) -> ChannelStatistics:
    """Mean and standard deviation of what a BatchNormalization makes of what it was trained with."""
    affine = affine_of(norm)
    count = len(affine.factor)
    mean = np.asarray(norm.beta, np.float64) if norm.center else np.zeros(count)
    return ChannelStatistics(mean, np.abs(affine.factor) * np.sqrt(np.asarray(norm.moving_variance, np.float64)))


def _is_norm(operation: Any) -> bool:
    return isinstance(operation, keras.layers.BatchNormalization)


def _norms(model: keras.Model) -> dict[int, keras.layers.BatchNormalization]:
    """`id(layer)` -> the normalization to fold into it."""
    found: dict[int, keras.layers.BatchNormalization] = {}
    for each in graphs_in(model):
        table = keras_graph.consumers(each)
        for node in keras_graph.nodes(each):
            reader = keras_graph.sole_consumer(node, each, table)
            if reader is not None and _takes(node.operation, reader):
                found[id(node.operation)] = reader.operation
    uses = Counter(id(node.operation) for node in all_nodes(model))
    return {key: norm for key, norm in found.items() if uses[key] == uses[id(norm)] == 1}


def _takes(layer: Any, reader: Any) -> bool:
    if isinstance(layer, Compressed) or not foldable(layer, reader.operation):
        return False
    training = reader.arguments.kwargs.get("training")
    return takes_factors(layer) and not training and len(reader.input_tensors) == 1


def _fold(layer: keras.layers.Layer, norm: Affine) -> None:
    # Of a separable convolution the pointwise kernel.
    slot = slots_of(layer)[-1]
    kernel = slot.variable(layer)
    factor = norm.factor.reshape(channel_shape(tuple(kernel.shape), slot.channel_axes))
    kernel.assign(np.asarray(kernel, np.float64) * factor)
    layer.bias.assign((np.asarray(layer.bias, np.float64) * norm.factor + norm.offset).reshape(layer.bias.shape))
