"""Mixed precision: bits for the weights of each layer and for its activations, the best that a budget allows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_compress.convert.file_bytes import FileBytes
from keras_compress.core.budget import Budget, Limit
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.progress import shown, step
from keras_compress.core.selection import Selector, settings_by_path
from keras_compress.core.shown import Shown, names, text_of
from keras_compress.graph import graph
from keras_compress.graph.model import candidates
from keras_compress.pipelines.bit_choice import SOLVERS, Choice, InfeasibleError, Item, LinearCost, infeasible, moved
from keras_compress.pipelines.bit_probe import BitProbe
from keras_compress.pipelines.bit_sensitivity import BitSensitivity, checked_bits, checked_examples, scanned
from keras_compress.pipelines.stored_bytes import Files, stored_bytes
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.quantizers.kinds import Place
from keras_compress.quantizers.model import activation_quantizer, quantize_model
from keras_compress.quantizers.placement import PlacePoints
from keras_compress.report.bit_costs import AverageBits, Bops, input_points, macs_of_layers, weights_in
from keras_compress.report.tables import cell_text, new_table
from keras_compress.tflite.storage import current_storage

if TYPE_CHECKING:
    from rich.table import Table

# Conversions of a chosen model whose file is larger than was predicted, and then chosen anew.
_TRIES = 3
# Means over all positions: the device has 8 bits for them at no cost, and few levels would leave little of a mean.
_BITS_OF_MEANS = 8
_LEFT = 8


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
        sensitivity: What the choice was made by.
    """

    model: keras.Model
    choices: tuple[BitChoice, ...]
    costs: Mapping[str, float]
    limits: Mapping[str, float]
    predicted: Mapping[str, float]
    convert_options: Mapping[str, str]
    sensitivity: BitSensitivity

    @property
    def rules(self) -> list[dict[str, Any]]:
        """The weights' bits as rules of `quantize_model` and its like."""
        weights = [each for each in self.choices if each.kind == "weights"]
        return [{"layers": f"re:^{re.escape(each.name)}$", "weights": f"int{each.bits}"} for each in weights]

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines; `print` shows the table."""
        rows = [(name, f"{value:,.10g} of at most {self.limits[name]:,.10g}") for name, value in self.costs.items()]
        weights = [f"{each.name} {each.bits}" for each in self.choices if each.kind == "weights"]
        return f"MixedPrecision of {self.model.name!r}", [*rows, ("bits of weights", names(weights, ".choices"))]

    def table(self) -> Table:
        """Bits and predicted loss of each part, as a rich table."""
        table = new_table("Mixed precision")
        table.add_column("part", overflow="fold")
        for heading in ("weights", "activations", "predicted loss"):
            table.add_column(heading, justify="right")
        for each in self.choices:
            columns = [str(each.bits) if each.kind == kind else "" for kind in ("weights", "activations")]
            table.add_row(cell_text(each.name), *columns, f"{each.loss:.3g}")
        for name, value in self.costs.items():
            table.add_row(cell_text(name), f"{value:,.10g}", "", f"at most {self.limits[name]:,.10g}")
        return table

    def __str__(self) -> str:
        return text_of(self.table())


@shown("mixed precision")
@global_state_kept()
def mixed_precision(
    model: keras.Model,
    data: Any,
    budget: Budget | Mapping[Any, float],
    *,
    weights: Sequence[int] = (2, 4, 8),
    activations: Sequence[int] = (8,),
    method: str = "sqnr",
    loss: Any = None,
    sensitivity: BitSensitivity | None = None,
    solver: str = "milp",
    filters: Selector | None = None,
    target: str = "litert",
    weights_storage: str = "int4",
) -> MixedPrecision:
    """Quantize a model with bits chosen layer by layer: the least sum of losses whose costs a budget allows.

    Each part's loss at each width is measured alone (`sensitivity(of="bits")`); the choice is an integer program.

    Args:
        model: Built float model; it is not changed.
        data: `x`, `(x, y)`, or batches of them that can be gone through more than once: ranges, and sensitivities.
        budget: Limits of `bytes` (of the int8 file that `convert` writes for the target, its packed weights counted
            as they are stored; a fraction is of the float32 file, or of that of `kc.FileBytes(...)`), `bops` (bit
            operations of a sample; a fraction is of the float model's), `average_bits` (of a weight). All are kept.
        weights: Widths that weights may have, 2 to 8.
        activations: Widths that activations may have, 2 to 8. A file has 8 bits for each; fewer are levels left unused,
            which bit operations count. Means over all positions keep 8.
        method: Of `sensitivity`: `"sqnr"`, `"accuracy"` or `"hessian"`; the last two need targets.
        loss: For `"hessian"`.
        sensitivity: What was measured before, at these widths (and 8 for activations).
        solver: `"milp"`; `"greedy"` and `"uniform"` (one width for all weights, one for all activations) are baselines.
        filters: Layers whose weights are chosen; those of others get 8 bits.
        target: Of the file whose bytes count.
        weights_storage: Likewise: `"int4"`, or another of `kc.convert`.

    Returns:
        The model, and what was chosen and measured.

    Raises:
        ValueError: For a budget that no choice keeps (`bit_choice.InfeasibleError`, which names the nearest that one
            does), a cost that bits do not change in a known way, widths out of range, or a model that is quantized.

    **Reference**: Dong et al., "HAWQ" (2019) and "HAWQ-V2" (2020); Yao et al., "HAWQ-V3: Dyadic neural network
    quantization" (2021): the integer program.
    """
    weights, activations = _widths(weights, "weights"), _widths(activations, "activations")
    if solver not in SOLVERS:
        raise ValueError(f"Expected `solver` out of {sorted(SOLVERS)}. Received: solver={solver!r}")
    limits = _limits(budget)
    examples, method = checked_examples(model, data, loss, "sqnr" if sensitivity else method)
    probe = BitProbe(model, examples)
    found = sensitivity or scanned(probe, examples, method, sorted({*weights, *activations, _LEFT}), filters, 0)
    chosen = list(settings_by_path(candidates(probe.model, quiet=True), {}, filters))
    step("choosing")
    files = Files(target, current_storage(weights_storage), lambda: (inputs for inputs, _ in probe.batches))
    plan = _Plan(model, probe, _items(found, chosen, probe, weights, activations), files)
    costs = [plan.cost(name, limit) for name, limit in limits]
    choice, made, costs, content_bytes = plan.within(SOLVERS[solver], costs)
    measured = {cost.name: float(content_bytes) if cost.name == "bytes" else cost.of(choice) for cost in costs}
    return MixedPrecision(
        made,
        tuple(
            BitChoice(item.name, item.kind, bits, item.losses[bits])
            for item, bits in zip(plan.items, choice, strict=True)
        ),
        measured,
        {cost.name: cost.most for cost in costs},
        {cost.name: plan.predicted(cost.name, choice) for cost in costs},
        {"target": target, "weights_storage": weights_storage},
        found,
    )


def _widths(bits: Sequence[int], what: str) -> tuple[int, ...]:
    found = checked_bits(bits)
    if found[-1] > _LEFT:
        why = "int8 has no more" if what == "weights" else "an int8 file has no wider ones beside it; `mode='16x8'` has"
        raise ValueError(f"Expected `{what}` of 2 to 8 bits: {why}. Received: {what}={tuple(bits)}")
    return found


def _limits(budget: Budget | Mapping[Any, float]) -> list[tuple[str, Limit]]:
    """The limits by name.

    Raises:
        ValueError: For another cost, or one twice.
    """
    known = {FileBytes: "bytes", Bops: "bops", AverageBits: "average_bits"}
    found: dict[str, Limit] = {}
    for limit in Budget.of(budget):
        name = next((name for kind, name in known.items() if isinstance(limit.cost, kind)), None)
        if name is None or name in found:
            raise ValueError(
                f"Expected a budget of {', '.join(known.values())}, each once: what bits change in a known way. "
                f"Received: {limit}"
            )
        found[name] = limit
    return list(found.items())


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
    wide = tuple(b for b in activations if b >= _BITS_OF_MEANS) or (_BITS_OF_MEANS,)
    return items + [_item(root, "activations", of_points, wide if root in means else activations) for root in roots]


def _item(name: str, kind: str, losses: Mapping[str, Mapping[int, float]], widths: Sequence[int]) -> Item:
    known = losses.get(name, {})
    missing = [width for width in widths if width not in known]
    if missing:
        raise ValueError(
            f"Expected a sensitivity of all parts at all widths. Received: none of the {kind} of {name!r} at {missing}"
        )
    return Item(name, {width: known[width] for width in widths}, kind)


class _Plan:
    """Parts of one model, what each of their choices costs, and the model that a choice makes."""

    def __init__(self, model: keras.Model, probe: BitProbe, items: Sequence[Item], files: Files) -> None:
        self.items = list(items)
        self._model, self._probe = model, probe
        self._files = files
        self._weights = {item.name: n for n, item in enumerate(items) if item.kind == "weights"}
        self._points = {item.name: n for n, item in enumerate(items) if item.kind == "activations"}
        self._counted: dict[str, LinearCost] = {}

    def cost(self, name: str, limit: Limit) -> LinearCost:
        """A limit as a sum over the parts."""
        made = {"bytes": self._bytes, "bops": self._bops, "average_bits": self._average}[name]()
        most = limit.most * float(limit.cost.whole(self._model)) if limit.is_fraction else limit.most
        self._counted[name] = replace(made, name=name, most=most)
        return self._counted[name]

    def predicted(self, name: str, choice: Choice) -> float:
        """A cost as it was counted before anything was chosen."""
        return self._counted[name].of(choice)

    def within(self, solve: Any, costs: Sequence[LinearCost]) -> tuple[Choice, keras.Model, list[LinearCost], int]:
        """The choice, its model and the bytes of its file, which are within their limit.

        Few-bit activations take operators of their own, and channels of few bits may be all zeros: where the file is
        larger than was counted, the difference is added and the choice made anew. Where it is counted that none fits,
        the nearest is written before that is said: gaps between buffers depend on all of them.
        """
        costs = list(costs)
        index = next((n for n, cost in enumerate(costs) if cost.name == "bytes"), None)
        for _ in range(_TRIES):
            try:
                choice, refused = solve(self.items, costs), False
            except InfeasibleError as error:
                choice, refused = error.nearest, True
                if any(cost.of(choice) > cost.most for cost in costs if cost.name != "bytes"):
                    raise
            made = self.quantized(choice)
            size = 0 if index is None else len(self._files.of(made))
            most = np.inf if index is None else costs[index].most
            if index is None or size <= most:
                return choice, made, costs, size
            costs[index] = moved(costs[index], size - costs[index].of(choice))
            if refused:
                raise infeasible(self.items, costs)
        raise InfeasibleError(
            f"Expected a file within the budget after {_TRIES} conversions. "
            f"Received: bytes <= {most:,.10g}; the nearest that was written: bytes {size:,}",
            choice,
        )

    def quantized(self, choice: Choice) -> keras.Model:
        """The model with these bits, and with the ranges of the data."""
        bits = {name: choice[n] for name, n in self._weights.items()}
        rules = [{"layers": f"re:^{re.escape(path)}$", "weights": f"int{each}"} for path, each in bits.items()]
        made = quantize_model(self._model, weights="int8", activations=None, rules=rules)
        if not graph.is_graph(made):
            return made
        of_points = {name: choice[n] for name, n in self._points.items()}
        made = PlacePoints(lambda root, place: _range(of_points[root], place)).place(made)
        known = {_path(self._probe.model, site.layer): n for n, site in enumerate(self._probe.sites)}
        for path, layer in graph.walk(made):
            if isinstance(layer, QuantizeActivation) and path in known:
                layer.quantizer.set_range(*map(float, self._probe.extremes[known[path]]))
        return made

    def _bytes(self) -> LinearCost:
        widths = sorted({width for n in self._weights.values() for width in self.items[n].losses} | {_LEFT})
        models = {width: self.quantized(self._uniform(width)) for width in widths}
        found = stored_bytes(models, list(self._weights), self._files)
        terms = {n: dict(found.weights[path]) for path, n in self._weights.items()}
        return LinearCost("bytes", np.inf, float(found.others), terms)

    def _uniform(self, width: int) -> Choice:
        return tuple(width if item.kind == "weights" else max(item.losses) for item in self.items)

    def _bops(self) -> LinearCost:
        points = input_points(self._probe.model)
        roots = {id(site.layer): site.root for site in self._probe.sites}
        constant, pairs = 0.0, {}
        terms: dict[int, dict[int, float]] = {}
        for path, _, macs in macs_of_layers(self._probe.model):
            root = roots.get(id(points.get(path)))
            weight = self._weights.get(path)
            point = self._points.get(root) if root is not None else None
            # A softmax's grid has 8 bits, as weights that are not chosen have.
            if weight is not None and point is not None:
                pairs[weight, point] = float(macs)
            elif (number := point if weight is None else weight) is not None:
                before = terms.get(number, {})
                terms[number] = {w: before.get(w, 0.0) + float(macs * w * _LEFT) for w in self.items[number].losses}
            else:
                constant += float(macs * _LEFT * _LEFT)
        return LinearCost("bops", np.inf, constant, terms, pairs)

    def _average(self) -> LinearCost:
        layers = {path: weights_in(layer) for path, layer in candidates(self._probe.model, quiet=True)}
        whole = max(sum(layers.values()), 1)
        terms = {
            n: {width: layers[path] * width / whole for width in self.items[n].losses}
            for path, n in self._weights.items()
        }
        left = sum(size * _LEFT / whole for path, size in layers.items() if path not in self._weights)
        return LinearCost("average_bits", np.inf, left, terms)


def _range(bits: int, place: Place) -> Any:
    return activation_quantizer(f"int{max(bits, _BITS_OF_MEANS) if place is Place.MEAN else bits}")


def _path(model: keras.Model, layer: keras.layers.Layer) -> str:
    return next(path for path, each in graph.walk(model) if each is layer)
