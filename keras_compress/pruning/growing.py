"""Sparse training from the start: a fixed number of weights, some of which are exchanged every now and then."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_compress.core.existing import existing
from keras_compress.core.kernels import Bound
from keras_compress.core.noise import Stream, check_seed, digest_of
from keras_compress.core.schedule import ConstantSparsity, Schedule
from keras_compress.core.ste import value_of
from keras_compress.core.transform import LATENT
from keras_compress.pruning.distribution import highest, kept_count
from keras_compress.pruning.pruner import MASK, Pruner
from keras_compress.pruning.search import keep_highest_of_each
from keras_compress.pruning.together import Member, mask_together
from keras_compress.pruning.trained import not_negative

Tensor = Any
FIRST_MASKS = ("random", "magnitude")


class GrowingPruner(Pruner):
    """Starts sparse, and at each step at which the schedule acts exchanges some of the weights that are not zero.

    Subclasses implement `growth()`: how much each weight that is zero deserves to grow.

    Args:
        schedule: A constant sparsity with an end: `ConstantSparsity(0.9, 0, end_step, frequency)`. The first exchange
            is `frequency` steps behind its `begin_step`, the last before its `end_step`.
        drop_fraction: Share of the weights that the first exchange drops, alpha, in [0, 1]; at a step t it is
            `alpha / 2 * (1 + cos(pi (t - begin_step) / (end_step - begin_step)))`.
        first_mask: Weights that are there from the start: `"random"`, or those of largest `"magnitude"`, for a model
            that is trained already. A weight that is sparse already begins with its own zeros.
        seed: Seed of what is random, an integer from 0 to 2^31 - 1.

    Raises:
        ValueError: For arguments out of range, or a schedule without an end or whose sparsity changes.
    """

    before_begin = "the zeros are those of the start, no weights were exchanged"

    def __init__(
        self,
        schedule: Schedule,
        *,
        drop_fraction: float = 0.3,
        first_mask: str = "random",
        seed: int = 0,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(schedule, regrow=True, name=name, trainable=trainable)
        self.drop_fraction = not_negative("drop_fraction", drop_fraction)
        if self.drop_fraction > 1.0:
            raise ValueError(f"Expected `drop_fraction` in [0, 1]. Received: drop_fraction={drop_fraction}")
        if first_mask not in FIRST_MASKS:
            raise ValueError(f"Expected `first_mask` out of {FIRST_MASKS}. Received: first_mask={first_mask!r}")
        self.first_mask = first_mask
        self.seed = check_seed(seed)
        if self.schedule.end_step == -1 or not _is_constant(self.schedule):
            raise ValueError(
                "Expected a constant sparsity with an end, such as ConstantSparsity(0.9, 0, end_step=7500). "
                f"Received: {type(self.schedule).__name__} with {self.schedule.get_config()}"
            )

    def create_variables(self) -> None:
        super().create_variables()
        self.stream = Stream(self, self.seed)

    def initialize(self, weight: Tensor) -> None:
        self.stream.begin(weight)
        values = np.asarray(weight)
        kept = kept_count(values.size, self.schedule.final_value())
        if existing(values, ()).sparsity:
            self.mask.assign(values != 0)
        elif self.first_mask == "magnitude":
            self.mask.assign(highest(np.abs(values), kept))
        else:
            random = np.random.default_rng([self.seed, digest_of(values)])
            self.mask.assign(highest(random.permutation(values.size).reshape(values.shape), kept))

    def fraction(self, step: Tensor) -> Tensor:
        """Share of the weights that an exchange at this step drops, a float32 scalar."""
        done = tf.cast(step - self.schedule.begin_step, tf.float32)
        span = float(max(self.schedule.end_step - self.schedule.begin_step, 1))
        return 0.5 * self.drop_fraction * (1.0 + tf.cos(math.pi * tf.clip_by_value(done / span, 0.0, 1.0)))

    def growth(self) -> Tensor:
        """Flat numbers from 0, float32, one for each weight."""
        raise NotImplementedError(f"{type(self).__name__} must implement `growth()`.")

    def may_grow(self) -> Tensor:
        """Whether `growth()` says anything at this step, a bool scalar."""
        return value_of(self.step) > self.schedule.begin_step

    def update(self, weight: Tensor) -> list[tuple[keras.Variable, Tensor]]:
        before, step = value_of(self.mask), value_of(self.step)
        mask = mask_together(self, GrowingPruner, lambda pruner: True, _exchanged)
        if mask is None:
            acts = self.schedule.should_update(step)
            mask = tf.cond(acts, lambda: _exchange([self], [weight])[0], lambda: before)
        grown = mask & ~before
        # What grows begins at zero, whatever its weight was when it was dropped.
        latent = tf.cond(tf.reduce_any(grown), lambda: tf.where(grown, 0.0, weight), lambda: weight)
        return [(LATENT, latent), (self.mask, mask), (self.step, step + 1)]

    def kernel(self) -> Bound:
        return MASK, (value_of(self.mask),)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.pop("regrow")
        return {
            **config,
            "drop_fraction": self.drop_fraction,
            "first_mask": self.first_mask,
            "seed": self.seed,
        }


def _is_constant(schedule: Schedule) -> bool:
    """Whether a schedule with an end has one sparsity at all steps at which it acts."""
    if type(schedule) is ConstantSparsity:
        return True
    acting = tf.range(schedule.begin_step, schedule.end_step, schedule.frequency, tf.int64)
    steps = tf.concat([acting, [schedule.end_step]], 0)

    def values() -> Tensor:
        # One after the other: a schedule of one's own may know scalars only.
        return tf.map_fn(lambda step: ops.cast(schedule(step), "float32"), steps, fn_output_signature=tf.float32)

    found = tf.function(values, autograph=False)()
    return bool(tf.reduce_all(found == found[0]))


def _exchanged(members: Sequence[Member], sparsities: Sequence[Tensor]) -> list[Tensor]:
    weights = [wrapper.weight(slot, stop_before=pruner) for wrapper, slot, pruner in members]
    return _exchange([pruner for _, _, pruner in members], weights)


def _exchange(pruners: Sequence[GrowingPruner], weights: Sequence[Tensor]) -> list[Tensor]:
    """New masks of as many weights: those of smallest magnitude are dropped, those of highest growth come in."""
    before = [value_of(pruner.mask) for pruner in pruners]
    alive = [tf.reduce_sum(tf.cast(mask, tf.int32)) for mask in before]
    fractions = [pruner.fraction(value_of(pruner.step)) for pruner in pruners]
    dropped = [tf.cast(tf.cast(n, tf.float32) * share, tf.int32) for n, share in zip(alive, fractions, strict=True)]
    magnitudes = [_flat(tf.where(mask, tf.abs(weight), -1.0)) for mask, weight in zip(before, weights, strict=True)]
    kept = keep_highest_of_each(
        magnitudes, [_all_but(n - d, each) for n, d, each in zip(alive, dropped, magnitudes, strict=True)]
    )
    # What was dropped may grow again at once, and keeps its weight then.
    growth = [tf.where(stays, np.inf, pruner.growth()) for stays, pruner in zip(kept, pruners, strict=True)]
    new = keep_highest_of_each(growth, [_all_but(n, each) for n, each in zip(alive, growth, strict=True)])
    return [
        tf.where(pruner.may_grow(), tf.reshape(mask, old.shape), old)
        for pruner, mask, old in zip(pruners, new, before, strict=True)
    ]


def _flat(values: Tensor) -> Tensor:
    return tf.reshape(values, [-1])


def _all_but(count: Tensor, values: Tensor) -> Tensor:
    """The sparsity that leaves so many: in float64, so that counts are exact."""
    return 1.0 - tf.cast(count, tf.float64) / float(values.shape[0])
