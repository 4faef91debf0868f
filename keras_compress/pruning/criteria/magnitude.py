"""How large a weight is."""

from __future__ import annotations

import numpy as np

from keras_compress.core.registry import register
from keras_compress.data.examples import Examples
from keras_compress.pruning.criteria.saliency import Saliency, Scores
from keras_compress.pruning.scored import ScoredModel


@register("weight_criterion")
class MagnitudeSaliency(Saliency):
    """`|w|`.

    **Reference**: Han et al., "Learning both weights and connections for efficient neural networks" (2015).
    """

    def scores(self, scored: ScoredModel, examples: Examples) -> Scores:
        return [np.abs(each.values()) for each in scored.weights]
