"""What the channels of a model cost, counted without a model being cut."""

from __future__ import annotations

import keras

from keras_compress.core.budget import Cost
from keras_compress.core.registry import register
from keras_compress.structured.channel_graph import ChannelGraph, Removed
from keras_compress.structured.dependency import channel_graph


class ChannelCost(Cost):
    """A cost that is counted on a channel graph. A subclass implements `value`."""

    evaluations = None

    def value(self, graph: ChannelGraph, removed: Removed) -> float:
        """The cost of the model without the removed channels.

        Args:
            graph: Channels of the unpruned model, or of one that was pruned before.
            removed: For each unit, whether it goes.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `value(graph, removed)`.")

    def of(self, model: keras.Model) -> float:
        graph = channel_graph(model)
        return self.value(graph, graph.none_removed())


@register("cost")
class Macs(ChannelCost):
    """Multiply-accumulates of one sample."""

    noun = "MACs"

    def value(self, graph: ChannelGraph, removed: Removed) -> float:
        return float(graph.macs(removed))


@register("cost")
class Params(ChannelCost):
    """Number of weights, also of those that are not trained."""

    noun = "parameters"

    def value(self, graph: ChannelGraph, removed: Removed) -> float:
        return float(graph.params(removed))
