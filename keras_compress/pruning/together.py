"""New masks for all magnitude pruners of a model in one condition and one search, each with a threshold of its own.

A condition for each weight, with a program in it, costs seconds before the first step of a training. So the first
pruner that asks in a call of the model has the masks of all made, and the others find theirs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_compress.core.context import entry_layer, kept_in_call
from keras_compress.core.schedule import Schedule
from keras_compress.core.ste import value_of
from keras_compress.core.wrapper import Compressed
from keras_compress.graph.model import compressed_layers
from keras_compress.pruning.pruner import Pruner
from keras_compress.pruning.search import keep_highest_of_each

Tensor = Any


# `(wrapper, slot, pruner)`.
Member = tuple[Compressed, str, Any]
# Chooses the masks of members from a sparsity for each.
Choice = Callable[[Sequence[Member], Sequence[Tensor]], list[Tensor]]


def highest(members: Sequence[Member], sparsities: Sequence[Tensor]) -> list[Tensor]:
    """Masks of the highest `unit_scores` of each; of equal ones those of the highest `unit_ties`."""
    pruners = [pruner for _, _, pruner in members]
    weights = [wrapper.weight(slot, stop_before=pruner) for wrapper, slot, pruner in members]
    scores = [pruner.unit_scores(weight) for pruner, weight in zip(pruners, weights, strict=True)]
    found = [pruner.unit_ties(weight) for pruner, weight in zip(pruners, weights, strict=True)]
    ties = [tf.zeros_like(each) if tie is None else tie for each, tie in zip(scores, found, strict=True)]
    units = keep_highest_of_each(scores, sparsities, None if all(tie is None for tie in found) else ties)
    return [pruner.without_return(pruner.mask_of(unit)) for (_, _, pruner), unit in zip(members, units, strict=True)]


def masks_of(
    model: keras.Model, kind: type[Any], chosen_alike: Callable[[Any], bool], choice: Choice = highest
) -> dict[int, Tensor]:
    """`id(pruner)` -> its mask of this step, for the pruners that come first in their lists and train.

    Args:
        model: The model that is being called.
        kind: Class of the pruners.
        chosen_alike: Whether a pruner's mask is what `choice` gives.
        choice: Chooses the masks.
    """
    members = [
        (wrapper, slot.name, listed[0])
        for _, wrapper in compressed_layers(model)
        if not wrapper.frozen
        for slot, listed in wrapper.items()
        if isinstance(listed[0], kind) and listed[0].trainable and chosen_alike(listed[0])
    ]
    if not members:
        return {}
    looks = _looks([pruner for _, _, pruner in members])
    acts = tf.stack([act for act, _ in looks])

    def decide() -> list[Tensor]:
        new = choice(members, [sparsity for _, sparsity in looks])
        return [tf.where(act, mask, old) for (act, _), mask, old in zip(looks, new, before, strict=True)]

    before = [value_of(pruner.mask) for _, _, pruner in members]
    masks = ops.cond(tf.reduce_any(acts), decide, lambda: before)
    return {id(pruner): mask for (_, _, pruner), mask in zip(members, masks, strict=True)}


def mask_together(
    pruner: Pruner, kind: type[Any], chosen_alike: Callable[[Any], bool], choice: Choice = highest
) -> Tensor | None:
    """The pruner's mask of this step, made together with those of others; `None` where it has to make its own.

    So it is outside a model, and where its layer runs in a graph of its own, a loop for one.
    """
    model = entry_layer()
    if not isinstance(model, keras.Model):
        return None
    graph = _graph()
    kept = kept_in_call((masks_of, kind), lambda: (graph, masks_of(model, kind, chosen_alike, choice)))
    return kept[1].get(id(pruner)) if kept is not None and kept[0] is graph else None


def _graph() -> Any:
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def _looks(pruners: list[Pruner]) -> list[tuple[Tensor, Tensor]]:
    """For each pruner, whether its schedule acts now, and the sparsity: equal schedules are traced once."""
    programs: dict[str, Any] = {}
    found = []
    for pruner in pruners:
        schedule = pruner.schedule
        key = json.dumps(keras.saving.serialize_keras_object(schedule), sort_keys=True, default=repr)
        program = programs.setdefault(key, tf.function(_look(schedule), autograph=False))
        found.append(program(value_of(pruner.step)))
    return found


def _look(schedule: Schedule) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    return lambda step: (schedule.should_update(step), ops.cast(schedule(step), "float32"))
