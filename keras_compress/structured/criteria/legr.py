"""One ranking of all layers' filters, learned by evolution."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.core.registry import register
from keras_compress.data.examples import Examples
from keras_compress.structured.channel_budget import within_budget
from keras_compress.structured.channel_graph import ChannelGraph, Removed
from keras_compress.structured.criteria.criterion import Criterion, Scores, WeightCriterion
from keras_compress.structured.criteria.gradients import Readers
from keras_compress.structured.selection import GroupLimits, Selection


@register("channel_criterion")
class LeGR(Criterion):
    """`alpha_l * ||w||_2^2 + kappa_l`, with a factor and a shift for each group l of channels that evolution learns.

    Each candidate ranks all channels together, loses the lowest ones down to a budget of multiply-accumulates, and is
    judged by its loss on the data. Regularised evolution: the best of a sample of the population has a child, in
    which some groups' alpha and kappa change, and the oldest candidate dies. Made for `scope="global"`: within a group,
    the order is that of the norms.

    Args:
        macs: Share of the multiply-accumulates that candidates keep, in (0, 1).
        population: Number of candidates alive, >= 1. The first is alpha = 1, kappa = 0.
        generations: Number of children, >= 0.
        samples: Size of the sample whose best has a child, >= 1.
        mutation: Share of the groups that change in a child, in (0, 1].
        sigma: Standard deviation of log alpha's changes; kappa's is that of the group's norms.
        max_ratio: Largest share of a group that candidates lose.
        seed: Seed of the evolution.

    **Reference**: Chin et al., "Towards efficient model compression via learned global ranking" (2020), equation 2 and
    algorithm 1.
    **Deviations**: candidates are not trained for some steps before they are judged, and are judged by loss; small
    populations by default (64 candidates, 400 generations and samples of 16 in the paper); scores are shifted so that
    the smallest is 0.
    """

    needs = frozenset({"inputs", "targets"})
    comparable = True

    def __init__(
        self,
        macs: float = 0.5,
        population: int = 8,
        generations: int = 32,
        samples: int = 4,
        mutation: float = 0.1,
        sigma: float = 1.0,
        max_ratio: float = 0.9,
        seed: int = 0,
    ) -> None:
        for name, share in (("macs", macs), ("max_ratio", max_ratio)):
            if not 0.0 < share < 1.0:
                raise ValueError(f"Expected `{name}` in (0, 1). Received: {name}={share}")
        counts = (("population", population, 1), ("generations", generations, 0), ("samples", samples, 1))
        for name, count, least in counts:
            if not isinstance(count, (int, np.integer)) or count < least:
                raise ValueError(f"Expected `{name}` as an integer >= {least}. Received: {name}={count}")
        if not 0.0 < mutation <= 1.0 or sigma < 0.0:
            raise ValueError(f"Expected `mutation` in (0, 1], `sigma` >= 0. Received: {mutation=}, {sigma=}")
        self.macs, self.max_ratio, self.mutation, self.sigma = macs, max_ratio, mutation, sigma
        self.population, self.generations, self.samples, self.seed = population, generations, samples, seed

    def scores(self, graph: ChannelGraph, examples: Examples) -> Scores:
        norms = _SquaredNorm().scores(graph, examples)
        readers = Readers(graph, examples.loss)
        batches = list(examples)

        def loss(genes: NDArray[np.float64]) -> float:
            kept = ~self._removed(graph, _ranking(graph, norms, genes))
            return float(np.mean([readers.loss(batch, kept.astype(np.float64)) for batch in batches]))

        spreads = np.array([norms[group.units].std() for group in graph.prunable])
        return _ranking(graph, norms, self._best(loss, spreads))

    def _removed(self, graph: ChannelGraph, scores: Scores) -> Removed:
        limits = {group.name: GroupLimits(len(group), None, self.max_ratio) for group in graph.prunable}
        selection = Selection(graph, scores, limits, comparable=True)
        return within_budget(selection.together, graph.macs, self.macs * graph.macs())

    def _best(self, loss: Callable[[NDArray[np.float64]], float], spreads: NDArray[np.float64]) -> NDArray[np.float64]:
        """Genes, rows of `(alpha, kappa)` for each group, of the candidate with the lowest loss of all."""
        rng = np.random.default_rng(self.seed)
        identity = np.tile([1.0, 0.0], (len(spreads), 1))
        everything = np.ones(len(spreads), bool)
        first = [_changed(identity, everything, self.sigma, spreads, rng) for _ in range(self.population - 1)]
        alive = deque((_Candidate(each, loss(each)) for each in [identity, *first]), maxlen=self.population)
        best = min(alive, key=lambda candidate: candidate.loss)
        for generation in range(self.generations):
            sample = [alive[i] for i in rng.choice(len(alive), min(self.samples, len(alive)), replace=False)]
            parent = min(sample, key=lambda candidate: candidate.loss)
            chosen = np.zeros(len(spreads), bool)
            chosen[rng.choice(len(spreads), max(1, round(self.mutation * len(spreads))), replace=False)] = True
            # Steps become smaller: the last ones are a fifth of the first.
            sigma = self.sigma * (1.0 - generation / (1.25 * self.generations))
            child = _changed(parent.genes, chosen, sigma, spreads, rng)
            alive.append(_Candidate(child, loss(child)))
            best = min(best, alive[-1], key=lambda candidate: candidate.loss)
        return best.genes

    def get_config(self) -> dict[str, Any]:
        return {
            "macs": self.macs,
            "population": self.population,
            "generations": self.generations,
            "samples": self.samples,
            "mutation": self.mutation,
            "sigma": self.sigma,
            "max_ratio": self.max_ratio,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class _Candidate:
    genes: NDArray[np.float64]
    loss: float


class _SquaredNorm(WeightCriterion):
    def channel_scores(self, channels: NDArray[np.float32]) -> Scores:
        scores: Scores = np.square(channels, dtype=np.float64).sum(axis=1)
        return scores


def _changed(
    genes: NDArray[np.float64],
    chosen: NDArray[np.bool_],
    sigma: float,
    spreads: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Genes with other factors and shifts for the chosen groups."""
    factors = np.exp(rng.normal(0.0, sigma, len(genes)))
    shifts = rng.normal(0.0, 1.0, len(genes)) * spreads
    changed = np.stack([genes[:, 0] * factors, genes[:, 1] + shifts], axis=1)
    return np.where(chosen[:, None], changed, genes)


def _ranking(graph: ChannelGraph, norms: Scores, genes: NDArray[np.float64]) -> Scores:
    """`alpha * norm + kappa` for each unit that can be removed, less the smallest of all."""
    scores = np.zeros(graph.unit_count)
    for group, (alpha, kappa) in zip(graph.prunable, genes, strict=True):
        scores[group.units] = alpha * norms[group.units] + kappa
    if not graph.prunable:
        return scores
    units = np.concatenate([group.units for group in graph.prunable])
    scores[units] -= scores[units].min()
    return scores
