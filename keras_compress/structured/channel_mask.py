"""`ChannelMask`: zeros for whole channels in one weight, decided by a named group in the training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

from keras_compress.core.context import assign, counter
from keras_compress.core.registry import register, resolve
from keras_compress.core.schedule import ConstantSparsity, PolynomialDecay, Schedule
from keras_compress.core.ste import value_of
from keras_compress.core.transform import WeightTransform
from keras_compress.core.wrapper import Compressed
from keras_compress.graph.groups import decides_now, members_of
from keras_compress.structured.channel_graph import ROLES
from keras_compress.structured.criteria.criterion import Criterion
from keras_compress.structured.ranking import Pool, Ranking

Tensor = Any
NO_UNIT = -1


@register("weight_transform")
class ChannelMask(WeightTransform):
    """Sets channels to zero on one axis of a weight. All masks of a group have the same channels masked.

    **Forward** `y = mask * w`. With `regrow`, until the schedule has ended, training computes with `y = w`: at each
    step at which the schedule acts, the kernels of masked channels become zero, and from there they train on.
    **Gradient** `dy/dw` is the factor of `w`.

    Args:
        pruning_schedule: `step -> share of the channels that are masked`.
        units: For each index of the axis the number of its channel in the group, -1 for one that stays; by default
            they are channels of this weight alone.
        axis: The axis.
        pools: Sets of channels that compete: `Pool(start, width, max_ratio)`, or mappings with these keys. By default
            all channels of this weight, of which at most 0.9 are masked.
        role: What the axis has to do with the channels, see `channel_graph.ROLES`.
        scored: Whether scores are computed from this weight.
        criterion: Criterion with `tensor_scores`.
        group: Name shared by masks that one decision is made for; `None`: by itself, without `regrow`.
        scope: `"local"` or `"global"`, see `prune_channels`.
        round_to: Numbers of channels left are multiples of it.
        regrow: Let masked channels come back. Without it, what is masked stays masked.

    **Reference**: with `regrow`, He et al., "Soft filter pruning for accelerating deep convolutional neural networks"
    (2018), algorithm 1.
    **Deviations**: the schedule gives the ratio, and its steps take the place of epochs; biases, gammas and betas are
    masked as well in inference and after the last step, so that a model with masks equals the one that is cut.
    """

    promises = frozenset({"zeros", "channels"})
    preserves = frozenset({"zeros", "channels"})
    ended_by = "kc.cut_masked(model)"

    def __init__(
        self,
        pruning_schedule: Schedule | Mapping[str, Any],
        *,
        units: Sequence[int] | None = None,
        pools: Sequence[Pool | Mapping[str, float]] | None = None,
        axis: int = -1,
        role: str = "out",
        scored: bool = True,
        criterion: Criterion | Mapping[str, Any] | str = "l1",
        group: str | None = None,
        scope: str = "local",
        round_to: int = 1,
        regrow: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if role not in ROLES:
            raise ValueError(f"Expected `role` out of {ROLES}. Received: role={role!r}")
        if regrow and group is None:
            raise ValueError("Expected a `group` where channels may come back. Received: regrow=True, group=None")
        self.pruning_schedule: Schedule = resolve("schedule", pruning_schedule)
        self.criterion: Criterion = resolve("channel_criterion", criterion)
        self.units = None if units is None else [int(unit) for unit in units]
        self.pools = None if pools is None else [Pool.of(pool) for pool in pools]
        self.axis, self.role, self.scored = int(axis), role, bool(scored)
        self.group, self.scope, self.regrow = group, scope, bool(regrow)
        self.round_to = int(round_to)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [
            {"pruning_schedule": PolynomialDecay(0.25, 0.75, begin_step=0, end_step=4, frequency=2)},
            {"pruning_schedule": ConstantSparsity(0.5, begin_step=0, frequency=1), "axis": 0, "criterion": "fpgm"},
        ]

    def create_variables(self) -> None:
        self.mask = self.add_weight(
            name="mask",
            shape=(self.weight_shape[self.axis],),
            dtype="bool",
            initializer="ones",
            trainable=False,
            aggregation="only_first_replica",
        )
        self.step = counter(self, "step")

    @property
    def unit_numbers(self) -> NDArray[np.int64]:
        """`units`, or its default."""
        return np.arange(self.weight_shape[self.axis]) if self.units is None else np.array(self.units, np.int64)

    @property
    def zeroes(self) -> bool:
        """Whether the weight itself becomes zero where channels may come back: kernels that make them."""
        return self.regrow and self.role == "out" and len(self.weight_shape) > 1

    def along(self, values: Tensor) -> Tensor:
        """A vector over the channels, in the shape that broadcasts against the weight."""
        shape = [1] * len(self.weight_shape)
        shape[self.axis] = -1
        return tf.reshape(values, shape)

    def scores(self, weight: Tensor) -> Tensor:
        """Scores of the indices of the axis."""
        rows = ops.moveaxis(tf.convert_to_tensor(weight), self.axis, 0)
        rows = ops.reshape(rows, (self.weight_shape[self.axis], -1))
        return self.criterion.tensor_scores(rows)

    def call(self, weight: Tensor, training: bool = False) -> Tensor:
        mask = value_of(self.mask)
        if training and self.regrow:
            mask = ops.logical_or(mask, ops.logical_not(self._holds()))
        return weight * self.along(ops.cast(mask, weight.dtype))

    def _holds(self) -> Tensor:
        """Whether a mask that lets channels come back acts in this training step, which `step` counts already."""
        now, schedule = value_of(self.step) - 1, self.pruning_schedule
        ended = ops.logical_and(schedule.end_step != -1, now >= schedule.end_step)
        # The kernel that was read before the decision is to be zero in this step too.
        return ops.logical_or(ended, schedule.should_update(now)) if self.zeroes else ended

    def update(self, weight: Tensor) -> list[tuple[keras.Variable, Tensor]]:
        if self.group is None:
            return _decision([self], lambda: [self.scores(weight)])
        if decides_now(self.group):
            _decide(self.group)
        return []

    def pending(self) -> str | None:
        if self.role != "out" or len(self.weight_shape) < 2:
            return None
        step, end = int(value_of(self.step)), self.pruning_schedule.end_step
        if step == 0:
            return "no channel is masked yet: no training step was made, or all layers are frozen (trainable=False)"
        return f"channel masks stopped at step {step}, before their end_step {end}" if step <= end else None

    def summary_values(self) -> dict[str, float]:
        masked = 1.0 - np.mean(ops.convert_to_numpy(self.mask))
        return {"masked_channels": float(masked)} if self.role == "out" and len(self.weight_shape) > 1 else {}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "pruning_schedule": _as_config(self.pruning_schedule),
            "units": self.units,
            "pools": None if self.pools is None else [asdict(pool) for pool in self.pools],
            "axis": self.axis,
            "role": self.role,
            "scored": self.scored,
            "criterion": _as_config(self.criterion),
            "group": self.group,
            "scope": self.scope,
            "round_to": self.round_to,
            "regrow": self.regrow,
        }


def _as_config(made: Any) -> dict[str, Any]:
    return {"class_name": type(made).__name__, "config": made.get_config()}


def _decide(group: str) -> None:
    """Decide for all masks of a group, once for each step, and let the kernels of masked channels begin at zero."""
    members = members_of(group, ChannelMask)
    masks = [mask for _, _, mask in members]

    def scores() -> list[Tensor | None]:
        return [mask.scores(wrapper.weight(slot, mask)) if mask.scored else None for wrapper, slot, mask in members]

    acts = masks[0].pruning_schedule.should_update(value_of(masks[0].step))
    pinned = [mask for wrapper, _, mask in members if wrapper.frozen and mask.role == "out"]
    for variable, value in _decision(masks, scores, pinned):
        assign(variable, value)
    for wrapper, slot, mask in members:
        if mask.zeroes and not wrapper.frozen:
            latent = wrapper.latent(slot)
            stays = ops.logical_or(value_of(mask.mask), ops.logical_not(acts))
            assign(latent, latent * mask.along(ops.cast(stays, latent.dtype)))


def _decision(
    masks: Sequence[ChannelMask], scores: Callable[[], Sequence[Tensor | None]], pinned: Sequence[ChannelMask] = ()
) -> list[tuple[keras.Variable, Tensor]]:
    """New values of the masks and of their counters.

    Args:
        masks: All masks that are decided on together.
        scores: Gives, for those that are scored, scores of the indices of their axes.
        pinned: Masks of frozen layers, whose channels stay as they are.
    """
    first = masks[0]
    step = value_of(first.step)
    before = _units_now(masks)

    def choose() -> Tensor:
        kept = _ranking(masks).kept(
            _unit_scores(masks, scores(), before.shape[0]),
            first.pruning_schedule(step),
            together=first.scope == "global",
            comparable=first.criterion.comparable,
            live=None if first.regrow else before,
        )
        return kept if first.regrow else kept & before

    after = ops.cond(first.pruning_schedule.should_update(step), choose, lambda: before)
    if pinned:
        stays = np.zeros(before.shape[0], bool)
        stays[np.concatenate([_numbers(mask) for mask in pinned])] = True
        after = tf.where(stays, before, after)
    # The last entry is for what is no channel of the group.
    values = tf.concat([after, [True]], axis=0)
    pairs = []
    for mask in masks:
        pairs += [(mask.mask, tf.gather(values, mask.unit_numbers % values.shape[0])), (mask.step, step + 1)]
    return pairs


def _numbers(mask: ChannelMask) -> NDArray[np.int64]:
    units = mask.unit_numbers
    numbers: NDArray[np.int64] = units[units != NO_UNIT]
    return numbers


def _ranking(masks: Sequence[ChannelMask]) -> Ranking:
    alone = [Pool(0, len(masks[0].unit_numbers))]
    pools = {pool.start: pool for mask in masks for pool in mask.pools or alone}
    return Ranking([pools[start] for start in sorted(pools)], masks[0].round_to)


def _units_now(masks: Sequence[ChannelMask]) -> Tensor:
    """Which units are not masked now, bool."""
    makers = [mask for mask in masks if mask.role == "out"]
    numbers = np.concatenate([mask.unit_numbers for mask in makers])
    values = tf.concat([tf.cast(value_of(mask.mask), tf.int32) for mask in makers], axis=0)
    return tf.math.unsorted_segment_min(values, numbers, int(numbers.max()) + 1) > 0


def _unit_scores(masks: Sequence[ChannelMask], scores: Sequence[Tensor | None], count: int) -> Tensor:
    """The mean score of the places in which a unit is scored."""
    pairs = [(mask.unit_numbers, each) for mask, each in zip(masks, scores, strict=True) if each is not None]
    numbers = np.concatenate([units for units, _ in pairs])
    total = tf.math.unsorted_segment_sum(tf.concat([each for _, each in pairs], axis=0), numbers, count)
    places = np.bincount(numbers[numbers != NO_UNIT], minlength=count)
    return total / np.maximum(places, 1).astype(np.float32)


def masks_in(wrapper: Compressed) -> list[tuple[str, ChannelMask]]:
    """`(slot, mask)` of the channel masks in a wrapper."""
    return [(slot.name, each) for slot, listed in wrapper.items() for each in listed if isinstance(each, ChannelMask)]
