"""Column combining: sparse columns of a weight matrix share one column of a systolic array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_compress.core.global_state import global_state_kept
from keras_compress.core.registry import register
from keras_compress.core.schedule import ConstantSparsity, Schedule
from keras_compress.core.selection import Selector, rules_take
from keras_compress.core.slots import Slot
from keras_compress.core.ste import value_of
from keras_compress.core.transform import WeightTransform
from keras_compress.core.warn import warn
from keras_compress.core.wrapper import Compressed
from keras_compress.graph.model import add_transforms, by_message, check_model
from keras_compress.pruning.columns import EMPTY, PackedColumns, group_columns, keep_largest
from keras_compress.pruning.pruner import HALF, Pruner
from keras_compress.pruning.search import keep_highest

Tensor = Any


@register("weight_transform")
class ColumnCombining(Pruner):
    """Prunes by magnitude, groups columns whose weights hardly collide, and keeps one weight for each row of a group.

    The weight is a matrix of one row for each output and one column for each input (of a convolution: input channel
    and place in the kernel). Of the weights that a row has in one group, only the one of largest magnitude stays; the
    others are its conflicts. A systolic array then holds a group in one column.

    **Forward** `y = mask * w`. **Gradient** see `Pruner`.

    To group the columns of a 3x3 convolution from 512 to 512 channels takes some 3 s: let the schedule act seldom.

    Args:
        schedule: `step -> sparsity`, reached by magnitude before columns are grouped; what conflicts cost comes on top.
            Columns are grouped anew only where the schedule asks for more zeros than there are.
        alpha: Most columns in a group, >= 1.
        gamma: Most conflicts in a group, as a mean over the rows, >= 0.
        regrow: Let pruned weights come back; then columns are grouped anew each time that the schedule acts.

    **Reference**: Kung, McDanel and Zhang, "Packing sparse convolutional neural networks for efficient systolic array
    implementations: column combining under joint optimization" (2019), section 3.
    **Deviations**: groups are filled one at a time: each begins with the densest column that is left, and takes the one
    that makes it densest as long as the limits allow (of equal ones, that with the fewest conflicts).
    """

    def __init__(
        self, schedule: Schedule, *, alpha: int = 8, gamma: float = 0.5, regrow: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(schedule, regrow=regrow, **kwargs)
        if not isinstance(alpha, (int, np.integer)) or isinstance(alpha, bool) or alpha < 1:
            raise ValueError(f"Expected `alpha` as an integer >= 1. Received: alpha={alpha}")
        if not gamma >= 0:
            raise ValueError(f"Expected `gamma` >= 0. Received: gamma={gamma}")
        self.alpha = int(alpha)
        self.gamma = float(gamma)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [
            {"schedule": ConstantSparsity(0.5, begin_step=0, frequency=1), "alpha": 2},
            {"schedule": ConstantSparsity(0.25, begin_step=1, frequency=1), "gamma": 2.0, "regrow": True},
        ]

    def create_variables(self) -> None:
        super().create_variables()
        self.column_groups = self.add_weight(
            name="column_groups",
            shape=(self.matrix_shape()[0],),
            dtype="int32",
            initializer=lambda shape, dtype=None: ops.arange(shape[0], dtype="int32"),
            trainable=False,
            aggregation="only_first_replica",
        )

    def update(self, weight: Tensor) -> list[tuple[keras.Variable, Tensor]]:
        step = value_of(self.step)
        sparsity = self.schedule(step)
        mask, groups = value_of(self.mask), value_of(self.column_groups)
        due = ops.logical_and(self.schedule.should_update(step), self._asks_for_more(sparsity, mask))
        # A kernel that begins with zeros would stay at them.
        due = ops.logical_and(due, ops.any(ops.not_equal(weight, 0.0)))
        mask, groups = ops.cond(due, lambda: self._combined(self.scores(weight), sparsity), lambda: (mask, groups))
        return [(self.mask, mask), (self.column_groups, groups), (self.step, step + 1)]

    def _asks_for_more(self, sparsity: Tensor, mask: Tensor) -> Tensor:
        """Whether there are more weights than the schedule wants. Grouping again what is packed would prune it on."""
        count = float(np.prod(self.weight_shape))
        # At a sparsity of 0 too, columns are grouped once.
        wanted = ops.clip(ops.round(count * (1.0 - ops.cast(sparsity, "float64"))), min(1.0, count - 1.0), count - 1.0)
        return ops.logical_or(self.regrow, ops.sum(ops.cast(mask, "float64")) > wanted)

    def _combined(self, scores: Tensor, sparsity: Tensor) -> tuple[Tensor, Tensor]:
        """The new mask and the group of each column."""
        scores = self.to_matrix(scores)
        kept = keep_highest(ops.reshape(scores, (-1,)), sparsity)
        # What was pruned before has a negative score.
        scores = ops.where(ops.reshape(kept, scores.shape), ops.maximum(scores, 0.0), 0.0)
        groups = group_columns(scores, self.alpha, self.gamma)
        mask = keep_largest(scores, groups)
        return self.without_return(self.from_matrix(mask)), groups

    def packing_density(self) -> float:
        """Weights that are left over the cells of the packed matrix; 0 for a matrix without weights."""
        groups = np.unique(ops.convert_to_numpy(self.column_groups))
        cells = self.matrix_shape()[1] * int((groups != EMPTY).sum())
        return float(np.sum(ops.convert_to_numpy(self.mask)) / max(cells, 1))

    def summary_values(self) -> dict[str, float]:
        return {**super().summary_values(), "packing_density": self.packing_density()}

    def packed(self, weight: Tensor) -> PackedColumns:
        """A weight as what a systolic array holds: one column for each group, and where each value comes from.

        Args:
            weight: The latent or the pruned weight.
        """
        order = self.matrix_axes()
        pruned = ops.convert_to_numpy(weight) * ops.convert_to_numpy(self.mask)
        matrix = pruned.transpose(order).reshape(self.matrix_shape())
        names, groups = np.unique(ops.convert_to_numpy(self.column_groups), return_inverse=True)
        columns, rows = np.nonzero(matrix)
        values = np.zeros((matrix.shape[1], len(names)), matrix.dtype)
        source = np.full(values.shape, EMPTY, np.int32)
        values[rows, groups[columns]] = matrix[columns, rows]
        source[rows, groups[columns]] = columns
        in_use = names != EMPTY
        return PackedColumns(values[:, in_use], source[:, in_use], self.weight_shape, tuple(order))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha, "gamma": self.gamma}


@register("entry_point")
@global_state_kept()
@rules_take("pruning_schedule", "alpha", "gamma")
def combine_columns(
    model: keras.Model,
    pruning_schedule: Schedule | Mapping[str, Any] | None = None,
    *,
    alpha: int = 8,
    gamma: float = 0.5,
    regrow: bool = False,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    strict: bool = False,
) -> keras.Model:
    """A copy of the model whose matrices are pruned, while it trains, so that their columns can be packed.

    Depthwise and grouped convolutions and embeddings are no one matrix, and are left as they are.

    Args:
        model: Built model, plain or made by this library.
        pruning_schedule: `step -> sparsity` by magnitude; `ConstantSparsity(0.5, begin_step=0)` by default.
        alpha: Most columns in a group.
        gamma: Most conflicts in a group, as a mean over the rows.
        regrow: Let pruned weights come back.
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}`, or with `"pruning_schedule"`, `"alpha"` or `"gamma"`.
        strict: Raise where a layer has to be skipped.

    Returns:
        A new model to compile and train. See `ColumnCombining`.

    Raises:
        ValueError: For settings out of range, or a rule that matches nothing.
    """
    check_model(model)
    skipped: dict[str, str] = {}

    def make(path: str, before: Compressed, slot: Slot, settings: dict[str, Any]) -> list[WeightTransform]:
        reason = no_matrix(before.layer, slot)
        if reason is not None:
            skipped[path] = reason
            return []
        return [
            ColumnCombining(
                settings["pruning_schedule"], alpha=settings["alpha"], gamma=settings["gamma"], regrow=regrow
            )
        ]

    schedule = HALF if pruning_schedule is None else pruning_schedule
    defaults = {"pruning_schedule": schedule, "alpha": alpha, "gamma": gamma}
    combined = add_transforms(model, make, defaults, filters=filters, rules=rules, strict=strict)
    if skipped:
        listed = "; ".join(by_message(skipped.items()))
        if strict:
            raise ValueError(f"Expected layers with one matrix only (strict=True). Received: {listed}")
        warn(f"Layers left as they are: {listed}")
    return combined


def no_matrix(layer: keras.layers.Layer, slot: Slot) -> str | None:
    """Why a weight is not one matrix by which all inputs are multiplied, or `None`."""
    if not slot.channel_axes:
        return "its rows are looked up, not multiplied"
    if "Depthwise" in type(layer).__name__ or slot.name.endswith("depthwise_kernel") or getattr(layer, "groups", 1) > 1:
        return "each group of its channels has a matrix of its own"
    return None
