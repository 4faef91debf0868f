"""Scale factors of BatchNormalization."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_compress.core.registry import register
from keras_compress.data.examples import Examples
from keras_compress.structured.channel_graph import ChannelGraph, WeightAxis
from keras_compress.structured.criteria.criterion import Criterion, Scores, Tensor
from keras_compress.structured.criteria.fallback import with_norms


@register("channel_criterion")
class BNGamma(Criterion):
    """`|gamma|` of the BatchNormalization that a channel goes through.

    Best after training with `kc.add_slimming`, which draws the gammas of channels that matter little to zero. Ranked
    together, all gammas are compared as they are.

    Raises:
        ValueError: For a model in which no channel goes through a BatchNormalization with a gamma.

    **Reference**: Liu et al., "Learning efficient convolutional networks through network slimming" (2017), section 3.
    **Deviations**: the mean where a channel goes through several (a residual sum, a concatenation). Groups without any
    are ranked by the L1 norms of their filters, scaled so that their mean is that of the gammas; a warning names them.
    """

    comparable = True

    def reads(self, axis: WeightAxis) -> bool:
        return isinstance(axis.layer, keras.layers.BatchNormalization) and axis.variable is axis.layer.gamma

    def tensor_scores(self, rows: Tensor) -> Tensor:
        return ops.abs(rows[:, 0])

    def scores(self, graph: ChannelGraph, examples: Examples) -> Scores:
        total, count = np.zeros(graph.unit_count), np.zeros(graph.unit_count)
        for each in graph.weights:
            if self.reads(each):
                units = graph.units[each.ids]
                gammas = np.abs(keras.ops.convert_to_numpy(each.variable))
                total += np.bincount(units, gammas, graph.unit_count)
                count += np.bincount(units, minlength=graph.unit_count)
        return with_norms(graph, total / np.maximum(count, 1), count > 0, "no BatchNormalization with a gamma")
