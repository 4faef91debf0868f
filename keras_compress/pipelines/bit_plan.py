"""Parts of one model, what each choice of their bits costs, and the model that a choice makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from keras_compress.core.budget import Limit
from keras_compress.core.selection import exactly
from keras_compress.graph import graph
from keras_compress.graph.model import candidates
from keras_compress.pipelines.bit_choice import Choice, InfeasibleError, Item, LinearCost, infeasible, moved
from keras_compress.pipelines.bit_probe import BitProbe
from keras_compress.pipelines.file_costs import FILE_COSTS, FileCost, spread
from keras_compress.pipelines.stored_bytes import Files, stored_bytes
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.quantizers.kinds import Place
from keras_compress.quantizers.model import activation_quantizer, quantize_model
from keras_compress.quantizers.placement import PlacePoints
from keras_compress.report.bit_costs import input_points, macs_of_layers, weights_in

# Conversions of a chosen model whose file costs more than was predicted, and then chosen anew.
TRIES = 4
# Means over all positions: the device has 8 bits for them at no cost, and few levels would leave little of a mean.
BITS_OF_MEANS = 8
LEFT = 8
# Of a measured cost: times of one file scatter.
_CLOSE = {"latency": 1.02}
Solver = Callable[[Sequence[Item], Sequence[LinearCost]], Choice]


class Plan:
    """Parts of a model and their costs.

    Args:
        model: Float model.
        probe: Its copy with switches.
        items: The parts.
        files: How files are written.
        limits: Name of a cost -> its limit.

    Attributes:
        costs: The limits as sums over the parts, in their order.
    """

    def __init__(
        self, model: keras.Model, probe: BitProbe, items: Sequence[Item], files: Files, limits: Mapping[str, Limit]
    ) -> None:
        self.items = list(items)
        self._model, self._probe = model, probe
        self._files = files
        self._weights = {item.name: n for n, item in enumerate(items) if item.kind == "weights"}
        self._points = {item.name: n for n, item in enumerate(items) if item.kind == "activations"}
        self._read = {n: FileCost(limit, model, files.target) for n, limit in limits.items() if n in FILE_COSTS}
        self._contents = self._of_each_width() if self._read else {}
        self.costs = [self._cost(name, limit) for name, limit in limits.items()]

    def within(self, solve: Solver) -> tuple[Choice, keras.Model, dict[str, float]]:
        """The choice, its model and its costs, which are within their limits.

        Few-bit activations take operators of their own, and channels of few bits may be all zeros: where a file costs
        more than was counted, the difference is added and the choice made anew. Where it is counted that none fits, the
        nearest is written before that is said: gaps between buffers depend on all of them.

        Raises:
            InfeasibleError: Where nothing is within them.
        """
        costs, values = list(self.costs), {}
        for _ in range(TRIES):
            try:
                choice, refused = solve(self.items, costs), False
            except InfeasibleError as error:
                choice, refused = error.nearest, True
                if any(cost.of(choice) > cost.most for cost in costs if cost.name not in self._read):
                    raise
            made = self.quantized(choice)
            values = self._values(choice, made)
            over = [n for n, cost in enumerate(self.costs) if values[cost.name] > cost.most * _CLOSE.get(cost.name, 1)]
            if not over:
                return choice, made, values
            for n in over:
                costs[n] = moved(costs[n], values[costs[n].name] - costs[n].of(choice))
            if refused:
                raise infeasible(self.items, costs)
        wanted = ", ".join(f"{cost.name} <= {cost.most:,.10g}" for cost in costs)
        reached = ", ".join(f"{cost.name} {values[cost.name]:,.10g}" for cost in costs)
        raise InfeasibleError(
            f"Expected a file within the budget after {TRIES} conversions. "
            f"Received: {wanted}; the nearest that was written: {reached}",
            choice,
        )

    def quantized(self, choice: Choice) -> keras.Model:
        """The model with these bits, and with the ranges of the data."""
        bits = {name: choice[n] for name, n in self._weights.items()}
        rules = [{"layers": exactly(path), "weights": f"int{each}"} for path, each in bits.items()]
        made = quantize_model(self._model, weights="int8", activations=None, rules=rules)
        if not graph.is_graph(made):
            return made
        of_points = {name: choice[n] for name, n in self._points.items()}
        made = PlacePoints(lambda root, place: _range(of_points[root], place)).place(made)
        sites = {id(site.layer): n for n, site in enumerate(self._probe.sites)}
        known = {path: sites[id(each)] for path, each in graph.walk(self._probe.model) if id(each) in sites}
        for path, layer in graph.walk(made):
            if isinstance(layer, QuantizeActivation) and path in known:
                layer.quantizer.set_range(*map(float, self._probe.extremes[known[path]]))
        return made

    def _values(self, choice: Choice, made: keras.Model) -> dict[str, float]:
        content = self._files.of(made) if self._read else b""
        found = {cost.name: cost.of(choice) for cost in self.costs}
        return found | {name: cost.of({0: content})[0] for name, cost in self._read.items()}

    def _cost(self, name: str, limit: Limit) -> LinearCost:
        makers = {"bytes": self._bytes, "bops": self._bops, "average_bits": self._average}
        made = makers[name]() if name in makers else self._measured(name)
        if name in self._read:
            return replace(made, most=self._read[name].most)
        return replace(
            made, most=limit.most * float(limit.cost.whole(self._model)) if limit.is_fraction else limit.most
        )

    def _of_each_width(self) -> dict[int, bytes]:
        """The file with one width for all weights, and 8 bits for activations."""
        widths = sorted({width for n in self._weights.values() for width in self.items[n].losses} | {LEFT})
        return {width: self._files.of(self.quantized(self._uniform(width))) for width in widths}

    def _uniform(self, width: int) -> Choice:
        def of_points(item: Item) -> int:
            return LEFT if LEFT in item.losses else max(item.losses)

        return tuple(width if item.kind == "weights" else of_points(item) for item in self.items)

    def _bytes(self) -> LinearCost:
        found = stored_bytes(self._contents, list(self._weights))
        terms = {n: dict(found.weights[path]) for path, n in self._weights.items()}
        return LinearCost("bytes", np.inf, float(found.others), terms)

    def _measured(self, name: str) -> LinearCost:
        """Latency by multiply-accumulates of packed layers, the arena by their weights."""
        if name == "latency":
            sizes = {path: macs for path, _, macs in macs_of_layers(self._probe.model)}
        else:
            sizes = {path: weights_in(layer) for path, layer in candidates(self._probe.model, quiet=True)}
        own = {path: size for path, size in sizes.items() if path in self._weights}
        found = spread(self._read[name].of(self._contents), self._contents, own)
        return LinearCost(name, np.inf, found.constant, {self._weights[path]: by for path, by in found.terms.items()})

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
                terms[number] = {w: before.get(w, 0.0) + float(macs * w * LEFT) for w in self.items[number].losses}
            else:
                constant += float(macs * LEFT * LEFT)
        return LinearCost("bops", np.inf, constant, terms, pairs)

    def _average(self) -> LinearCost:
        layers = {path: weights_in(layer) for path, layer in candidates(self._probe.model, quiet=True)}
        whole = max(sum(layers.values()), 1)
        terms = {
            n: {width: layers[path] * width / whole for width in self.items[n].losses}
            for path, n in self._weights.items()
        }
        left = sum(size * LEFT / whole for path, size in layers.items() if path not in self._weights)
        return LinearCost("average_bits", np.inf, left, terms)


def _range(bits: int, place: Place) -> Any:
    return activation_quantizer(f"int{max(bits, BITS_OF_MEANS) if place is Place.MEAN else bits}")
