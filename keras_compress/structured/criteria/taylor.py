"""First-order Taylor expansion of the loss in the channels."""

from __future__ import annotations

import numpy as np

from keras_compress.core.registry import register
from keras_compress.structured.channel_graph import ChannelGraph
from keras_compress.structured.criteria.criterion import Criterion, Scores
from keras_compress.structured.criteria.gradients import gate_gradients
from keras_compress.structured.examples import Examples


@register("channel_criterion")
class Taylor(Criterion):
    """`(sum g w)^2`, averaged over batches: the square of what the loss loses with the channel, to first order.

    w are the weights that read the channel, g the gradients of the loss in them: what removing the channel sets to
    zero. That is the paper's gate z on the channel, `(dL/dz)^2` at z = 1; in a network with ReLU the same whether
    the gate is before the activation (after BatchNormalization, as in the paper) or after it.

    **Reference**: Molchanov et al., "Importance estimation for neural network pruning" (2019), equations 8 and 10, and
    section 3.2 on gates.
    **Deviations**: a plain mean over batches instead of a moving average; BatchNormalization as in inference.
    """

    needs = frozenset({"inputs", "targets"})
    comparable = True

    def scores(self, graph: ChannelGraph, examples: Examples) -> Scores:
        squares = [np.square(products) for products in gate_gradients(graph, examples)]
        scores: Scores = np.mean(squares, axis=0)
        return scores
