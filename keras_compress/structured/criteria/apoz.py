"""How often a channel is zero."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_compress.core.registry import register
from keras_compress.data.examples import Examples
from keras_compress.structured.channel_graph import ChannelGraph
from keras_compress.structured.criteria.activations import activations, summed
from keras_compress.structured.criteria.criterion import Criterion, Scores
from keras_compress.structured.criteria.fallback import with_norms


@register("channel_criterion")
class APoZ(Criterion):
    """`1 - zeros / values`: one minus the average percentage of zeros, over examples and positions.

    Only channels with an activation that can be exactly 0, such as ReLU, differ. Groups without one are ranked by the
    L1 norms of their filters, and a warning names them.

    Raises:
        ValueError: For a model in which no channel that can be removed is ever 0.

    **Reference**: Hu et al., "Network trimming: a data-driven neuron pruning approach towards efficient deep
    architectures" (2016), equation 1.
    **Deviations**: taken where the channel is read, before pooling; over all such places where there are several.
    """

    needs = frozenset({"inputs"})
    comparable = True

    def scores(self, graph: ChannelGraph, examples: Examples) -> Scores:
        zeros, values = np.zeros(graph.unit_count), np.zeros(graph.unit_count)
        places = activations(graph)
        for each, (found, count) in zip(places, summed(graph, examples, places, _zeros), strict=True):
            zeros += np.bincount(each.units, found, graph.unit_count)
            values += count * np.bincount(each.units, minlength=graph.unit_count)
        known = np.zeros(graph.unit_count, bool)
        for group in graph.prunable:
            known[group.units] = zeros[group.units].any()
        return with_norms(graph, 1.0 - zeros / np.maximum(values, 1), known, "no channel that is ever exactly 0")


def _zeros(rows: tf.Tensor) -> list[tf.Tensor]:
    return [tf.reduce_sum(tf.cast(rows == 0, tf.float32), 0), tf.cast(tf.shape(rows)[0], tf.float32)]
