"""What ranks the channels of which a criterion knows nothing."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from keras_compress.core.warn import warn
from keras_compress.data.examples import Examples
from keras_compress.graph.model import by_message
from keras_compress.structured.channel_graph import ChannelGraph
from keras_compress.structured.criteria.criterion import Scores
from keras_compress.structured.criteria.l1 import L1


def with_norms(graph: ChannelGraph, scores: Scores, known: NDArray[Any], why: str) -> Scores:
    """Scores with L1 norms in place of those of groups that have none; a warning names them.

    The norms are scaled so that their mean in each group is that of all scores that are known.

    Args:
        graph: Channel graph.
        scores: A score for each unit.
        known: For each unit, whether it has one.
        why: What is missing where there is none.

    Raises:
        ValueError: If no group has scores.
    """
    without = [group for group in graph.prunable if not known[group.units].all()]
    if not without:
        return scores
    if len(without) == len(graph.prunable):
        raise ValueError(
            "Expected channels that the criterion can tell apart. "
            f"Received: {graph.model.name!r}, of whose layers each has {why}; take criterion='l1' for it"
        )
    pairs = ((group.name, f"{why}; ranked by the L1 norm instead") for group in without)
    warn(by_message(pairs)[0])
    norms = L1().scores(graph, Examples())
    filled: Scores = scores.copy()
    for group in without:
        mean = norms[group.units].mean()
        filled[group.units] = norms[group.units] / (mean or 1.0) * scores[known].mean()
    return filled
