"""Random scores: what any other criterion has to beat."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_compress.core.registry import register
from keras_compress.data.examples import Examples
from keras_compress.pruning.criteria.saliency import Saliency, Scores, check_count
from keras_compress.pruning.scored import ScoredModel


@register("weight_criterion")
class RandomSaliency(Saliency):
    """Uniform random numbers in [0, 1).

    Args:
        seed: Of the numbers, >= 0; one gives the same scores each time.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = check_count("seed", seed, 0)

    def scores(self, scored: ScoredModel, examples: Examples) -> Scores:
        random = np.random.default_rng(self.seed)
        return [random.random(each.shape) for each in scored.weights]

    def get_config(self) -> dict[str, Any]:
        return {"seed": self.seed}
