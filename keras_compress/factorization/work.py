"""What is factorized, and the models that come of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.core.history import keep
from keras_compress.core.progress import ProgressLine
from keras_compress.core.registry import entries, lookup
from keras_compress.core.slots import slots_of
from keras_compress.data.input_products import input_products
from keras_compress.factorization.cells import OF_STATES, cells_of
from keras_compress.factorization.choice import Chosen
from keras_compress.factorization.record import FactorizationRecord, FactorizedLayer
from keras_compress.factorization.scheme import Array, Factors, Option, Place, Rank, Scheme
from keras_compress.graph import graph as keras_graph
from keras_compress.graph.as_matrix import AsMatrix, as_matrix
from keras_compress.graph.model import LayerCopies, copied
from keras_compress.structured.unit_places import all_nodes

# Samples that tell what layers read.
SAMPLES = 256
# A Gram matrix with more rows than this takes longer to make than to do without.
_LARGEST_GRAM = 4608
EVIDENCE = "evbmf"


def places_of(model: keras.Model) -> dict[str, Place]:
    """Path -> place, of all layers with weights that a sample runs."""
    found: dict[int, Place] = {}
    counts: Counter[int] = Counter()
    shapes: dict[int, dict[tuple[int | None, ...], None]] = {}
    for node in all_nodes(model):
        layer = node.operation
        if isinstance(layer, keras.layers.Layer) and slots_of(layer) and node.input_tensors:
            counts[id(layer)] += 1
            shape = tuple(keras_graph.inputs_of(node)[0].shape)
            found.setdefault(id(layer), Place(layer, shape, tuple(node.outputs[0].shape)))
            shapes.setdefault(id(layer), {})[shape] = None
    return {
        path: replace(found[id(layer)], calls=counts[id(layer)], others=tuple(shapes[id(layer)])[1:])
        for path, layer in keras_graph.walk(model)
        if id(layer) in found
    }


@dataclass(frozen=True)
class Family:
    """Ways to replace layers that are chosen from together.

    Attributes:
        kind: Their kind in the registry.
        record: What tells of them.
        can: What a layer can be, for messages.
        what: What a budget is kept by, for messages.
    """

    kind: str = "factorization"
    record: type[FactorizationRecord] = FactorizationRecord
    can: str = "factorized"
    what: str = "low rank"

    def ways(self, method: Any) -> list[Scheme]:
        """Those that a user's method stands for.

        Raises:
            ValueError: For an unknown one.
        """
        known = entries(self.kind)
        if method == "auto":
            return [scheme() for scheme in known.values() if scheme.chosen_by_itself]
        if not isinstance(method, str):
            raise ValueError(f"Expected `method` out of {['auto', *sorted(known)]}. Received: method={method!r}")
        return [lookup(self.kind, method)()]


LOW_RANK = Family()


@dataclass(frozen=True)
class Work:
    """What is factorized.

    Attributes:
        model: The model as it is.
        places: Path -> place, of the layers that were asked for.
        factors: Path -> name of a way -> its factors, of those that can be factorized.
        left: Path -> why not, of the others.
        family: The ways that are chosen from.
    """

    model: keras.Model
    places: Mapping[str, Place]
    factors: Mapping[str, Mapping[str, Factors]]
    left: Mapping[str, str]
    family: Family = LOW_RANK

    @classmethod
    def of(
        cls,
        model: keras.Model,
        places: Mapping[str, Place],
        settings: Mapping[str, Mapping[str, Any]],
        data: Any,
        family: Family = LOW_RANK,
    ) -> Work:
        ways = {path: family.ways(settings[path]["method"]) for path in places}
        fitting = {
            path: [scheme for scheme in schemes if scheme.refusal_at(places[path]) is None]
            for path, schemes in ways.items()
        }
        left = {path: _reason(ways[path], places[path]) for path, schemes in fitting.items() if not schemes}
        chosen = {path: schemes for path, schemes in fitting.items() if schemes}
        if not chosen:
            reasons = "; ".join(f"{path}: {reason}" for path, reason in list(left.items())[:5])
            raise ValueError(
                f"Expected a model with a layer that can be {family.can}. Received: {model.name!r} ({reasons})"
            )
        aware = [path for path, schemes in chosen.items() if any(scheme.data_aware for scheme in schemes)]
        grams = {} if data is None else _grams(model, {path: places[path] for path in aware}, data)
        factors: dict[str, dict[str, Factors]] = {}
        with ProgressLine("decomposing", len(chosen)) as line:
            for path, schemes in chosen.items():
                factors[path] = {s.name: s.factors(places[path], grams.get(path)) for s in schemes}
                line.advance()
        return cls(model, places, factors, left, family)

    def as_is(self, path: str) -> Option:
        """The layer as it is."""
        place = self.places[path]
        return Option("", (), 0.0, place.size * place.products, place.size)

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
                left[path] = f"{self.family.record.told(option.scheme, option.rank)} would cost more than the layer"
            elif option.scheme:
                factors, macs = self.factors[path][option.scheme], (whole.macs, option.macs)
                error = factors.error(option.rank)
                done.append(FactorizedLayer(path, option.scheme, option.rank, factors.full, error, macs))
                if cells_of(self.places[path].layer):
                    left[f"{path}, its recurrent kernel"] = OF_STATES
            else:
                left[path] = "the target is kept without it"
        kept = {each.path: chosen[each.path] for each in done}
        return keep(self.rebuilt(kept), self.family.record(tuple(done), tuple(left.items())))

    def rebuilt(self, chosen: Chosen) -> keras.Model:
        """The model of a choice."""
        rows: dict[int, Row] = {}
        for path, option in chosen.items():
            if option.scheme:
                place = self.places[path]
                rows[id(place.layer)] = Row(self.factors[path][option.scheme], option.rank)

        def visit(call: keras_graph.Call) -> Any:
            row = rows.get(id(call.operation))
            return copies(call) if row is None else row(call.args[0], call.args[1:], call.kwargs)

        copies = LayerCopies(visit=visit, inside=False)
        made: keras.Model = copied(self.model, copies)
        return made


def _reason(schemes: Sequence[Scheme], place: Place) -> str:
    """Why none of some ways fits a layer: of several, what the one says that takes the most kinds of layers."""
    widest = next((scheme for scheme in schemes if scheme.data_aware), schemes[0])
    return str(widest.refusal_at(place))


def _form(layer: Any) -> AsMatrix | None:
    cells = cells_of(layer)
    if not cells:
        return as_matrix(layer)
    inputs = int(cells[0].kernel.shape[0])
    return AsMatrix(
        lambda values: tf.reshape(values, [1, -1, inputs]), lambda kernel: kernel[np.newaxis], lambda matrix: matrix[0]
    )


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

    def __init__(self, factors: Factors, rank: Rank) -> None:
        self._factors, self._rank = factors, rank
        self._layers = factors.layers(rank)
        self._filled = False

    def __call__(self, tensor: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        *first, last = self._layers
        for layer in first:
            tensor = layer(tensor)
        result = last(tensor, *args, **(kwargs or {})) if self._factors.last_takes_arguments else last(tensor)
        if not self._filled:
            self._factors.fill(self._layers, self._rank)
            _check_finite(self._layers)
            self._filled = True
        return result


def _check_finite(layers: Sequence[Any]) -> None:
    for variable in (each for layer in layers for each in layer.weights):
        if not np.isfinite(keras.ops.convert_to_numpy(variable)).all():
            raise ValueError(
                f"Expected weights and data that give finite factors. Received: NaN or infinity in {variable.path}"
            )


def _grams(model: keras.Model, places: Mapping[str, Place], data: Any) -> dict[str, Array]:
    """Path -> `X^T X` over the first samples, of layers whose matrices are not too large."""
    forms: dict[int, tuple[str, AsMatrix]] = {}
    for path, place in places.items():
        form = _form(place.layer)
        if form is not None and form.to_matrix(place.kernel).shape[1] <= _LARGEST_GRAM:
            forms[id(place.layer)] = path, form
    return input_products(model, forms, data, SAMPLES)
