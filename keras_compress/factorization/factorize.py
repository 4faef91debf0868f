"""`factorize`: layers with large weights become plain layers with small ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.core.budget import Budget
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.history import keep
from keras_compress.core.progress import ProgressLine
from keras_compress.core.registry import entries, lookup, register
from keras_compress.core.selection import Selector, settings_by_path
from keras_compress.core.slots import slots_of
from keras_compress.data.batches import first_samples
from keras_compress.data.samples import LARGEST_BATCH, cut
from keras_compress.factorization.choice import Choice, Chosen
from keras_compress.factorization.record import FactorizationRecord, FactorizedLayer
from keras_compress.factorization.scheme import Array, Factors, Option, Place, Rank, Scheme
from keras_compress.graph import graph as keras_graph
from keras_compress.graph.model import LayerCopies, check_model, copied
from keras_compress.post_training.as_matrix import AsMatrix, as_matrix, hessian
from keras_compress.structured.hashing import refuse_transforms
from keras_compress.structured.opened import opened
from keras_compress.structured.unit_places import all_nodes

# Samples that tell what layers read.
SAMPLES = 256
# A Gram matrix with more rows than this takes longer to make than to do without.
_LARGEST_GRAM = 4608
EVIDENCE = "evbmf"


@register("entry_point")
@global_state_kept()
def factorize(
    model: keras.Model,
    method: str = "auto",
    rank: int | float | str | Sequence[int] | None = None,
    *,
    target: Budget | Mapping[Any, float] | None = None,
    data: Any = None,
    multiple: int = 8,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
) -> keras.Model:
    """Replace layers by two or three plain layers in a row, of low rank, that compute nearly the same.

    Args:
        model: Functional, Sequential or subclassed model without transforms in training.
        method: `"svd"`, `"spatial"`, `"tucker"`, `"cp"`, `"tensor_train"`, or `"auto"`: of the first three what loses
            the least at each layer.
        rank: The rank of every layer (a number >= 1, or one for each side in Tucker-2), the share of the energy to keep
            (in (0, 1)), or `"evbmf"`, what is more than noise in each weight. In place of a target.
        target: What the model may cost, a `kc.Budget` or mapping; `{"macs": 0.5}` where there is no rank either. Each
            layer gives up what costs it least.
        data: Representative inputs, see `kc.convert`: errors are then those of the layers' outputs on them, where
            `"svd"` is used; without data those of the weights.
        multiple: Ranks are multiples of it, as kernels like them; of layers with less room, any. Not of ranks given.
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}`, or with `"method"` or `"rank"`.

    Returns:
        A new model, not compiled: train it on, quantize it, convert it. The last layer of each row has the name, bias
        and activation of the layer that it stands for; the others are called after it. `kc.summary` says what was done.
        Prune channels before, weights after.

    Raises:
        ValueError: For an unknown method, a rank below 1 or above the full one, both a rank and a target, a target that
            cannot be kept, data that do not fit, or a model without a layer that can be factorized.

    **Reference**: see each method's class in `keras_compress.factorization`.
    """
    check_model(model)
    refuse_transforms(model)
    if rank is not None and target is not None:
        raise ValueError(f"Expected a `rank` or a `target`. Received: both, rank={rank}, target={target}")
    if multiple < 1:
        raise ValueError(f"Expected `multiple` >= 1. Received: multiple={multiple}")
    model = opened(model)
    places = _places(model)
    listed = [(path, place.layer) for path, place in places.items()]
    settings = settings_by_path(listed, {"method": method, "rank": rank}, filters, rules)
    work = _Work.of(model, {path: places[path] for path in places if path in settings}, settings, data)
    if rank is None and target is None:
        target = {"macs": 0.5}
    own = {path: each["rank"] for path, each in settings.items() if each["rank"] is not None}
    if target is None:
        return work.built(work.at(own, multiple))
    fixed = work.at(own, multiple)
    menus = {path: [fixed[path]] if path in own else work.menu(path, multiple) for path in work.factors}
    return work.built(Choice(model, Budget.of(target), menus, work.rebuilt).found())


def _places(model: keras.Model) -> dict[str, Place]:
    """Path -> place, of all layers with weights that a sample runs."""
    found: dict[int, Place] = {}
    counts: Counter[int] = Counter()
    for node in all_nodes(model):
        layer = node.operation
        if isinstance(layer, keras.layers.Layer) and slots_of(layer) and node.input_tensors:
            counts[id(layer)] += 1
            found.setdefault(id(layer), Place(layer, tuple(node.input_tensors[0].shape), tuple(node.outputs[0].shape)))
    return {
        path: replace(found[id(layer)], calls=counts[id(layer)])
        for path, layer in keras_graph.walk(model)
        if id(layer) in found
    }


def _schemes(method: str) -> list[Scheme]:
    if method == "auto":
        return [scheme() for scheme in entries("factorization").values() if scheme.chosen_by_itself]
    return [lookup("factorization", method)()]


@dataclass(frozen=True)
class _Work:
    """What is factorized.

    Attributes:
        model: The model as it is.
        places: Path -> place, of the layers that were asked for.
        factors: Path -> name of a way -> its factors, of those that can be factorized.
        left: Path -> why not, of the others.
    """

    model: keras.Model
    places: Mapping[str, Place]
    factors: Mapping[str, Mapping[str, Factors]]
    left: Mapping[str, str]

    @classmethod
    def of(
        cls, model: keras.Model, places: Mapping[str, Place], settings: Mapping[str, Mapping[str, Any]], data: Any
    ) -> _Work:
        ways = {path: _schemes(settings[path]["method"]) for path in places}
        fitting = {
            path: [scheme for scheme in schemes if scheme.refusal(places[path].layer) is None]
            for path, schemes in ways.items()
        }
        left = {
            path: str(ways[path][0].refusal(places[path].layer)) for path, schemes in fitting.items() if not schemes
        }
        chosen = {path: schemes for path, schemes in fitting.items() if schemes}
        if not chosen:
            reasons = "; ".join(f"{path}: {reason}" for path, reason in list(left.items())[:5])
            raise ValueError(
                f"Expected a model with a layer that can be factorized. Received: {model.name!r} ({reasons})"
            )
        aware = [path for path, schemes in chosen.items() if any(scheme.data_aware for scheme in schemes)]
        grams = {} if data is None else _grams(model, {path: places[path] for path in aware}, data)
        factors: dict[str, dict[str, Factors]] = {}
        with ProgressLine("decomposing", len(chosen)) as line:
            for path, schemes in chosen.items():
                factors[path] = {s.name: s.factors(places[path], grams.get(path)) for s in schemes}
                line.advance()
        return cls(model, places, factors, left)

    def as_is(self, path: str) -> Option:
        """The layer as it is."""
        place = self.places[path]
        size = int(np.prod(place.layer.kernel.shape))
        return Option("", (), 0.0, size * place.products, size)

    def menu(self, path: str, multiple: int) -> list[Option]:
        """The layer as it is, then all that is smaller in something."""
        whole = self.as_is(path)
        options = [each.option(rank) for each in self.factors[path].values() for rank in each.ranks(multiple)]
        return [whole, *(o for o in options if o.macs < whole.macs or o.params < whole.params)]

    def at(self, ranks: Mapping[str, Any], multiple: int) -> dict[str, Option]:
        """What is chosen where ranks are given: the way that loses least, or where a share is given the smallest."""
        found = {}
        for path, rank in ranks.items():
            if path in self.factors:
                options = [each.option(_rank_of(each, rank, path, multiple)) for each in self.factors[path].values()]
                by_error = not isinstance(rank, (float, str))
                found[path] = min(options, key=lambda o: (o.error, o.macs) if by_error else (o.macs, o.error))
        return found

    def built(self, chosen: Chosen) -> keras.Model:
        """The model of a choice, with its record."""
        done, left = [], dict(self.left)
        for path, option in chosen.items():
            whole = self.as_is(path)
            if option.scheme and option.macs >= whole.macs and option.params >= whole.params:
                left[path] = f"{option.scheme} of rank {option.rank} would cost more than the layer"
            elif option.scheme:
                full = self.factors[path][option.scheme].full
                macs = whole.macs, option.macs
                done.append(FactorizedLayer(path, option.scheme, option.rank, full, option.error, macs))
            else:
                left[path] = "the target is kept without it"
        kept = {each.path: chosen[each.path] for each in done}
        return keep(self.rebuilt(kept), FactorizationRecord(tuple(done), tuple(left.items())))

    def rebuilt(self, chosen: Chosen) -> keras.Model:
        """The model of a choice."""
        rows: dict[int, Row] = {}
        for path, option in chosen.items():
            if option.scheme:
                place = self.places[path]
                rows[id(place.layer)] = Row(place.layer, self.factors[path][option.scheme], option.rank)

        def visit(call: keras_graph.Call) -> Any:
            row = rows.get(id(call.operation))
            return copies(call) if row is None else row(call.args[0])

        copies = LayerCopies(visit=visit, inside=False)
        made: keras.Model = copied(self.model, copies)
        return made


def _rank_of(factors: Factors, rank: Any, path: str, multiple: int) -> Rank:
    """The rank that a user gave, checked."""
    if rank == EVIDENCE:
        return factors.of_evidence()
    if isinstance(rank, float) and 0.0 < rank < 1.0:
        return factors.of_energy(rank, multiple)
    given = tuple(rank) if isinstance(rank, (list, tuple)) else (rank,) * len(factors.full)
    whole = all(isinstance(each, (int, np.integer)) and not isinstance(each, bool) for each in given)
    fits = len(given) == len(factors.full) and whole and all(map(lambda r, f: 1 <= r <= f, given, factors.full))
    if not fits:
        full = factors.full[0] if len(factors.full) == 1 else factors.full
        raise ValueError(
            f"Expected `rank` as a number from 1 to {full}, the full rank of layer {path!r}, a share of the energy in "
            f"(0, 1), or {EVIDENCE!r}. Received: rank={rank!r}"
        )
    return tuple(int(each) for each in given)


class Row:
    """The layers in the place of one."""

    def __init__(self, layer: Any, factors: Factors, rank: Rank) -> None:
        self._bias = layer.bias if getattr(layer, "bias", None) is not None else None
        self._layers = factors.layers(rank)
        self._arrays = factors.arrays(rank)
        self._filled = False

    def __call__(self, tensor: Any) -> Any:
        for layer in self._layers:
            tensor = layer(tensor)
        if not self._filled:
            self._fill()
        return tensor

    def _fill(self) -> None:
        weighted = [layer for layer in self._layers if getattr(layer, "kernel", None) is not None]
        for layer, array in zip(weighted, self._arrays, strict=True):
            layer.kernel.assign(array.reshape(layer.kernel.shape))
        if self._bias is not None:
            bias = weighted[-1].bias
            bias.assign(keras.ops.reshape(self._bias, bias.shape))
        self._filled = True


def _grams(model: keras.Model, places: Mapping[str, Place], data: Any) -> dict[str, Array]:
    """Path -> `X^T X` over the first samples, of layers whose matrices are not too large."""
    forms: dict[int, tuple[str, AsMatrix]] = {}
    for path, place in places.items():
        form = as_matrix(place.layer)
        if form is not None and form.to_matrix(place.kernel).shape[1] <= _LARGEST_GRAM:
            forms[id(place.layer)] = path, form
    found: dict[str, Array] = {}

    def visit(call: keras_graph.Call) -> Any:
        if id(call.operation) in forms:
            path, form = forms[id(call.operation)]
            gram = len(call.args[0]) * hessian(form, call.args[0])
            found[path] = found[path] + gram if path in found else gram
        return call.run()

    for arrays in cut(first_samples(data, model, SAMPLES), LARGEST_BATCH):
        tensors = [tf.convert_to_tensor(a, t.dtype) for a, t in zip(arrays, model.inputs, strict=True)]
        keras_graph.Rebuild(visit, flat=True).run(model, tensors, "", 0)
    return found
