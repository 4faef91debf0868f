"""SynFlow: which weights carry the most through the network, without data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_compress.core import keras_private
from keras_compress.core.quiet import quiet_tensorflow
from keras_compress.core.registry import register
from keras_compress.data.examples import Examples
from keras_compress.graph import graph
from keras_compress.graph.model import rebuild
from keras_compress.graph.trace import as_graph
from keras_compress.pruning.criteria.gradients import as_arrays
from keras_compress.pruning.criteria.saliency import Saliency, Scores, check_count
from keras_compress.pruning.scored import ScoredModel, in_dtype

# Axes of an input whose size is not known.
_SIZE = 8
_ACTIVATIONS = ("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax")
_NORMALIZATIONS = (
    *("LayerNormalization", "GroupNormalization", "RMSNormalization", "UnitNormalization", "Normalization"),
    "Rescaling",
)
_OFFSETS = ("bias", "beta", "moving_mean")


@register("weight_criterion")
class SynFlow(Saliency):
    """`|w| dR/d|w|`, R the sum of the outputs for an input of ones when all weights are their magnitudes.

    R is the sum over all paths from an input to an output of the product of the magnitudes on them, so a layer whose
    weights nearly all go gets larger scores in the next round, and none is cut through. Needs no data and no loss. In
    each of `rounds` rounds, what stays is multiplied by one factor.

    R is linear along each path: activations and normalizations of layers are left out, biases are 0, a
    BatchNormalization multiplies by `|gamma| / sqrt(variance + epsilon)`, and an embedding gives the mean of its rows.
    It is computed in float64, as products of many layers leave float32.

    Args:
        rounds: How many rounds, >= 1.

    **Reference**: Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow"
    (2020), equation 2 and algorithm 1. **Deviations**: offsets and normalizations, see above, so that what flows
    through a layer is conserved in trained networks too.
    """

    def __init__(self, rounds: int = 100) -> None:
        self.rounds = check_count("rounds", rounds)

    def scores(self, scored: ScoredModel, examples: Examples) -> Scores:
        return self.scorer(scored, examples)()

    def scorer(self, scored: ScoredModel, examples: Examples) -> Callable[[], Scores]:
        linear = scored.like(linear_model(scored.model))
        pairs = list(zip(linear.weights, scored.weights, strict=True))
        inputs, model = _ones(linear.model), as_graph(linear.model)

        @tf.function(autograph=False)
        def flows() -> list[Any]:
            values = [each.variable.value for each, _ in pairs]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(values)
                outputs = model(inputs, training=False)
                total = tf.add_n([tf.reduce_sum(tf.cast(each, tf.float64)) for each in tree.flatten(outputs)])
            gradients = tape.gradient(total, values, unconnected_gradients="zero")
            return [value * tf.convert_to_tensor(g) for value, g in zip(values, gradients, strict=True)]

        def found() -> Scores:
            for copy, each in pairs:
                copy.variable.assign(np.abs(each.values()))
            with quiet_tensorflow():
                return as_arrays(flows())

        return found

    def get_config(self) -> dict[str, Any]:
        return {"rounds": self.rounds}


def linear_model(model: keras.Model) -> keras.Model:
    """A copy of a model in float64 in which all weights are their magnitudes, and layers are linear."""
    made = in_dtype(model, "float64")
    made = rebuild(made) if made is model else made
    for _, layer in graph.walk(made):
        _linearize(layer)
    for variable in made.variables:
        if "float" in variable.dtype:
            offset = variable.path.rpartition("/")[2] in _OFFSETS
            variable.assign(np.zeros(variable.shape) if offset else np.abs(keras.ops.convert_to_numpy(variable)))
    return made


def _linearize(layer: Any) -> None:
    names = {cls.__name__ for cls in type(layer).__mro__ if cls.__module__.startswith("keras.")}
    if names & {*_ACTIVATIONS, *_NORMALIZATIONS}:
        keras_private.set_call(layer, lambda inputs, *args, **kwargs: inputs)
    elif "Embedding" in names:
        keras_private.set_call(layer, _mean_row(layer))
    elif hasattr(layer, "activation") and not hasattr(layer, "cell"):
        layer.activation = keras.activations.linear


def _mean_row(layer: Any) -> Callable[..., Any]:
    def call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        table = tf.convert_to_tensor(layer.embeddings.value)
        return tf.zeros([*tf.unstack(tf.shape(inputs)), 1], table.dtype) + tf.reduce_mean(table, 0)

    return call


def _ones(model: keras.Model) -> Any:
    """One sample of ones, in the structure that the model takes; indices are 0."""
    found = as_graph(model)

    def one(tensor: Any) -> Any:
        shape = [1, *(_SIZE if n is None else n for n in tensor.shape[1:])]
        return tf.ones(shape, tensor.dtype) if "float" in tensor.dtype else tf.zeros(shape, tensor.dtype)

    return tree.map_structure(one, keras_private.inputs_structure(graph.functional(found)))
