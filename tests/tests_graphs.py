"""Graphs of Keras layers as small data: what is drawn, built, shrunk and printed. `tests_graph_strategies` draws them.

A description is a list of nodes, each a dict; `of` numbers the nodes whose tensors it reads.

- `{"input": (8, 8, 3), "scale": 1.0, "shift": 0.0}` or `{"input": (5,), "rows": 10}`: floats, or row numbers.
- `{"layer": "Conv2D", "with": {...}, "of": [0]}`: a Keras layer; wrappers have the wrapped node under `around`.
- `{"call": "times", "with": {...}, "of": [0, 1]}`: one of `FUNCTIONS`.
- `{"again": 1, "of": [2]}`: the layer or model of node 1, called once more.
- `{"model": [...], "of": [0]}`: a nested model.

What nobody reads is an output, and so is a node with `"out": True`. `"seed"` in the first node seeds weights and data.
"""

from __future__ import annotations

import pprint
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

Node = dict[str, Any]
Description = list[Node]
Shape = tuple[int, ...]
Array = np.ndarray[Any, Any]
RECURRENT = ("LSTM", "GRU", "SimpleRNN", "RNN")
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": ops.abs,
    "square": lambda x: x**2,
    "exp": ops.exp,
    "sin": ops.sin,
    "sqrt": lambda x: ops.sqrt(ops.relu(x)),
    "clip": lambda x, low, high: ops.clip(x, low, high),
    "exact_gelu": lambda x: ops.gelu(x, approximate=False),
    "mean": lambda x, axis: ops.mean(x, axis=axis, keepdims=True),
    "sum": lambda x, axis: ops.sum(x, axis=axis, keepdims=True),
    "max": lambda x, axis: ops.max(x, axis=axis, keepdims=True),
    "where": lambda x, factor: ops.where(x > 0, x, factor * x),
    "scaled": lambda x, factor, shift: x * factor + shift,
    "divided": lambda x, by: x / by,
    "from": lambda x, number: number - x,
    "offset": lambda x, low, high: x + np.linspace(low, high, x.shape[-1], dtype="float32"),
    "plus": lambda x, y: x + y,
    "minus": lambda x, y: x - y,
    "times": lambda x, y: x * y,
    "over": lambda x, y: x / (ops.relu(y) + 1.0),
    "maximum": ops.maximum,
    "minimum": ops.minimum,
    "concatenate": lambda *x, axis: ops.concatenate(x, axis=axis),
}
# Layers that take their inputs one by one, not as a list.
_APART = ("MultiHeadAttention", "GroupQueryAttention")


def operation_of(node: Node, number: int, unroll: bool = False) -> Any:
    """The layer, model or function of a node, with a name that tells the node."""
    if "call" in node:
        return lambda *x: FUNCTIONS[node["call"]](*x, **node.get("with", {}))
    if "model" in node:
        return _model(Built(node["model"], unroll=unroll), f"model_at_{number}")
    return _layer(node, f"{node['layer'].lower()}_at_{number}", unroll)


def _layer(node: Node, name: str | None, unroll: bool) -> Any:
    settings = dict(node.get("with", {}), **({"name": name} if name else {}))
    kind, around = node["layer"], node.get("around")
    if unroll and kind in RECURRENT:
        settings["unroll"] = True
    if kind == "RNN":
        cells = [_layer(cell, None, False) for cell in around]
        return layers.RNN(layers.StackedRNNCells(cells), **settings)
    inner = [] if around is None else [_layer(around, None, unroll)]
    return getattr(layers, kind)(*inner, **settings)


def call(node: Node, operation: Any, inputs: Sequence[Any]) -> Any:
    """The node's tensor."""
    if "call" in node or node.get("layer") in _APART:
        return operation(*inputs)
    made = operation(inputs[0] if len(inputs) == 1 else list(inputs))
    return made[0] if isinstance(made, list) else made


class Built:
    """A description's operations and tensors.

    Args:
        description: The graph.
        unroll: Unroll recurrent layers, for converters that take no loops.
        batch: Batch size of the inputs.
    """

    def __init__(self, description: Description, *, unroll: bool = False, batch: int | None = None) -> None:
        self.description = description
        self.operations: dict[int, Any] = {}
        self.tensors: list[Any] = []
        for number, node in enumerate(description):
            if "input" in node:
                dtype = "int32" if "rows" in node else "float32"
                self.tensors.append(keras.Input(node["input"], batch, dtype=dtype, name=f"x{number}"))
                continue
            first = node.get("again", number)
            made = self.operations.get(first) or operation_of(node, number, unroll)
            self.operations[number] = made
            self.tensors.append(self.run(number, self.tensors))

    def run(self, number: int, tensors: Sequence[Any]) -> Any:
        """The tensor of one node, from those of all before it."""
        node = self.description[number]
        first = self.description[node.get("again", number)]
        return call({**first, **node}, self.operations[number], [tensors[i] for i in node["of"]])


def inputs_of(description: Description) -> list[int]:
    """Numbers of the inputs."""
    return [number for number, node in enumerate(description) if "input" in node]


def outputs_of(description: Description) -> list[int]:
    """Numbers of the outputs."""
    read = {i for node in description for i in node.get("of", ())}
    return [n for n, node in enumerate(description) if "input" not in node and (n not in read or node.get("out"))]


def build(description: Description, *, unroll: bool = False, batch: int | None = None) -> keras.Model:
    """The model, with random weights from its seed: biases that are not 0, gammas of both signs, statistics."""
    model = _model(Built(description, unroll=unroll, batch=batch), "graph")
    randomize(model, description[0].get("seed", 0))
    return model


