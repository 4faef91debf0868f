"""Sparse training from the start: as many weights for each layer as a distribution says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_compress.core.global_state import global_state_kept
from keras_compress.core.registry import register, resolve
from keras_compress.core.schedule import ConstantSparsity, Schedule
from keras_compress.core.selection import Selector, rules_take, settings_by_path
from keras_compress.core.slots import Slot
from keras_compress.core.suggest import did_you_mean
from keras_compress.core.transform import WeightTransform
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph
from keras_compress.graph.model import add_transforms, candidates, check_model, inner, slots_in
from keras_compress.pruning.distribution import layer_sparsities
from keras_compress.pruning.growing import GrowingPruner
from keras_compress.pruning.rigl import RigLPruner
from keras_compress.pruning.set import SetPruner

METHODS: dict[str, type[GrowingPruner]] = {"rigl": RigLPruner, "set": SetPruner}
# Of a training of a thousand steps; the paper acts every hundred, and ends at three quarters.
DEFAULT = {
    "class_name": "ConstantSparsity",
    "config": {"target_sparsity": 0.5, "begin_step": 0, "end_step": 750, "frequency": 100},
}


@register("entry_point")
@global_state_kept()
@rules_take()
def train_sparse(
    model: keras.Model,
    pruning_schedule: Schedule | Mapping[str, Any] | None = None,
    method: str = "rigl",
    distribution: str = "erk",
    *,
    drop_fraction: float = 0.3,
    first_mask: str = "random",
    seed: int = 0,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    strict: bool = False,
) -> keras.Model:
    """A copy of the model that is sparse from the start, and exchanges weights while it trains. No callback is needed.

    Args:
        model: Built model without pruners, mostly one that is not trained yet.
        pruning_schedule: Its sparsity is that of all selected weights together; its steps are those of the exchanges:
            `ConstantSparsity(0.9, begin_step=0, end_step=0.75, total_steps=N)`, which is the paper's for N batches. Of
            1000 batches and half of the weights by default.
        method: `"rigl"`: what has the largest gradient grows; `"set"`: what is drawn.
        distribution: Sparsity of each layer: `"erk"`, more in larger ones, or `"uniform"`.
        drop_fraction: Share of the weights that the first exchange drops, in [0, 1].
        first_mask: `"random"`, or those of largest `"magnitude"`, for a model that is trained already.
        seed: Seed of what is random. An integer from 0 to 2^31 - 1.
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}`.
        strict: Raise where a layer has to be skipped.

    Returns:
        A new model to compile and train.

    Raises:
        ValueError: For arguments out of range, or a schedule without an end or whose sparsity changes.

    **Reference**: see `RigLPruner`, `SetPruner`.
    """
    if method not in METHODS:
        hint = did_you_mean(method, METHODS)
        raise ValueError(f"Expected `method` out of {sorted(METHODS)}. Received: method={method!r}{hint}")
    settings: dict[str, Any] = {"drop_fraction": drop_fraction, "first_mask": first_mask, "seed": seed}
    wanted = METHODS[method](resolve("schedule", pruning_schedule or DEFAULT), **settings).schedule
    if not isinstance(wanted, ConstantSparsity):
        raise ValueError(f"Expected `pruning_schedule` as a ConstantSparsity. Received: {type(wanted).__name__}")
    check_model(model)
    shares = _shares(model, wanted.target_sparsity, distribution, filters, rules)

    def make(path: str, before: Compressed, slot: Slot, _: dict[str, Any]) -> list[WeightTransform]:
        own = ConstantSparsity(**{**wanted.get_config(), "target_sparsity": shares[path, slot.name]})
        return [METHODS[method](own, **settings)]

    return add_transforms(model, make, {}, filters=filters, rules=rules, strict=strict)


def _shares(
    model: keras.Model,
    sparsity: float,
    distribution: str,
    filters: Selector | None,
    rules: Sequence[Mapping[str, Any]] | None,
) -> dict[tuple[str, str], float]:
    """`(path, slot) -> sparsity` of the weights that are selected."""
    selected = settings_by_path(candidates(model, quiet=True), {}, filters, rules)
    shapes = {
        (path, slot.name): tuple(slot.variable(inner(layer)).shape)
        for path, layer in graph.walk(model)
        if path in selected
        for slot in slots_in(layer)
    }
    return dict(zip(shapes, layer_sparsities(list(shapes.values()), sparsity, distribution), strict=True))
