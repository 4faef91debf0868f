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
from keras_compress.graph.trace import as_graph
from keras_compress.pruning.criteria.gradients import as_arrays
from keras_compress.pruning.criteria.linear_paths import linear_call, linear_model
from keras_compress.pruning.criteria.saliency import Saliency, Scores, check_count
from keras_compress.pruning.scored import ScoredModel

# Axes of an input whose size is not known.
_SIZE = 8


@register("weight_criterion")
class SynFlow(Saliency):
    """`|w| dR/d|w|`, R the sum of the outputs for an input of ones when all weights are their magnitudes.

    R is the sum over all paths from an input to an output of the product of the magnitudes on them, so a layer whose
    weights nearly all go gets larger scores in the next round, and none is cut through. Needs no data and no loss. In
    each of `rounds` rounds, what stays is multiplied by one factor.

    R is linear along each path: activations and normalizations are left out, layers or operations of a graph, offsets
    are 0 and differences sums, a BatchNormalization multiplies by `|gamma| / sqrt(variance + epsilon)`, and an
    embedding gives the mean of its rows. Through attention, paths lead by the queries, the keys and the values, without
    a softmax; through a recurrent cell by each of its gates, and once at the most by its recurrent kernel. It is
    computed in float64, as products of many layers leave float32.

    Args:
        rounds: How many rounds, >= 1.

    Raises:
        ValueError: For scores below 0, which only what a layer of the user's own subtracts can give.

    **Reference**: Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow"
    (2020), equation 2 and algorithm 1. **Deviations**: offsets, normalizations, attention and cells, see above,
    so that what flows through a layer is conserved in trained networks too.
    """

    def __init__(self, rounds: int = 100) -> None:
        self.rounds = check_count("rounds", rounds)

    def scores(self, scored: ScoredModel, examples: Examples) -> Scores:
        return self.scorer(scored, examples)()

    def scorer(self, scored: ScoredModel, examples: Examples) -> Callable[[], Scores]:
        linear = scored.like(linear_model(scored.model))
        pairs = list(zip(linear.weights, scored.weights, strict=True))
        model = as_graph(linear.model)
        inputs = tree.flatten(_ones(model))

        @tf.function(autograph=False)
        def flows() -> list[Any]:
            values = [each.variable.value for each, _ in pairs]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(values)
                outputs = graph.Rebuild(linear_call, flat=True).run(model, inputs, "", 0)
                total = tf.add_n([tf.reduce_sum(tf.cast(each, tf.float64)) for each in tree.flatten(outputs)])
            gradients = tape.gradient(total, values, unconnected_gradients="zero")
            return [value * tf.convert_to_tensor(g) for value, g in zip(values, gradients, strict=True)]

        def found() -> Scores:
            for copy, each in pairs:
                copy.variable.assign(np.abs(each.values()))
            with quiet_tensorflow():
                scores = as_arrays(flows())
            _refuse_negative(scored, scores)
            return scores

        return found

    def get_config(self) -> dict[str, Any]:
        return {"rounds": self.rounds}


def _ones(model: keras.Model) -> Any:
    """One sample of ones, indices and pixels of integers too, in the structure that the model takes."""

    def one(tensor: Any) -> Any:
        shape = [1, *(_SIZE if n is None else n for n in tensor.shape[1:])]
        return tf.fill(shape, "") if tensor.dtype == "string" else tf.ones(shape, tensor.dtype)

    return tree.map_structure(one, keras_private.inputs_structure(graph.functional(model)))


def _refuse_negative(scored: ScoredModel, scores: Scores) -> None:
    wrong = [each.name for each, found in zip(scored.weights, scores, strict=True) if (found < 0).any()]
    if wrong:
        raise ValueError(
            "Expected a model through which no path is negative when all weights are positive. Received: layers that "
            f"subtract, behind which SynFlow would take the strongest weights of {wrong[:10]} for the weakest"
        )