def _model(built: Built, name: str) -> keras.Model:
    inputs, outputs = inputs_of(built.description), outputs_of(built.description)
    ends = [[built.tensors[i] for i in numbers] for numbers in (inputs, outputs)]
    return keras.Model(*(end[0] if len(end) == 1 else end for end in ends), name=name)


def randomize(model: keras.Model, seed: int) -> None:
    """Give each weight values as training would, drawn from a seed and the weight's number."""
    for number, weight in enumerate(model.weights):
        if weight.dtype == "float32":
            rng = np.random.default_rng([seed, number])
            weight.assign(_values(weight.name, tuple(weight.shape), rng).astype(np.float32))


def _values(name: str, shape: Shape, rng: np.random.Generator) -> Array:
    if name in ("gamma", "scale"):
        return rng.uniform(0.5, 1.5, shape) * np.where(rng.random(shape) < 0.3, -1, 1)
    if name in ("bias", "beta", "moving_mean"):
        return rng.normal(0.0, 0.3, shape)
    if name == "moving_variance":
        return rng.uniform(0.3, 2.0, shape)
    if name == "alpha":
        return rng.uniform(-0.2, 0.5, shape)
    fan_in = 1 if name == "embeddings" else int(np.prod(shape[: 2 if "depthwise" in name else -1]))
    return rng.normal(size=shape) * np.sqrt(1.5 / max(fan_in, 1))


def data(description: Description, samples: int = 64, seed: int = 0) -> dict[str, Array]:
    """Seeded data for each input, by name."""
    found = {}
    for number in inputs_of(description):
        node = description[number]
        rng = np.random.default_rng([description[0].get("seed", 0), number, seed])
        shape = (samples, *node["input"])
        drawn = rng.normal(size=shape) if number % 2 == 0 else rng.uniform(-1.5, 1.5, shape)
        found[f"x{number}"] = (
            rng.integers(0, node["rows"], shape).astype(np.int32)
            if "rows" in node
            else (drawn * node.get("scale", 1.0) + node.get("shift", 0.0)).astype(np.float32)
        )
    return found


def names_of(description: Description) -> list[str]:
    """What a graph is made of: a name for each node but the inputs, those of nested models among them."""
    found: list[str] = []
    for node in description:
        if "model" in node:
            found += ["Model", *names_of(node["model"])]
        elif "input" not in node:
            around = node.get("around", ())
            inner = [around] if isinstance(around, Mapping) else around
            found += [node.get("layer") or node.get("call") or "again", *(each["layer"] for each in inner)]
    return found


def code(description: Description) -> str:
    """Python to paste into a file in `tests/`, or with `tests/` on the path."""
    text = pprint.pformat(description, width=116, sort_dicts=False)
    return f"from tests_graphs import build, data\n\ngraph = {text}\nmodel, x = build(graph), data(graph)\n"


@dataclass(frozen=True)
class _Cut:
    """Nodes that stay, and the inputs that take the place of some."""

    description: Description
    replaced: Mapping[int, Node]

    def ending_in(self, ends: Sequence[int]) -> Description:
        """The nodes that `ends` need, numbered anew."""
        needed, stack = set(), list(ends)
        while stack:
            number = stack.pop()
            if number not in needed:
                needed.add(number)
                node = self._node(number)
                stack += [*node.get("of", ()), *([node["again"]] if "again" in node else [])]
        places = {number: place for place, number in enumerate(sorted(needed))}
        made = [_renumbered(self._node(number), places) for number in sorted(needed)]
        made[0]["seed"] = self.description[0].get("seed", 0)
        return made

    def _node(self, number: int) -> Node:
        return self.replaced.get(number, self.description[number])


def _renumbered(node: Node, places: Mapping[int, int]) -> Node:
    made = {key: value for key, value in node.items() if key not in ("seed", "out")}
    if "of" in node:
        made["of"] = [places[i] for i in node["of"]]
    if "again" in node:
        made["again"] = places[node["again"]]
    return made


def smaller(description: Description) -> Iterator[Description]:
    """Simpler graphs, the smallest first: ends earlier, nodes replaced by inputs, settings left out."""
    inner = [n for n, node in enumerate(description) if "input" not in node]
    for number in inner:
        if len(inner) > 1:
            yield _Cut(description, {}).ending_in([number])
    ends = outputs_of(description)
    shapes = [tuple(tensor.shape[1:]) for tensor in Built(description).tensors]
    for number in reversed(inner):
        first = any(node.get("again") == number for node in description)
        if number not in ends and not first:
            yield _Cut(description, {number: {"input": shapes[number]}}).ending_in(ends)
    for number in inner:
        for key in description[number].get("with", {}):
            kept = {k: v for k, v in description[number]["with"].items() if k != key}
            yield [*description[:number], {**description[number], "with": kept}, *description[number + 1 :]]
    for number in inputs_of(description):
        plain = {k: v for k, v in description[number].items() if k not in ("scale", "shift")}
        if plain != description[number]:
            yield [*description[:number], plain, *description[number + 1 :]]


def smallest(description: Description, fails: Callable[[Description], bool], budget: int = 60) -> Description:
    """A graph that fails as this one does and cannot be made smaller, or not within `budget` trials."""
    trials = 0
    while True:
        for simpler in _valid(each for each in smaller(description) if each != description):
            trials += 1
            if trials > budget:
                return description
            if fails(simpler):
                description = simpler
                break
        else:
            return description


def _valid(candidates: Iterator[Description]) -> Iterator[Description]:
    """Those that Keras can build: settings depend on each other."""
    for candidate in candidates:
        try:
            Built(candidate)
        except Exception:  # noqa: S112 (whatever Keras says, this is no graph)
            continue
        yield candidate
