"""How often a channel is zero."""

from __future__ import annotations

import warnings

import numpy as np
import tensorflow as tf

from keras_compress.core.model import by_message
from keras_compress.core.registry import register
from keras_compress.structured.channel_graph import ChannelGraph
from keras_compress.structured.criteria.activations import activations, summed
from keras_compress.structured.criteria.criterion import Criterion, Scores
from keras_compress.structured.examples import Examples


@register("channel_criterion")
class APoZ(Criterion):
    """`1 - zeros / values`: one minus the average percentage of zeros, over examples and positions.

    Only channels with an activation that can be exactly 0, such as ReLU, differ; a warning names groups without one,
    in which all scores are 1.

    **Reference**: Hu et al., "Network trimming: a data-driven neuron pruning approach towards efficient deep
    architectures" (2016), equation 1.
    **Deviations**: taken where the channel is read, before pooling; over all such places where there are several.
    """

    needs = frozenset({"inputs"})

    def scores(self, graph: ChannelGraph, examples: Examples) -> Scores:
        zeros, values = np.zeros(graph.unit_count), np.zeros(graph.unit_count)
        places = activations(graph)
        for each, (found, count) in zip(places, summed(graph, examples, places, _zeros), strict=True):
            zeros += np.bincount(each.units, found, graph.unit_count)
            values += count * np.bincount(each.units, minlength=graph.unit_count)
        _warn_of_none(graph, zeros)
        scores: Scores = 1.0 - zeros / np.maximum(values, 1)
        return scores


def _zeros(rows: tf.Tensor) -> list[tf.Tensor]:
    return [tf.reduce_sum(tf.cast(rows == 0, tf.float32), 0), tf.cast(tf.shape(rows)[0], tf.float32)]


def _warn_of_none(graph: ChannelGraph, zeros: Scores) -> None:
    without = [(group.name, "no channel is ever exactly 0") for group in graph.prunable if not zeros[group.units].any()]
    if without:
        warnings.warn(f"Percentages of zeros tell nothing. {by_message(without)[0]}", stacklevel=3)
