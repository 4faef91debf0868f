"""Pruning by any pruner: the entry for those of others, and for settings that have no entry of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_compress.core.existing import PRUNE_FIRST, clusters_in, warn_of
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.registry import register, resolve
from keras_compress.core.selection import Selector, rules_take
from keras_compress.core.slots import Slot
from keras_compress.core.transform import WeightTransform
from keras_compress.core.wrapper import Compressed
from keras_compress.graph.model import add_transforms, check_model
from keras_compress.pruning.pruner import HALF, Pruner
from keras_compress.pruning.trained import TrainedPruner


@register("entry_point")
@global_state_kept()
@rules_take("pruner")
def prune(
    model: keras.Model,
    pruner: Pruner | TrainedPruner | str | Mapping[str, Any] | None = None,
    *,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    strict: bool = False,
) -> keras.Model:
    """A copy of the model whose weights a pruner makes sparse while it trains. No callback is needed.

    `prune_low_magnitude` and `combine_columns` are shorter for the pruners of these names.

    Args:
        model: Built model, plain or made by this library.
        pruner: An object, of which each weight gets one of its own with the same arguments; or
            `{"class_name": "MyPruner", "config": {...}}` of a registered class. By default half of each weight goes, by
            magnitude.
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}` or `{"layers": selector, "pruner": ...}`.
        strict: Raise where a layer has to be skipped.

    Returns:
        A new model to compile and train.

    Raises:
        ValueError: For something that is no pruner, a layer that the pruner does not take, or a rule that matches
            nothing.
    """
    check_model(model)
    lost: list[tuple[str, str]] = []

    def make(path: str, before: Compressed, slot: Slot, settings: dict[str, Any]) -> list[WeightTransform]:
        if words := clusters_in(before, slot):
            lost.append((path, words))
        made = _own(settings["pruner"])
        if reason := made.refuses(slot.variable(before.layer).shape):
            raise ValueError(
                f"Expected layers that {type(made).__name__} takes: choose them by `filters`, or leave others out by "
                f"`rules`. Received: {path!r}, {reason}"
            )
        return [made]

    default = {"class_name": "MagnitudePruner", "config": {"schedule": HALF}}
    pruned = add_transforms(
        model, make, {"pruner": default if pruner is None else pruner}, filters=filters, rules=rules, strict=strict
    )
    warn_of("Training will lose the few values of weights that share them", lost, PRUNE_FIRST)
    return pruned


def _own(pruner: Any) -> Pruner | TrainedPruner:
    """A new pruner with the same arguments: masks are each weight's own."""
    made = resolve("weight_transform", dict(pruner) if isinstance(pruner, Mapping) else pruner)
    if not isinstance(made, (Pruner, TrainedPruner)):
        raise ValueError(
            "Expected `pruner` as a Pruner, such as MagnitudePruner(PolynomialDecay(0.3, 0.9, begin_step=0, "
            f"end_step=4000)), or the name of a registered one with its config. Received: {pruner!r}"
        )
    config = made.get_config()
    config.pop("name", None)
    own: Pruner | TrainedPruner = type(made).from_config(config)
    return own
