"""Pruning at once, by scores of the weights: masks that stay, to be trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_compress.core.existing import PRUNE_FIRST, clusters_in, warn_of
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.history import Record, keep, kept
from keras_compress.core.progress import ProgressLine
from keras_compress.core.registry import register, resolve
from keras_compress.core.selection import Selector, exactly, rules_take
from keras_compress.core.slots import Slot
from keras_compress.core.suggest import did_you_mean
from keras_compress.core.transform import WeightTransform
from keras_compress.core.warn import warn
from keras_compress.core.wrapper import Compressed
from keras_compress.data.examples import Examples
from keras_compress.graph.model import add_transforms, by_message, candidates, check_model, compressed_layers
from keras_compress.pruning.criteria.saliency import Saliency
from keras_compress.pruning.distribution import check_sparsity, layer_sparsities
from keras_compress.pruning.fixed_mask import FixedMaskPruner, open_empty_masks
from keras_compress.pruning.patterns import check_block_size, check_m_by_n, check_pooling
from keras_compress.pruning.plan import Pattern, Plan
from keras_compress.pruning.scored import Mask, ScoredModel, ScoredWeight, scored_model

SCOPES = ("layer", "global", "erk")
DEFAULT_SPARSITY = 0.5


@dataclass(frozen=True)
class PrunedWeight:
    """What was done to one weight.

    Attributes:
        name: Path of its layer, and the variable of a layer that has several.
        size: Number of weights.
        before: How many were not zero before.
        after: How many are left.
        note: Why it was scored otherwise than the others; empty for most.
    """

    name: str
    size: int
    before: int
    after: int
    note: str = ""

    @property
    def sparsity(self) -> float:
        """Share of zeros now."""
        return 1.0 - self.after / max(self.size, 1)

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return f"{self.name}: {self.before:,} -> {self.after:,} weights, {self.sparsity:.1%} zeros{note}"


@dataclass(frozen=True)
class OneShotRecord(Record):
    """What `prune_one_shot` did to a model, kept with it until it is saved.

    Attributes:
        criterion: Class of the criterion.
        scope: How weights were compared.
        weights: Each weight.
        left: `(path, reason)` of layers that were left alone.
    """

    criterion: str
    scope: str
    weights: tuple[PrunedWeight, ...]
    left: tuple[tuple[str, str], ...] = ()

    @property
    def sparsity(self) -> float:
        """Share of zeros of all weights together."""
        return 1.0 - sum(w.after for w in self.weights) / max(sum(w.size for w in self.weights), 1)

    def lines(self) -> list[str]:
        """One of the whole, and one for each weight."""
        total = sum(w.size for w in self.weights)
        whole = f"{self.sparsity:.1%} of {total:,} weights by {self.criterion}, scope {self.scope!r}"
        left = (f"{path}: left as it is: {reason}" for path, reason in self.left)
        return [f"Pruned at once: {line}" for line in (whole, *map(str, self.weights), *left)]


def one_shot_of(model: keras.Model) -> OneShotRecord | None:
    """What `prune_one_shot` did to a model; `None` where it did nothing, or the model was saved and loaded since."""
    return kept(model, OneShotRecord)


@register("entry_point")
@global_state_kept()
@rules_take("sparsity")
def prune_one_shot(
    model: keras.Model,
    sparsity: float | Mapping[str, float] | None = None,
    criterion: Saliency | str | Mapping[str, Any] = "magnitude",
    data: Any = None,
    *,
    loss: Any = None,
    scope: str = "layer",
    block_size: Sequence[int] = (1, 1),
    block_pooling_type: str = "AVG",
    sparsity_m_by_n: Sequence[int] | None = None,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    strict: bool = False,
) -> keras.Model:
    """A copy of the model with weights set to zero at once, those of the lowest scores; ready to be trained on.

    Masks stay as they are (`FixedMaskPruner`). Weights that are zero already stay so, and count as zeros; a kernel of
    zeros only, which training is to begin with, is left alone, and a warning says so. Layers with `trainable=False` are
    pruned as others are, for files of models that are trained no more; leave them out by `rules`. `prune_iteratively`
    and schedules leave them as they are.

    Args:
        model: Built model, plain or made by this library; trained, or not yet, as the criterion wants.
        sparsity: Share of zeros in [0, 1); 0.5 by default. Or path of a layer -> share, as
            `kc.sensitivity(model, of="weights", ...).sparsities(0.9)` gives: other layers are left alone.
        criterion: What weights are ranked by: `"magnitude"`, `"snip"`, `"synflow"`, ... or an object.
        data: `(x, y)`, inputs alone, or batches of them, for criteria that need data.
        loss: Loss for criteria that need gradients; the model's compiled one by default.
        scope: `"layer"`: the share of each weight; `"global"`: of all together, by one ranking; `"erk"`: of all
            together, with more left in small layers, see `keras_compress.pruning.distribution.layer_sparsities`.
        block_size: `(inputs, outputs)` of blocks that are pruned as one, see `MagnitudePruner`.
        block_pooling_type: Score of a block, `"AVG"` or `"MAX"` of its weights'.
        sparsity_m_by_n: `(m, n)`: m zeros in every n consecutive inputs, in place of a sparsity.
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}` or `{"layers": selector, "sparsity": 0.3}`.
        strict: Raise where a layer has to be skipped.

    Returns:
        A new model, not compiled. `kc.summary` tells what was done layer by layer.

    Raises:
        ValueError: For a sparsity out of [0, 1), an unknown criterion or one without the data it needs, scores that are
            not finite, a pattern that does not give the sparsity, or a rule that matches nothing.
    """
    criterion = checked_criterion(criterion)
    pattern = _pattern(block_size, block_pooling_type, sparsity_m_by_n)
    sparsity = _checked_sparsity(sparsity, pattern, scope, rules, criterion)
    check_model(model)
    shares, filters = _by_layer(model, sparsity, filters, strict)
    examples = Examples.for_model(model, data, loss, criterion.needs, f"criterion {type(criterion).__name__}")
    wanted: dict[str, float] = {}
    pruned = _wrapped(model, wanted, shares, filters, rules, strict)
    with ProgressLine("pruning") as line:
        line.step(f"scores by {type(criterion).__name__}")
        scored = scored_model(pruned, list(wanted))
        left = _leave(scored, pattern, wanted, strict)
        if not scored.weights:
            raise ValueError(
                "Expected weights that can be pruned so. Received: " + ("; ".join(by_message(left)) or "none")
            )
        before = [int(mask.sum()) for mask in scored.masks()]
        masks = criterion.prune(scored, examples, _plan(scored, wanted, scope, pattern))
        _put(pruned, scored, masks)
        open_empty_masks(pruned)
    weights = tuple(
        PrunedWeight(each.name, mask.size, count, int(mask.sum()), criterion.notes.get(each.name, ""))
        for each, mask, count in zip(scored.weights, masks, before, strict=True)
    )
    if criterion.notes:
        warn(f"Not scored by {type(criterion).__name__}: {'; '.join(by_message(criterion.notes.items()))}")
    return keep(pruned, OneShotRecord(type(criterion).__name__, scope, weights, tuple(left)))


def checked_criterion(criterion: Any) -> Saliency:
    """A criterion from what a user may write for it.

    Raises:
        ValueError: For anything else.
    """
    found = resolve("weight_criterion", dict(criterion) if isinstance(criterion, Mapping) else criterion)
    if not isinstance(found, Saliency):
        raise ValueError(f"Expected a criterion of weights, such as 'magnitude'. Received: criterion={criterion!r}")
    return found


def _pattern(block_size: Any, pooling: Any, m_by_n: Any) -> Pattern:
    size = check_block_size(block_size)
    if m_by_n is None:
        return Pattern(size, check_pooling(pooling))
    found = check_m_by_n(m_by_n)
    if size != (1, 1):
        raise ValueError(f"Expected `sparsity_m_by_n` without `block_size`. Received: block_size={size}")
    return Pattern(size, check_pooling(pooling), found)


def _checked_sparsity(
    sparsity: Any, pattern: Pattern, scope: Any, rules: Sequence[Mapping[str, Any]] | None, criterion: Saliency
) -> float | dict[str, float]:
    """The sparsity, or that of each layer."""
    if scope not in SCOPES:
        raise ValueError(f"Expected `scope` out of {SCOPES}. Received: scope={scope!r}{did_you_mean(scope, SCOPES)}")
    own = isinstance(sparsity, Mapping) or any("sparsity" in rule for rule in rules or ())
    if pattern.m_by_n is not None:
        zeros, of = pattern.m_by_n
        if own or scope != "layer" or sparsity not in (None, zeros / of):
            raise ValueError(
                f"Expected no sparsity but the {zeros / of:g} of {zeros} zeros in every {of} inputs and scope='layer'. "
                f"Received: sparsity={sparsity}, scope={scope!r}"
            )
        return zeros / of
    if own and scope != "layer":
        raise ValueError(
            f"Expected one sparsity for scope={scope!r}, which says how many weights stay in each layer. "
            "Received: sparsities of layers"
        )
    if not pattern.is_single and pattern.m_by_n is None and criterion.per_output:
        raise ValueError(
            "Expected single weights or `sparsity_m_by_n` for a criterion that compares weights of one output only: "
            f"blocks would be ranked across outputs. Received: block_size={pattern.block_size}, "
            f"criterion={type(criterion).__name__}"
        )
    if scope == "global" and criterion.per_output:
        raise ValueError(
            "Expected scope='layer' or 'erk' for a criterion that compares weights of one output only. "
            f"Received: scope='global', criterion={type(criterion).__name__}"
        )
    for name, value in sparsity.items() if isinstance(sparsity, Mapping) else [("sparsity", sparsity)]:
        if value is not None:
            check_sparsity(value, name)
    for rule in rules or ():
        if "sparsity" in rule:
            check_sparsity(rule["sparsity"], "sparsity")
    if isinstance(sparsity, Mapping):
        return {str(name): float(value) for name, value in sparsity.items()}
    return DEFAULT_SPARSITY if sparsity is None else float(sparsity)


def _by_layer(
    model: keras.Model, sparsity: float | dict[str, float], filters: Selector | None, strict: bool
) -> tuple[dict[str, float] | float, Selector | None]:
    """The sparsity of each layer, and the layers."""
    if not isinstance(sparsity, dict):
        return sparsity, filters
    if filters is not None:
        raise ValueError("Expected either `filters` or a sparsity for each layer. Received: both")
    known = [path for path, _ in candidates(model, strict, quiet=True)]
    unknown = [path for path in sparsity if path not in known]
    if unknown or not sparsity:
        hint = did_you_mean(unknown[0], known) if unknown else ""
        raise ValueError(f"Expected paths of layers with weights to prune: {known}. Received: {unknown}{hint}")
    return sparsity, [exactly(path) for path in sparsity]


def _wrapped(
    model: keras.Model,
    wanted: dict[str, float],
    shares: dict[str, float] | float,
    filters: Selector | None,
    rules: Sequence[Mapping[str, Any]] | None,
    strict: bool,
) -> keras.Model:
    """A copy with a mask over each weight; `wanted` gets the sparsity of each layer."""
    lost: list[tuple[str, str]] = []

    def make(path: str, before: Compressed, slot: Slot, settings: dict[str, Any]) -> list[WeightTransform]:
        own = settings["sparsity"]
        wanted[path] = shares[path] if own is None and isinstance(shares, dict) else own
        if words := clusters_in(before, slot):
            lost.append((path, words))
        return [FixedMaskPruner()]

    default = None if isinstance(shares, dict) else shares
    pruned = add_transforms(model, make, {"sparsity": default}, filters=filters, rules=rules, strict=strict)
    warn_of("Training will lose the few values of weights that share them", lost, PRUNE_FIRST)
    return pruned


def _leave(scored: ScoredModel, pattern: Pattern, wanted: Mapping[str, float], strict: bool) -> list[tuple[str, str]]:
    """Leave weights alone that have no weights to choose from, or that the pattern does not fit; says which."""
    reasons = [(each, _reason_against(pattern, each)) for each in scored.weights]
    left = [(each.name, reason) for each, reason in reasons if reason is not None and wanted[each.path] > 0]
    if left:
        listed = "; ".join(by_message(left))
        if strict:
            raise ValueError(f"Expected weights that can all be pruned so (strict=True). Received: {listed}")
        warn(f"Weights left as they are: {listed}")
    scored.weights = [each for each, reason in reasons if reason is None or wanted[each.path] == 0]
    return left


def _reason_against(pattern: Pattern, each: ScoredWeight) -> str | None:
    if not each.values().any():
        # A mask over zeros only, as of a kernel that begins at zero, would keep it from ever being trained.
        return "it is all zeros"
    return pattern.reason_against(each)


def _plan(scored: ScoredModel, wanted: Mapping[str, float], scope: str, pattern: Pattern) -> Plan:
    sparsities = [wanted[each.path] for each in scored.weights]
    if scope == "erk":
        sparsities = layer_sparsities([each.shape for each in scored.weights], sparsities[0], "erk")
    return Plan(tuple(sparsities), pattern, together=scope == "global")


def _put(pruned: keras.Model, scored: ScoredModel, masks: Sequence[Mask]) -> None:
    """Give the weights and masks to the model that is handed out."""
    wrappers = dict(compressed_layers(pruned))
    for each, mask in zip(scored.weights, masks, strict=True):
        wrapper = wrappers[each.path]
        latent = each.slot.variable(wrapper.layer)
        values = np.where(mask, each.values() if _moved(each, wrapper, mask) else latent, 0.0)
        latent.assign(values)
        pruner = next(t for t in reversed(wrapper.transforms[each.slot.name]) if isinstance(t, FixedMaskPruner))
        pruner.mask.assign(mask)


def _moved(each: ScoredWeight, wrapper: Compressed, mask: Mask) -> bool:
    """Whether the criterion changed weights that stay: others keep their latent values, whatever was over them."""
    seen = keras.ops.convert_to_numpy(wrapper.weight(each.slot.name))
    return not np.array_equal(each.values()[mask], seen[mask])
