"""The mean error that quantized weights make, taken out of the bias, from the statistics of BatchNormalizations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core.global_state import global_state_kept
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph as keras_graph
from keras_compress.graph.model import compressed_layers, copy_layer, rebuild, strip_layer
from keras_compress.post_training.moments import Moments, moments_of
from keras_compress.post_training.record import carry, check_statistics, record_of

Vector = NDArray[np.float64]
# Where the sizes of an image are not known, an image so large that its border counts for little.
UNKNOWN_LENGTH = 32


@global_state_kept()
def bias_from_statistics(model: keras.Model, made_from: keras.Model | None = None) -> keras.Model:
    """A copy of a quantized model whose layers have the mean outputs of the float ones, as far as statistics tell.

    Quantized weights `W + eps` give `y + eps x`. What that is on average is taken out of the bias:

        b <- b - (layer of W + eps at E[x] - layer of W at E[x]),

    with the mean E[x] of each input channel. Behind a BatchNormalization and a ReLU that is the mean of a clipped
    normal distribution, `gamma phi(-beta / gamma) + beta (1 - Phi(-beta / gamma))`; other activations are integrated,
    sums, concatenations and average poolings keep means. A layer whose input has no known mean is left as it is, and so
    is one without a bias (`fold_batch_norms` gives every layer one).

    Args:
        model: From `quantize_model`, of a model that passes made (`fold_batch_norms`), or with BatchNormalizations.
        made_from: The model that `quantize_model` was given, whose statistics are taken; by default those that
            `quantize_post_training` leaves with its models.

    Raises:
        ValueError: For a model of whose channels nothing is known.

    **Reference**: Nagel et al., "Data-free quantization through weight equalization and bias correction" (2019),
    section 4.2, equations 17 to 19.
    """
    record = record_of(made_from or model)
    check_statistics(model, record)
    wrappers, means = _inputs(model, record.statistics)
    moved = {path: mean_error(wrappers[path], *means[path]) for path in means}

    def make(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        copy = copy_layer(layer)
        if path in moved:
            bias = copy.layer.bias
            bias.assign(np.asarray(bias, np.float64) - moved[path].reshape(bias.shape))
        return copy

    made: keras.Model = rebuild(model, make)
    # Layers inside those of users, which no call of the graph runs, are among them.
    with_bias = [path for path, each in compressed_layers(model) if getattr(each.layer, "bias", None) is not None]
    left = [path for path in dict.fromkeys([*wrappers, *with_bias]) if path not in means]
    note = f"Bias corrected: {len(moved)} layers"
    more = f"; of {len(left)} the input's mean is not known: {', '.join(left[:10])}" if left else ""
    return carry(made, record.noted(note + more))


def _inputs(
    model: keras.Model, statistics: Mapping[str, Any]
) -> tuple[dict[str, Compressed], dict[str, tuple[Vector, tuple[int | None, ...]]]]:
    """Wrapped layers that have a bias, by path, and of those whose input's mean is known, that and its shape."""
    wrappers: dict[str, Compressed] = {}
    means: dict[str, list[tuple[Vector, tuple[int | None, ...]]]] = {}

    def seen(call: keras_graph.Call, moments: Moments) -> None:
        layer = call.operation
        if not isinstance(layer, Compressed) or getattr(layer.layer, "bias", None) is None:
            return
        wrappers[call.path] = layer
        shape = tuple(call.node.input_tensors[0].shape)
        means.setdefault(call.path, []).append((moments.mean, shape))  # type: ignore[arg-type]

    moments_of(model, statistics, seen=seen)
    once = {path: each[0] for path, each in means.items() if len(each) == 1 and each[0][0] is not None}
    return wrappers, once


def mean_error(wrapper: Compressed, mean: Vector, shape: tuple[int | None, ...]) -> Vector:
    """How far quantized weights move the mean of each output channel, before the activation.

    Args:
        wrapper: A layer with quantized weights.
        mean: Mean of each input channel.
        shape: Shape of the input, the batch first.
    """
    sizes = [n or UNKNOWN_LENGTH for n in shape[1:-1]]
    read = np.broadcast_to(mean.astype(np.float32), (1, *sizes, len(mean)))
    exact, rounded = (_linear(layer) for layer in (wrapper.layer, strip_layer(wrapper)))
    difference = np.asarray(rounded(read), np.float64) - np.asarray(exact(read), np.float64)
    mean_difference: Vector = np.mean(difference, axis=tuple(range(difference.ndim - 1)))
    return mean_difference


def _linear(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A copy that computes the sums alone, in float32."""
    linear = {"activation": None} if hasattr(layer, "activation") else {}
    return copy_layer(layer, dtype="float32", **linear)
