"""What all criteria share."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.data.examples import Examples
from keras_compress.structured.channel_graph import ChannelGraph, WeightAxis

Scores = NDArray[np.float64]
Tensor = Any


class Criterion:
    """Gives every channel of a model a score; the lowest are removed first.

    A subclass implements `scores`. Its constructor takes the settings, which `get_config` gives back.

    Class attributes:
        needs: What it needs beside the model: `"inputs"`, `"targets"`.
        comparable: Whether scores of different layers can be compared as they are. Others are divided by their mean in
            each group before they are ranked together.
    """

    needs: frozenset[str] = frozenset()
    comparable: bool = False

    def scores(self, graph: ChannelGraph, examples: Examples) -> Scores:
        """A score >= 0 for each unit of the graph, the higher the more it matters.

        Args:
            graph: Channels of `graph.model`.
            examples: Data, checked to be what `needs` names.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `scores(graph, examples)`.")

    def reads(self, axis: WeightAxis) -> bool:
        """Whether scores are computed from this weight alone, by `tensor_scores`, and the mean taken over all such."""
        return False

    def tensor_scores(self, rows: Tensor) -> Tensor:
        """Scores of the rows of a matrix `(channels, weights of each)`, by operations of a training step.

        Criteria that implement it, and `reads`, can decide on the masks of `mask_channels`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `tensor_scores(rows)`.")

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Criterion:
        """The criterion with these arguments."""
        return cls(**config)


class WeightCriterion(Criterion):
    """A criterion that looks at the weights that make a channel: kernels, not biases.

    The score of a unit is the mean over the kernels that make it, and over its places in them (gates of an LSTM).
    """

    def channel_scores(self, channels: NDArray[np.float32]) -> Scores:
        """Scores of the rows of a matrix `(channels, weights of each)`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `channel_scores(channels)`.")

    def reads(self, axis: WeightAxis) -> bool:
        return axis.role == "out" and len(axis.variable.shape) >= 2

    def scores(self, graph: ChannelGraph, examples: Examples) -> Scores:
        total, places = np.zeros(graph.unit_count), np.zeros(graph.unit_count)
        for each in graph.weights:
            if not self.reads(each):
                continue
            rows = channel_rows(keras.ops.convert_to_numpy(each.variable), each.axis)
            units = graph.units[each.ids]
            total += np.bincount(units, self.channel_scores(rows), graph.unit_count)
            places += np.bincount(units, minlength=graph.unit_count)
        return total / np.maximum(places, 1)


def channel_rows(weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """A weight as a matrix, one row for each index of an axis.

    >>> channel_rows(np.arange(6).reshape(2, 3), 1).tolist()
    [[0, 3], [1, 4], [2, 5]]
    """
    return np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
