"""First-order Taylor expansion of the loss in the channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_compress.core.registry import register
from keras_compress.data.examples import Examples
from keras_compress.structured.channel_graph import ChannelGraph
from keras_compress.structured.criteria.criterion import Criterion, Scores
from keras_compress.structured.criteria.gradients import Readers


@register("channel_criterion")
class Taylor(Criterion):
    """`(sum g w)^2`, averaged over batches: the square of what the loss changes by without the channel, to first order.

    w are the weights that read the channel, g the gradients of the loss in them: removing the channel sets those to
    zero. It is the paper's gate z on the channel, `(dL/dz)^2` at z = 1; before a ReLU (after BatchNormalization, as in
    the paper) or after it, the gate has the same derivative.

    Args:
        batch_size: Over how many examples gradients are averaged before they are squared. With few data, small ones
            give many squares to average, and a steadier ranking.

    **Reference**: Molchanov et al., "Importance estimation for neural network pruning" (2019), section 3: the
    first-order criterion, summed over a filter before it is squared, with gates.
    **Deviations**: a plain mean over batches; BatchNormalization as in inference.
    """

    needs = frozenset({"inputs", "targets"})
    comparable = True

    def __init__(self, batch_size: int = 8) -> None:
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise ValueError(f"Expected `batch_size` as an integer >= 1. Received: batch_size={batch_size}")
        self.batch_size = int(batch_size)

    def scores(self, graph: ChannelGraph, examples: Examples) -> Scores:
        readers = Readers(graph, examples.loss)
        squares = [np.square(readers.sums(batch)) for batch in examples.batches_of(self.batch_size)]
        scores: Scores = np.mean(squares, axis=0)
        return scores

    def get_config(self) -> dict[str, Any]:
        return {"batch_size": self.batch_size}
