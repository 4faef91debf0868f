"""Gradients integrated along the way on which a channel's weights go to zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.core.registry import register
from keras_compress.data.examples import Examples
from keras_compress.structured.channel_graph import ChannelGraph
from keras_compress.structured.criteria.criterion import Criterion, Scores
from keras_compress.structured.criteria.gradients import Readers


@register("channel_criterion")
class SInGE(Criterion):
    """`sum_s ||mu^s w * g(mu^s w)||_2`, averaged over batches, s from 0 to `steps`.

    w are the weights that read the channel, which its removal sets to zero; g the gradients of the loss in them, while
    they shrink. Times `1 - mu`, the sum approximates the integral of `||w * g(z w)||` over z from 0 to 1: a channel
    matters if the loss moves anywhere on its way out, not only at its start as for `Taylor`.

    Args:
        steps: Steps of the way, >= 0; 0 is gradient times weight.
        mu: Factor of the weights in each step, in (0, 1).

    **Reference**: Yvinec et al., "SInGE: Sparsity via integrated gradients estimation of neuron relevance" (2022),
    section 3, with the norm p = 2.
    **Deviations**: all channels of a group shrink together, in one backward pass for each group and step instead of one
    for each channel; weights that read the channel instead of those that make it, which in front of a
    BatchNormalization do not remove it at zero.
    """

    needs = frozenset({"inputs", "targets"})
    comparable = True

    def __init__(self, steps: int = 6, mu: float = 0.7) -> None:
        if not isinstance(steps, (int, np.integer)) or steps < 0 or not 0.0 < mu < 1.0:
            raise ValueError(f"Expected `steps` >= 0 and `mu` in (0, 1). Received: steps={steps}, mu={mu}")
        self.steps = int(steps)
        self.mu = mu

    def scores(self, graph: ChannelGraph, examples: Examples) -> Scores:
        readers = Readers(graph, examples.loss, tf.square)
        total, batches = np.zeros(graph.unit_count), 0
        for batch in examples:
            batches += 1
            total += np.sqrt(readers.sums(batch))
            for group in graph.prunable:
                for step in range(1, self.steps + 1):
                    gates = np.ones(graph.unit_count)
                    gates[group.units] = self.mu**step
                    total[group.units] += np.sqrt(readers.sums(batch, gates)[group.units])
        return total / batches

    def get_config(self) -> dict[str, Any]:
        return {"steps": self.steps, "mu": self.mu}
