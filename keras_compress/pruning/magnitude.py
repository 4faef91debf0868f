"""Magnitude pruning: element-wise or in blocks, with a threshold for each layer or for all of them together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_compress.core.context import assign
from keras_compress.core.existing import PRUNE_FIRST, clusters_in, warn_of
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.registry import register
from keras_compress.core.schedule import ConstantSparsity, PolynomialDecay, Schedule
from keras_compress.core.selection import Selector, rules_take
from keras_compress.core.ste import value_of
from keras_compress.core.transform import WeightTransform
from keras_compress.core.wrapper import Compressed
from keras_compress.graph.groups import decides_now, members_of, new_group
from keras_compress.graph.model import add_transforms, check_model
from keras_compress.pruning.n_m import NMPruner
from keras_compress.pruning.patterns import check_block_size, check_pooling
from keras_compress.pruning.pruner import HALF, Pruner
from keras_compress.pruning.search import keep_highest
from keras_compress.pruning.together import mask_together

Tensor = Any


@register("weight_transform")
class MagnitudePruner(Pruner):
    """Keeps the weights of largest magnitude.

    **Forward** `y = mask * w`, with the mask of the `round(n * (1 - sparsity))` largest `|w|` (or blocks of them). One
    at least stays in each weight, of a group too.
    **Gradient** see `Pruner`.

    Args:
        schedule: `step -> sparsity`.
        group: Name shared by pruners that are ranked together, with one threshold for all; `None`: ranked alone.
        block_size: `(inputs, outputs)` of the blocks that live and die together, on the matrix of the weight: its
            output channels, and all other axes as inputs, such as `kernel height * width * inputs`; of an Embedding,
            `(numbers of a row, rows)`. A block cut off by an edge counts its own elements.
        block_pooling_type: Score of a block: `"AVG"` or `"MAX"` of its magnitudes.
        regrow: Let pruned weights come back.

    **Reference**: Zhu and Gupta, "To prune, or not to prune" (2017).
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        group: str | None = None,
        block_size: Sequence[int] = (1, 1),
        block_pooling_type: str = "AVG",
        regrow: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(schedule, regrow=regrow, **kwargs)
        self.group = group
        self.block_size = check_block_size(block_size)
        self.block_pooling_type = check_pooling(block_pooling_type)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [
            {"schedule": PolynomialDecay(0.25, 0.75, begin_step=0, end_step=4, frequency=2)},
            {"schedule": ConstantSparsity(0.5, begin_step=1, frequency=1), "block_size": (2, 1), "regrow": True},
        ]

    def unit_scores(self, weight: Tensor) -> Tensor:
        """Flat scores of what is pruned as one: single weights, or blocks."""
        return self._units(self.scores(weight))

    def _units(self, scores: Tensor) -> Tensor:
        return ops.reshape(scores if self.block_size == (1, 1) else self._pooled(scores), (-1,))

    def choose(self, scores: Tensor, sparsity: Tensor) -> Tensor:
        return self.mask_of(keep_highest(self._units(scores), sparsity))

    def mask_of(self, units: Tensor) -> Tensor:
        """The mask of the weight from the flat mask of its units."""
        if self.block_size == (1, 1):
            return ops.reshape(units, self.weight_shape)
        rows, columns = self.matrix_shape()
        height, width = self.block_size
        blocks = ops.reshape(units, (-(-rows // height), -(-columns // width)))
        full = ops.repeat(ops.repeat(blocks, height, axis=0), width, axis=1)
        return self.from_matrix(full[:rows, :columns])

    def _pooled(self, scores: Tensor) -> Tensor:
        rows, columns = self.matrix_shape()
        height, width = self.block_size
        padding = [[0, -rows % height], [0, -columns % width]]
        real = ops.pad(ops.ones((rows, columns)), padding)
        padded = ops.pad(self.to_matrix(scores), padding)
        shape = (padded.shape[0] // height, height, padded.shape[1] // width, width)
        blocks = ops.reshape(ops.where(real > 0, padded, -ops.ones_like(padded)), shape)
        highest = ops.max(blocks, axis=(1, 3))
        if self.block_pooling_type == "MAX":
            return highest
        # What is pruned already, scored -1, counts as the zero it is, but for a block in which nothing is left.
        average = ops.sum(ops.maximum(blocks, 0.0), axis=(1, 3)) / ops.sum(ops.reshape(real, shape), axis=(1, 3))
        return ops.where(highest < 0, highest, average)

    def update(self, weight: Tensor) -> list[tuple[keras.Variable, Tensor]]:
        if self.group is None:
            mask = mask_together(self, MagnitudePruner, _ranked_alone)
            return super().update(weight) if mask is None else [(self.mask, mask), (self.step, self.step + 1)]
        _update_group(self.group)
        return [(self.step, self.step + 1)]

    def pending(self) -> str | None:
        wanted = round(self.schedule.final_value() * math.prod(self.weight_shape))
        masked = int(np.sum(~np.asarray(self.mask)))
        # A weight that was sparse from the start may have nothing left to be pruned.
        waits = int(value_of(self.step)) <= self.schedule.begin_step
        return None if waits and 0 < wanted <= masked else super().pending()

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "group": self.group,
            "block_size": list(self.block_size),
            "block_pooling_type": self.block_pooling_type,
        }


def _ranked_alone(pruner: MagnitudePruner) -> bool:
    """Whether its mask is that of its own highest units: a subclass may choose otherwise."""
    own = type(pruner)
    as_here = own.choose is MagnitudePruner.choose and own.update is MagnitudePruner.update
    return as_here and pruner.group is None


def _update_group(name: str) -> None:
    """Rank all members together, once for each step, and give every member its mask. Frozen ones keep theirs."""
    if not decides_now(name):
        return
    members = [member for member in members_of(name, MagnitudePruner) if not member[0].frozen]
    schedule = members[0][2].schedule
    # A member that was frozen for a while has counted fewer steps than the others.
    step = ops.max(ops.stack([value_of(pruner.step) for _, _, pruner in members]))

    def decide() -> list[Tensor]:
        scores = [pruner.unit_scores(wrapper.weight(slot, stop_before=pruner)) for wrapper, slot, pruner in members]
        kept = keep_highest(ops.concatenate(scores), schedule(step))
        parts = map(_one_at_least, tf.split(kept, [s.shape[0] for s in scores]), scores)
        pruners = [pruner for _, _, pruner in members]
        return [p.without_return(p.mask_of(part)) for p, part in zip(pruners, parts, strict=True)]

    masks = ops.cond(
        schedule.should_update(step),
        decide,
        lambda: [value_of(pruner.mask) for _, _, pruner in members],
    )
    for (_, _, pruner), mask in zip(members, masks, strict=True):
        assign(pruner.mask, mask)


def _one_at_least(kept: Tensor, scores: Tensor) -> Tensor:
    """The mask, or where nothing of a weight is above the threshold of all, its highest score."""
    highest = tf.range(scores.shape[0]) == tf.argmax(scores, output_type=tf.int32)
    return kept | (highest & ~tf.reduce_any(kept))


@register("entry_point")
@global_state_kept()
@rules_take("pruning_schedule")
def prune_low_magnitude(
    model: keras.Model,
    pruning_schedule: Schedule | Mapping[str, Any] | None = None,
    block_size: Sequence[int] = (1, 1),
    block_pooling_type: str = "AVG",
    sparsity_m_by_n: Sequence[int] | None = None,
    *,
    scope: str = "layer",
    regrow: bool = False,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    strict: bool = False,
) -> keras.Model:
    """A copy of the model whose weights are pruned by magnitude while it trains. No callback is needed.

    Args:
        model: Built model, plain or made by this library.
        pruning_schedule: `step -> sparsity`; `ConstantSparsity(0.5, begin_step=0)` by default.
        block_size: `(inputs, outputs)` of blocks that are pruned as one.
        block_pooling_type: Score of a block, `"AVG"` or `"MAX"`.
        sparsity_m_by_n: `(m, n)`: m zeros in every n consecutive inputs, e.g. `(2, 4)`.
        scope: `"layer"`: each weight reaches the sparsity; `"global"`: all of them together, by one threshold.
        regrow: Let pruned weights come back.
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}` or `{"layers": selector, "pruning_schedule": ...}`.
        strict: Raise where a layer has to be skipped.

    Returns:
        A new model to compile and train.

    Raises:
        ValueError: For a sparsity out of [0, 1), a rule that matches nothing, or settings that contradict each other.
    """
    if scope not in ("layer", "global"):
        raise ValueError(f"Expected `scope` as 'layer' or 'global'. Received: scope={scope!r}")
    if sparsity_m_by_n is not None and (tuple(block_size) != (1, 1) or scope == "global"):
        raise ValueError(
            "Expected `sparsity_m_by_n` without `block_size` and with scope='layer'. "
            f"Received: block_size={tuple(block_size)}, scope={scope!r}"
        )
    if scope == "global" and any("pruning_schedule" in rule for rule in rules or ()):
        raise ValueError("Expected one schedule for a global threshold. Received: a rule with its own pruning_schedule")
    check_model(model)
    group = new_group(model, "global") if scope == "global" else None
    lost: list[tuple[str, str]] = []

    def make(path: str, before: Compressed, slot: Any, settings: dict[str, Any]) -> list[WeightTransform]:
        schedule = settings["pruning_schedule"]
        if words := clusters_in(before, slot):
            lost.append((path, words))
        if sparsity_m_by_n is not None:
            return [NMPruner(sparsity_m_by_n, schedule, regrow=regrow)]
        magnitude = MagnitudePruner(
            schedule,
            group=group,
            block_size=block_size,
            block_pooling_type=block_pooling_type,
            regrow=regrow,
        )
        return [magnitude]

    pruned = add_transforms(
        model,
        make,
        {"pruning_schedule": HALF if pruning_schedule is None else pruning_schedule},
        filters=filters,
        rules=rules,
        strict=strict,
    )
    warn_of("Training will lose the few values of weights that share them", lost, PRUNE_FIRST)
    return pruned
