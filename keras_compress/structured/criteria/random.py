"""Random scores: the control that every other criterion has to beat."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_compress.core.registry import register
from keras_compress.data.examples import Examples
from keras_compress.structured.channel_graph import ChannelGraph
from keras_compress.structured.criteria.criterion import Criterion, Scores


@register("channel_criterion")
class Random(Criterion):
    """Uniform in [0, 1), the same ones for the same seed.

    Args:
        seed: Seed of the numbers.
    """

    comparable = True

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def scores(self, graph: ChannelGraph, examples: Examples) -> Scores:
        return np.random.default_rng(self.seed).random(graph.unit_count)

    def get_config(self) -> dict[str, Any]:
        return {"seed": self.seed}
