"""A model in which what comes out is a sum over all paths: no activation, no offset, no gate that closes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_compress.core import keras_private
from keras_compress.graph import graph
from keras_compress.graph.model import rebuild
from keras_compress.pruning.scored import in_dtype

Tensor = Any
_ACTIVATIONS = ("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax")
_NORMALIZATIONS = (
    *("LayerNormalization", "GroupNormalization", "RMSNormalization", "UnitNormalization", "Normalization"),
    "Rescaling",
)
_CELLS = ("LSTMCell", "GRUCell", "SimpleRNNCell", "ConvLSTMCell")
_WITH_HEADS = ("MultiHeadAttention", "GroupedQueryAttention")
_WITHOUT_WEIGHTS = ("Attention", "AdditiveAttention")
_OFFSETS = ("bias", "beta", "moving_mean")
# Operations of a Functional model's graph, which are no layers.
_ACTIVATION_OPERATIONS = (
    *("Softmax", "LogSoftmax", "Tanh", "Sigmoid", "LogSigmoid", "Softplus", "Softsign", "HardSigmoid", "HardTanh"),
    *("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Silu", "HardSilu", "TanhShrink", "SparsePlus"),
    *("SoftShrink", "HardShrink", "Squareplus", "Threshold", "Clip", "Negative"),
)


def linear_model(model: keras.Model) -> keras.Model:
    """A copy of a model in float64 in which all weights are their magnitudes, and layers are linear."""
    made = in_dtype(model, "float64")
    made = rebuild(made) if made is model else made
    for layer in keras_private.flattened(made):
        _linearize(layer)
    for variable in made.variables:
        if "float" in variable.dtype:
            offset = variable.path.rpartition("/")[2] in _OFFSETS
            variable.assign(np.zeros(variable.shape) if offset else np.abs(keras.ops.convert_to_numpy(variable)))
    return made


def linear_call(call: graph.Call) -> Any:
    """A call of a linear model's graph: operations without weights are taken as the paths through them.

    Activations are left out, differences are sums, constants that are added are left out, those that are multiplied
    with are their magnitudes.
    """
    name = type(call.operation).__name__
    if isinstance(call.operation, keras.layers.Layer) or not type(call.operation).__module__.startswith("keras."):
        return call.run()
    if name in _ACTIVATION_OPERATIONS:
        return _as_float(call.args[0])
    if name in ("Add", "Subtract", "Multiply", "Divide", "TrueDivide") and len(call.args) == 2:
        return _of_two(call, name)
    return call.run()


def _of_two(call: graph.Call, name: str) -> Tensor:
    symbolic = [isinstance(each, keras.KerasTensor) for each in graph.arguments_of(call.node)[0]]
    first, second = (tf.cast(each, tf.float64) for each in call.args)
    if name in ("Add", "Subtract"):
        # A constant still gives its shape.
        return first * float(symbolic[0]) + second * float(symbolic[1])
    first, second = (each if path else tf.abs(each) for each, path in zip((first, second), symbolic, strict=True))
    return first * second if name == "Multiply" else first / second


def _as_float(values: Any) -> Tensor:
    values = tf.convert_to_tensor(values)
    return values if values.dtype.is_floating else tf.cast(values, tf.float64)


def _linearize(layer: Any) -> None:
    names = {cls.__name__ for cls in type(layer).__mro__ if cls.__module__.startswith("keras.")}
    if names & {*_ACTIVATIONS, *_NORMALIZATIONS}:
        keras_private.set_call(layer, lambda inputs, *args, **kwargs: _as_float(inputs))
    elif "Embedding" in names:
        keras_private.set_call(layer, _mean_row(layer))
    elif names & {*_CELLS}:
        keras_private.set_call(layer, _linear_cell(layer))
    elif names & {*_WITH_HEADS}:
        keras_private.set_attention(layer, _attended)
    elif names & {*_WITHOUT_WEIGHTS}:
        keras_private.set_call(layer, _attention_layer)
    elif hasattr(layer, "cell"):
        # Kernels of a GPU know no other cell.
        layer.use_cudnn = False
    elif hasattr(layer, "activation"):
        layer.activation = keras.activations.linear


def _mean_row(layer: Any) -> Callable[..., Any]:
    def call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        table = tf.convert_to_tensor(layer.embeddings.value)
        return tf.zeros([*tf.unstack(tf.shape(inputs)), 1], table.dtype) + tf.reduce_mean(table, 0)

    return call


def _linear_cell(cell: Any) -> Callable[..., Any]:
    """`a_t + U a_(t-1)`, a_t = W x_t, the mean over the gates of a cell.

    A path goes through the recurrent kernel once at the most: sums over all powers of it leave float64 in long
    sequences.
    """
    spatial = hasattr(cell, "input_conv")
    axis = 1 if spatial and cell.data_format == "channels_first" else -1

    def gates(values: Tensor) -> Tensor:
        count = int(values.shape[axis]) // int(cell.filters if spatial else cell.units)
        return sum(ops.split(values, count, axis=axis)) / float(count)

    def call(inputs: Tensor, states: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        structure = states if isinstance(states, (list, tuple)) else [states]
        if spatial:
            now = gates(cell.input_conv(inputs, cell.kernel, padding=cell.padding))
            before = gates(cell.recurrent_conv(structure[0], cell.recurrent_kernel))
        else:
            now = gates(ops.matmul(inputs, cell.kernel))
            before = gates(ops.matmul(structure[0], cell.recurrent_kernel))
        kept = [now for _ in structure]
        return now + before, kept if isinstance(states, (list, tuple)) else now

    return call


def _attended(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """`(batch, positions.., heads, channels)`: every position of keys and values reaches every one of queries, and each
    channel of queries and keys, which are multiplied with each other, each channel of its head."""
    places = list(range(1, len(key.shape) - 2))
    width = float(value.shape[-1])
    shared = ops.mean(value, places, keepdims=True) + _over_channels(ops.mean(key, places, keepdims=True)) / width
    return shared + _over_channels(query) / width, None


def _attention_layer(inputs: Any, *args: Any, return_attention_scores: bool = False, **kwargs: Any) -> Any:
    query, value = inputs[0], inputs[1]
    key = inputs[2] if len(inputs) > 2 else value
    found = _attended(*(ops.expand_dims(each, -2) for each in (query, key, value)))[0]
    found = ops.squeeze(found, -2)
    scores = _over_channels(query) + 0.0 * ops.swapaxes(_over_channels(key), -1, -2)
    return (found, scores) if return_attention_scores else found


def _over_channels(values: Tensor) -> Tensor:
    return ops.sum(values, -1, keepdims=True)
