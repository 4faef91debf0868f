"""Mixed precision: bits for the weights of each layer and for its activations, the best that a budget allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_compress.convert.file_bytes import FileBytes
from keras_compress.core.budget import Budget, Cost, Limit
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.progress import shown, step
from keras_compress.core.registry import register
from keras_compress.core.selection import Selector, exactly, settings_by_path
from keras_compress.core.shown import Shown, names, text_of
from keras_compress.data.examples import Examples
from keras_compress.graph.model import candidates
from keras_compress.pipelines.bit_choice import SOLVERS, Choice, InfeasibleError, Item, total_loss
from keras_compress.pipelines.bit_interactions import Together
from keras_compress.pipelines.bit_plan import BITS_OF_MEANS, LEFT, Plan
from keras_compress.pipelines.bit_probe import BitProbe
from keras_compress.pipelines.bit_sensitivity import (
    BitSensitivity,
    Measured,
    checked_bits,
    checked_examples,
    scanned,
)
from keras_compress.pipelines.stored_bytes import Files
from keras_compress.report.bit_costs import AverageBits, Bops
from keras_compress.report.sheet import Column, Sheet
from keras_compress.runtime.arena import Arena
from keras_compress.runtime.latency import Latency
from keras_compress.tflite.storage import current_storage

_COSTS: dict[type[Cost], str] = {
    FileBytes: "bytes",
    Latency: "latency",
    Arena: "arena",
    Bops: "bops",
    AverageBits: "average_bits",
}
_KINDS = ("weights", "activations")
# Bits of each item, the model with them, and its costs.
Found = tuple[Choice, keras.Model, dict[str, float]]
# Widest that weights and activations have.
_WIDEST = {"weights": 8, "activations": 16}


@dataclass(frozen=True)
class BitChoice:
    """What one part got.

    Attributes:
        name: Path of the layer; of activations, of the layer whose values they are.
        kind: `"weights"` or `"activations"`.
        bits: Bits.
        loss: What that is predicted to cost, see `BitSensitivity.losses`.
    """

    name: str
    kind: str
    bits: int
    loss: float


@dataclass(frozen=True, repr=False)
class MixedPrecision(Shown):
    """What `mixed_precision` chose.

    Attributes:
        model: The quantized model with the ranges of the data: fine-tune, freeze, convert or verify it.
        choices: Bits of each part.
        costs: Cost -> its value for this model: `"bytes"` is that of the file.
        limits: Cost -> the most of it.
        predicted: Cost -> what the choice was expected to take.
        convert_options: Arguments of `kc.convert` for the file whose bytes these are.
        sensitivity: What the choice was made by at first.
        baselines: Way to choose -> the sum of losses, as they were measured at first, that it comes to under the same
            limits: `"milp"`, `"greedy"`, `"uniform"`; one that keeps them with no choice is left out.
        joint: Loss of the model with all parts rounded: of the first choice, of one width for all where that has less,
            and of each choice that was made after measuring anew, see `refine`. The least is taken. Empty where losses
            are not of the whole model (`"hessian"`) and for solver `"uniform"`.
    """

    model: keras.Model
    choices: tuple[BitChoice, ...]
    costs: Mapping[str, float]
    limits: Mapping[str, float]
    predicted: Mapping[str, float]
    convert_options: Mapping[str, str]
    sensitivity: BitSensitivity
    baselines: Mapping[str, float]
    joint: tuple[float, ...] = ()

    @property
    def rules(self) -> list[dict[str, Any]]:
        """The weights' bits as rules of `quantize_model` and its like."""
        return self._rules("weights")

    @property
    def activation_rules(self) -> list[dict[str, Any]]:
        """The activations' bits likewise: `rules=[*found.rules, *found.activation_rules]`."""
        return self._rules("activations")

    def _rules(self, kind: str) -> list[dict[str, Any]]:
        mine = [each for each in self.choices if each.kind == kind]
        return [{"layers": exactly(each.name), kind: f"int{each.bits}"} for each in mine]

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines; `print` shows the table."""
        rows = [(name, f"{value:,.10g} of at most {self.limits[name]:,.10g}") for name, value in self.costs.items()]
        weights = [f"{each.name} {each.bits}" for each in self.choices if each.kind == "weights"]
        rows += [("sum of losses", self._compared())]
        return f"MixedPrecision of {self.model.name!r}", [*rows, ("bits of weights", names(weights, ".choices"))]

    def _compared(self) -> str:
        return ", ".join(f"{name} {loss:.3g}" for name, loss in self.baselines.items())

    def table(self) -> Sheet:
        """Bits and predicted loss of each part, as a rich table."""
        rows = [
            (each.name, *(str(each.bits) if each.kind == kind else "" for kind in _KINDS), f"{each.loss:.3g}")
            for each in self.choices
        ]
        rows += [
            (name, f"{value:,.10g}", "", f"at most {self.limits[name]:,.10g}") for name, value in self.costs.items()
        ]
        rows += [(f"all, by {name}", "", "", f"{loss:.3g}") for name, loss in self.baselines.items()]
        heads = ("part", *_KINDS, "predicted loss")
        return Sheet([Column(h, [row[n] for row in rows], text=n == 0) for n, h in enumerate(heads)], "Mixed precision")

    def __str__(self) -> str:
        return text_of(self.table())


@register("bit_choice")
@shown("mixed precision")
@global_state_kept()
def mixed_precision(
    model: keras.Model,
    data: Any,
    budget: Budget | Mapping[Any, float],
    *,
    weights: Sequence[int] = (2, 4, 8),
    activations: Sequence[int] = (8,),
    method: str | None = None,
    loss: Any = None,
    sensitivity: BitSensitivity | None = None,
    solver: str = "milp",
    refine: int = 0,
    filters: Selector | None = None,
    target: str = "litert",
    weights_storage: str = "int4",
) -> MixedPrecision:
    """Quantize a model with bits chosen layer by layer: the least sum of losses whose costs a budget allows.

    Each part's loss at each width is measured alone (`sensitivity(of="bits")`); an integer program chooses. Where one
    width for all leaves the whole model closer under the same limits, it is that.

    Args:
        model: Built float model.
        data: `x`, `(x, y)`, or batches of them that can be gone through more than once, for ranges and losses.
        budget: Limits, all of which are kept: `bytes` of the int8 file that `convert` writes for the target, packed
            weights counted as they are stored; its `latency` or `latency_ms`, measured here; its `arena` on
            TFLite-Micro, in bytes; `bops`, bit operations of a sample; `average_bits` of a weight. Fractions are of the
            float32 file or model, or of what `kc.FileBytes(...)` and `kc.Latency(...)` say.
        weights: Widths that weights may have, 2 to 8.
        activations: Widths that activations may have, 2 to 8, and 16. A file has 8 bits for those of fewer, which are
            levels left unused that bit operations count; 16 are computed as in mode 16x8 between the int8 ones, with
            weights of 8 bits in the file. Means over all positions have 8 at least.
        method: Of `sensitivity`: `"sqnr"`, `"accuracy"` or `"hessian"`; the last two need targets. By default what
            `sensitivity` was measured by, else `"sqnr"`.
        loss: For `"hessian"`.
        sensitivity: What was measured before, at these widths, and 8 for activations. One by `"accuracy"` needs
            targets, since the whole model is measured likewise.
        solver: `"milp"`, or a baseline: `"greedy"`, `"uniform"` (one width for all weights, one for all activations).
        refine: So many times losses are measured and the choice made anew, other parts rounded as chosen; the choice
            with the least loss of the whole model, on the same data, is taken. Not for `"hessian"`.
        filters: Layers whose weights are chosen; those of others get 8 bits.
        target, weights_storage: Of the file whose bytes count; see `kc.convert`.

    Returns:
        The model, and what was chosen and measured.

    Raises:
        ValueError: For a budget that no choice keeps (`InfeasibleError`, which names the nearest), a cost that bits do
            not change in a known way or that is not of the target, widths out of range, a quantized model, or a method
            that is not the sensitivity's.

    **Reference**: Dong et al., "HAWQ" (2019) and "HAWQ-V2" (2020); Yao et al., "HAWQ-V3" (2021): the integer program.
    """
    weights, activations = _widths(weights, "weights"), _widths(activations, "activations")
    if solver not in SOLVERS:
        raise ValueError(f"Expected `solver` out of {sorted(SOLVERS)}. Received: solver={solver!r}")
    limits = _limits(budget)
    examples, method = _measured_by(model, data, loss, method, sensitivity)
    if refine and method == "hessian":
        raise ValueError(f"Expected refine=0 for method='hessian', which knows no losses together. Received: {refine=}")
    probe = BitProbe(model, examples)
    found = sensitivity or scanned(probe, examples, method, sorted({*weights, *activations, LEFT}), filters, 0)
    chosen = list(settings_by_path(candidates(probe.model, quiet=True), {}, filters))
    step("choosing")
    files = Files(target, current_storage(weights_storage), lambda: (inputs for inputs, _ in probe.batches))
    items = _items(found, chosen, probe, weights, activations)
    plan = Plan(model, probe, items, files, limits)
    taken: Found = plan.within(SOLVERS[solver])
    joint: tuple[float, ...] = ()
    if method != "hessian" and solver != "uniform":
        together = Together(probe, items, Measured(probe, method, examples, 0).loss)
        taken, joint = _beside_uniform(plan, together, taken)
        if refine:
            taken, joint = _refined(plan, together, taken, joint, SOLVERS[solver], refine)
    choice, made, values = taken
    return MixedPrecision(
        made,
        tuple(map(_chosen, items, choice)),
        values,
        {cost.name: cost.most for cost in plan.costs},
        {cost.name: cost.of(choice) for cost in plan.costs},
        {"target": target, "weights_storage": weights_storage},
        found,
        _baselines(items, plan),
        joint,
    )


def _measured_by(
    model: keras.Model, data: Any, loss: Any, method: str | None, known: BitSensitivity | None
) -> tuple[Examples, str]:
    """The data, and what losses are measured by: what is known was measured so, and sums have one unit.

    Raises:
        TypeError: For what is no sensitivity of bits.
        ValueError: For another method than the sensitivity's, or data that it cannot work with.
    """
    if known is None:
        return checked_examples(model, data, loss, method or "sqnr")
    if not isinstance(known, BitSensitivity):
        raise TypeError(
            f"Expected `sensitivity` as kc.sensitivity(model, of='bits') gives it. Received: {type(known).__name__}"
        )
    if method not in (None, known.criterion):
        raise ValueError(
            f"Expected `method` to be the sensitivity's, {known.criterion!r}, or none. Received: method={method!r}"
        )
    if known.criterion == "hessian":
        # Nothing more is measured by it.
        return Examples.for_model(model, data, None, ("inputs",), "mixed precision"), "hessian"
    return checked_examples(model, data, loss, known.criterion)


def _chosen(item: Item, bits: int) -> BitChoice:
    return BitChoice(item.name, item.kind, bits, item.losses[bits])


def _beside_uniform(plan: Plan, together: Together, first: Found) -> tuple[Found, tuple[float, ...]]:
    """The choice, or one width for all where that leaves the whole model closer: losses of few bits do not add up."""
    loss, uniform = together.loss(first[0]), SOLVERS["uniform"]
    try:
        other = uniform(plan.items, plan.costs)
        if other == first[0] or together.loss(other) >= loss:
            return first, (loss,)
        made = plan.within(uniform)
    except InfeasibleError:
        return first, (loss,)
    # Files may cost more than was counted, and narrower widths be taken.
    found = together.loss(made[0])
    return (made, (loss, found)) if found < loss else (first, (loss,))


def _refined(
    plan: Plan, together: Together, first: Found, joint: tuple[float, ...], solve: Any, times: int
) -> tuple[Found, tuple[float, ...]]:
    """The best of the first choice and those made by losses measured at the best before them."""
    best, losses = first, list(joint)
    for _ in range(times):
        plan.items = together.around(best[0])
        made = plan.within(solve)
        if made[0] == best[0]:
            break
        losses.append(together.loss(made[0]))
        if losses[-1] >= min(losses[:-1]):
            break
        best = made
    return best, tuple(losses)


def _baselines(items: Sequence[Item], plan: Plan) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, solve in SOLVERS.items():
        try:
            found[name] = total_loss(items, solve(items, plan.costs))
        except InfeasibleError:
            continue
    return found


def _widths(bits: Sequence[int], what: str) -> tuple[int, ...]:
    found = checked_bits(bits)
    if found[-1] > _WIDEST[what]:
        raise ValueError(f"Expected `{what}` of 2 to 8 bits: int8 has no more. Received: {what}={tuple(bits)}")
    return found


def _limits(budget: Budget | Mapping[Any, float]) -> dict[str, Limit]:
    """The limits by name.

    Raises:
        ValueError: For another cost, or one twice.
    """
    found: dict[str, Limit] = {}
    for limit in Budget.of(budget):
        name = next((name for kind, name in _COSTS.items() if isinstance(limit.cost, kind)), None)
        if name is None or name in found:
            raise ValueError(
                f"Expected a budget of {', '.join(_COSTS.values())}, each once: what bits change in a known way. "
                f"Received: {limit}"
            )
        found[name] = limit
    return found


def _items(
    found: BitSensitivity, paths: Sequence[str], probe: BitProbe, weights: Sequence[int], activations: Sequence[int]
) -> list[Item]:
    """The parts, with losses at the widths that each may have.

    Raises:
        ValueError: For a sensitivity that lacks one of them.
    """
    of_weights, of_points = found.losses()
    means = {site.root for site in probe.sites if site.is_mean}
    roots = dict.fromkeys(site.root for site in probe.sites)
    items = [_item(path, "weights", of_weights, weights) for path in paths]
    wide = tuple(b for b in activations if b >= BITS_OF_MEANS) or (BITS_OF_MEANS,)
    return items + [_item(root, "activations", of_points, wide if root in means else activations) for root in roots]


def _item(name: str, kind: str, losses: Mapping[str, Mapping[int, float]], widths: Sequence[int]) -> Item:
    known = losses.get(name, {})
    missing = [width for width in widths if width not in known]
    if missing:
        raise ValueError(
            f"Expected a sensitivity of all parts at all widths. Received: none of the {kind} of {name!r} at {missing}"
        )
    return Item(name, {width: known[width] for width in widths}, kind)
