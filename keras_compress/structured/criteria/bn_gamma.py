"""Scale factors of BatchNormalization."""

from __future__ import annotations

import warnings

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_compress.core.model import by_message
from keras_compress.core.registry import register
from keras_compress.structured.channel_graph import ChannelGraph, WeightAxis
from keras_compress.structured.criteria.criterion import Criterion, Scores, Tensor
from keras_compress.structured.criteria.l1 import L1
from keras_compress.structured.examples import Examples


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
        if not any(count[group.units].any() for group in graph.prunable):
            raise ValueError(
                "Expected a model whose channels go through BatchNormalization layers with a gamma (scale=True). "
                "Received: a model without; take criterion='l1' for it"
            )
        return self._filled(graph, total / np.maximum(count, 1), count > 0)

    def _filled(self, graph: ChannelGraph, gammas: Scores, known: NDArray[np.bool_]) -> Scores:
        """Scores of the groups without a gamma too."""
        without = [group for group in graph.prunable if not known[group.units].all()]
        if not without:
            return gammas
        pairs = ((group.name, "no BatchNormalization with a gamma; ranked by the L1 norm instead") for group in without)
        warnings.warn(by_message(pairs)[0], stacklevel=4)
        norms = L1().scores(graph, Examples())
        for group in without:
            mean = norms[group.units].mean()
            gammas[group.units] = norms[group.units] / (mean or 1.0) * gammas[known].mean()
        return gammas
