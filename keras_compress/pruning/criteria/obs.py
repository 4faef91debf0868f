"""Optimal Brain Surgeon with the empirical Fisher matrix: weights that stay make up for those that go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_compress.core.registry import register
from keras_compress.data.examples import Examples
from keras_compress.graph.as_matrix import MAX_BYTES
from keras_compress.pruning.criteria.gradients import LossGradients, first_batches
from keras_compress.pruning.criteria.saliency import Saliency, Scores, check_count, check_number
from keras_compress.pruning.scored import Mask, ScoredModel

Array = NDArray[Any]
# Blocks that are inverted at once.
_AT_ONCE = 4096


@register("weight_criterion")
class OBS(Saliency):
    """`w^2 / (2 [F^-1]_qq)`: what the loss gains at a minimum without the weight when the others make up for it.

    F is the empirical Fisher matrix, `damping I + 1/N sum g g^T` over N gradients, in blocks of consecutive weights of
    a layer. Then the weights that stay are moved: for those that go, Q, and those that stay, K, of a block,
    `w_K += F_KK^-1 F_KQ w_Q`, which is the least loss that this quadratic model has without Q.

    Takes `4 * fisher_block` bytes for each weight of all layers: 200 MB for a million weights in blocks of 50.

    Args:
        gradients: N, how many gradients at the most, >= 1.
        batch_size: Examples over which each is averaged, >= 1.
        fisher_block: Weights in a block, >= 1.
        damping: What is added to the diagonal, > 0.
        max_bytes: Memory for F, >= 1.

    Raises:
        ValueError: For weights whose F would take more than `max_bytes`.

    **Reference**: Hassibi and Stork, "Second order derivatives for network pruning: optimal brain surgeon" (1993),
    equation 5; Singh and Alistarh, "WoodFisher: Efficient second-order approximation for neural network compression"
    (2020), sections 3 and 5. **Deviations**: F is summed and inverted, where the paper updates the inverse by each
    gradient (Sherman-Morrison), the same numbers; all weights of a block that go are made up for together, not each as
    if it went alone.
    """

    needs = frozenset({"inputs", "targets"})
    updates = True

    def __init__(
        self,
        gradients: int = 256,
        batch_size: int = 1,
        fisher_block: int = 50,
        damping: float = 1e-5,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.gradients = check_count("gradients", gradients)
        self.batch_size = check_count("batch_size", batch_size)
        self.fisher_block = check_count("fisher_block", fisher_block)
        self.damping = check_number("damping", damping)
        self.max_bytes = check_count("max_bytes", max_bytes)
        self._fisher: list[Array] = []

    def scores(self, scored: ScoredModel, examples: Examples) -> Scores:
        self._fisher = self.fisher(scored, examples)
        found = []
        for each, blocks in zip(scored.weights, self._fisher, strict=True):
            diagonal = np.concatenate([
                np.einsum("bii->bi", np.linalg.inv(blocks[start : start + _AT_ONCE].astype(np.float64))).ravel()
                for start in range(0, len(blocks), _AT_ONCE)
            ])  # fmt: skip
            values = each.values().astype(np.float64)
            found.append(values**2 / (2 * diagonal[: values.size].reshape(values.shape)))
        return found

    def fisher(self, scored: ScoredModel, examples: Examples) -> list[Array]:
        """F of each weight, `[blocks, fisher_block, fisher_block]` float32; behind the last weight the identity."""
        gradients = LossGradients(scored, examples.loss)
        sizes = [int(np.prod(each.shape)) for each in scored.weights]
        self._check_memory(sizes)
        side = self.fisher_block
        total: list[Array] = [np.zeros([self._blocks(n), side, side], np.float32) for n in sizes]
        count = 0
        for batch in first_batches(examples, self.batch_size, self.gradients):
            for number, gradient in enumerate(gradients.of(batch)):
                rows = np.asarray(self._in_blocks(tf.reshape(gradient, [-1])))
                for part in (slice(start, start + _AT_ONCE) for start in range(0, len(rows), _AT_ONCE)):
                    total[number][part] += rows[part, :, np.newaxis] * rows[part, np.newaxis]
            count += 1
        for blocks, size in zip(total, sizes, strict=True):
            blocks /= count
            diagonal = np.einsum("bii->bi", blocks)
            diagonal += self.damping
            diagonal[-1, size - (len(blocks) - 1) * self.fisher_block :] = 1.0
        return total

    def _check_memory(self, sizes: Sequence[int]) -> None:
        needed = 4 * self.fisher_block**2 * sum(map(self._blocks, sizes))
        if needed > self.max_bytes:
            raise ValueError(
                f"Expected weights whose Fisher matrices in blocks of {self.fisher_block} take at most "
                f"max_bytes={self.max_bytes:,}. Received: {sum(sizes):,} weights, which take {needed:,} bytes "
                "(a smaller `fisher_block`, or fewer layers by `filters`)"
            )

    def updated(self, scored: ScoredModel, masks: Sequence[Mask], examples: Examples) -> Scores:
        found = []
        for each, mask, blocks in zip(scored.weights, masks, self._fisher, strict=True):
            values = np.asarray(self._in_blocks(tf.reshape(each.values(), [-1])), np.float64)
            stays = np.asarray(self._in_blocks(tf.reshape(tf.cast(mask, tf.float32), [-1]))) > 0
            moved = np.concatenate([
                _made_up(values[part], stays[part], blocks[part])
                for part in (slice(start, start + _AT_ONCE) for start in range(0, len(blocks), _AT_ONCE))
            ])  # fmt: skip
            found.append(moved.ravel()[: mask.size].reshape(mask.shape))
        self._fisher = []
        return found

    def _blocks(self, size: int) -> int:
        return -(-size // self.fisher_block)

    def _in_blocks(self, flat: Any) -> Any:
        padded = tf.pad(flat, [[0, -int(flat.shape[0]) % self.fisher_block]])
        return tf.reshape(padded, [-1, self.fisher_block])

    def get_config(self) -> dict[str, Any]:
        return {
            "gradients": self.gradients,
            "batch_size": self.batch_size,
            "fisher_block": self.fisher_block,
            "damping": self.damping,
            "max_bytes": self.max_bytes,
        }


def _made_up(values: Array, stays: Mask, blocks: Array) -> Array:
    """Weights of each block when those that do not stay are zero, `(blocks, weights of one)`."""
    blocks = blocks.astype(np.float64)
    gone = np.where(stays, 0.0, values)
    # For weights that go, rows of the identity: one system for each block, whatever the number that stays.
    both = stays[:, :, np.newaxis] & stays[:, np.newaxis]
    system = np.where(both, blocks, np.eye(blocks.shape[1]))
    right = np.where(stays, np.einsum("bij,bj->bi", blocks, gone), 0.0)
    moved: Array = np.where(stays, values + np.linalg.solve(system, right[..., np.newaxis])[..., 0], 0.0)
    return moved
