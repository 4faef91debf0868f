"""Hypothesis strategies that draw graphs (`tests_graphs`) of the kinds in `tests_graph_kinds`."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import hypothesis
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers
from tests_graph_kinds import GROUPS, KINDS, Draw, Kind, dense, features, layer, one_of
from tests_graphs import Description, Node, Shape, operation_of

BOUNDED = ("sigmoid", "hard_sigmoid", "tanh", "softmax", "softsign", "relu6", "sin", "clip", "Softmax")
RECURRENT = ("LSTM", "GRU", "SimpleRNN", "Bidirectional", "RNN")
# Most values of a tensor, and the largest size of values that `exp` is drawn for.
LARGEST, LARGEST_EXPONENT = 1500, 2.0
PROFILE = hypothesis.settings(
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=False,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate, hypothesis.Phase.shrink),
)
hypothesis.settings.register_profile("graphs", PROFILE)
# Hypothesis also draws numbers that stand in the modules that are loaded at the time: a graph would depend on what its
# process has done before.
providers.HypothesisProvider._local_constants = property(lambda provider: providers.Constants())


@dataclass
class _State:
    """Nodes drawn so far, with shapes and the rough size of values."""

    nodes: Description = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    operations: dict[int, Any] = field(default_factory=dict)

    def add(self, node: Node, shape: Shape, size: float) -> None:
        self.nodes.append(node)
        self.shapes.append(shape)
        self.sizes.append(size)

    def floats(self) -> list[tuple[int, Shape]]:
        """Numbers and shapes of the tensors that are not row numbers."""
        return [(n, shape) for n, shape in enumerate(self.shapes) if "rows" not in self.nodes[n]]


@functools.cache
def _kinds(group: str, rank: int) -> tuple[Kind, ...]:
    return tuple(kind for kind in KINDS if kind.group == group and rank in kind.ranks)


def shape_of(node: Node, shapes: Sequence[Shape]) -> Shape:
    """Shape of a sample of the node's output."""
    if "call" in node:
        return _shape_of_function(node, shapes)
    batched = [(None, *shape) for shape in shapes]
    # A layer seeds its initializers from Python's global generator, which is Hypothesis's here.
    state = random.getstate()
    layer = operation_of(node, 0)
    random.setstate(state)
    if node["layer"].endswith("QueryAttention") or node["layer"] == "MultiHeadAttention":
        return shapes[0]
    found = layer.compute_output_shape(batched[0] if len(batched) == 1 else batched)
    return tuple(int(n) for n in found[1:])


def _shape_of_function(node: Node, shapes: Sequence[Shape]) -> Shape:
    axis = node.get("with", {}).get("axis")
    if node["call"] == "concatenate":
        return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))
    if axis is None:
        return shapes[0]
    place = axis if axis < 0 else axis - 1
    made = list(shapes[0])
    made[place] = 1
    return tuple(made)


def _size_of(node: Node, sizes: Sequence[float], shape: Shape) -> float:
    """Roughly how large the values are: what grows with its inputs, grows here."""
    name, settings = node.get("layer") or node["call"], node.get("with", {})
    if name.endswith("Normalization") and name != "Normalization":
        return 1.0
    if settings.get("activation") in BOUNDED or name in (*BOUNDED, *RECURRENT):
        return 1.0
    if name in ("Multiply", "times"):
        return sizes[0] * sizes[1]
    if name == "Dot":
        return sizes[0] * sizes[1] * 3
    if name == "exp" or settings.get("activation") == "exponential":
        return 10.0
    return {"square": sizes[0] ** 2, "sum": 3 * max(sizes), "sqrt": sizes[0] ** 0.5}.get(name, max(sizes))


@st.composite
def _input(draw: Draw, shape: Shape | None = None) -> Node:
    scale = draw(st.sampled_from([1.0, 1.0, 1.0, 0.05, 10.0, 255.0]))
    shift = draw(st.sampled_from([0.0, 0.0, 0.5, -2.0])) * scale
    if shape is None:
        rank = draw(st.sampled_from([3, 3, 3, 2, 2, 1, 4, 0]))
        if rank == 0:
            return {"input": (draw(st.integers(2, 6)),), "rows": 10}
        shape = (*(draw(st.integers(4, {2: 10, 3: 9, 4: 5}[rank])) for _ in range(rank - 1)), draw(_channels(rank)))
    return {"input": shape, "scale": scale, "shift": shift}


def _channels(rank: int) -> Any:
    return st.integers(2, 12) if rank == 1 else st.sampled_from([3, 1, 2, 4, 5, 8])


def _step(draw: Draw, state: _State, source: int) -> None:
    """Add one node that reads `source`, if one of some kinds drawn fits."""
    for _ in range(4):
        group = draw(st.sampled_from([name for name, share in GROUPS.items() for _ in range(share)]))
        node = _again(draw, state) if group == "again" else None
        if node is None:
            node = _nested(draw, state, source) if group == "nested" else _drawn(draw, state, source, group)
        if node is not None and _added(state, node):
            return
    _added(state, {**dense(draw, state.shapes[source]), "of": [source]})


def _added(state: _State, node: Node) -> bool:
    """Add the node unless its tensor or its values would be too large."""
    shapes, sizes = ([each[i] for i in node["of"]] for each in (state.shapes, state.sizes))
    if "again" in node:
        shape, size = state.shapes[node["again"]], state.sizes[node["again"]]
    elif "model" in node:
        shape, size = node.pop("shape"), node.pop("size")
    else:
        shape, size = shape_of(node, shapes), _size_of(node, sizes, shapes[0])
    if not 0 < math.prod(shape) <= LARGEST or size > 1e4:
        return False
    state.add(node, shape, size)
    return True


def _drawn(draw: Draw, state: _State, source: int, group: str) -> Node | None:
    shape = state.shapes[source]
    kinds = [kind for kind in _kinds(group, len(shape)) if kind.fits(shape)]
    if not kinds:
        return None
    kind = draw(st.sampled_from(kinds))
    if kind.name in ("exp", "exponential") and state.sizes[source] > LARGEST_EXPONENT:
        return None
    of = [source]
    if kind.partner is not None:
        fitting = [
            n for n, other in enumerate(state.shapes) if kind.partner(shape, other) and "rows" not in state.nodes[n]
        ]
        others = [n for n in fitting if n != source]
        if kind.name in ("minus", "Subtract", "minimum", "maximum", "Minimum", "Maximum") and not others:
            return None
        of.append(draw(st.sampled_from(others or [source])))
    return {**kind.settings(draw, shape), "of": of}


def _again(draw: Draw, state: _State) -> Node | None:
    """A layer or model called once more, on another tensor of the shape it knows."""
    calls = [
        (first, other)
        for first, node in enumerate(state.nodes)
        if ("layer" in node or "model" in node) and len(node["of"]) == 1
        for other, shape in state.floats()
        if other != node["of"][0] and shape == state.shapes[node["of"][0]]
    ]
    if not calls:
        return None
    first, other = draw(st.sampled_from(calls))
    return {"again": first, "of": [other]}


def _nested(draw: Draw, state: _State, source: int) -> Node:
    inner = _State()
    inner.add({"input": state.shapes[source]}, state.shapes[source], state.sizes[source])
    for number in range(draw(st.integers(1, 2))):
        _plain_step(draw, inner, number)
    return {"model": inner.nodes, "of": [source], "shape": inner.shapes[-1], "size": inner.sizes[-1]}


def _plain_step(draw: Draw, state: _State, source: int) -> None:
    group = draw(st.sampled_from(["weighted", "normalization", "activation"]))
    node = _drawn(draw, state, source, group)
    if node is None or not _added(state, node):
        _added(state, {**layer("Activation", activation="relu"), "of": [source]})


@st.composite
def graphs(draw: Draw, least: int = 3, most: int = 8) -> Description:
    """Graphs of `least` to `most` layers behind one or two inputs."""
    state = _State()
    first = draw(_input())
    inputs = [first]
    if draw(st.integers(0, 3)) == 3 and "rows" not in first:
        inputs.append(draw(_input(one_of(draw, first["input"], (*first["input"][:-1], 2)))))
    for node in inputs:
        state.add(node, node["input"], max(node.get("scale", 1.0), abs(node.get("shift", 0.0))))
    state.nodes[0]["seed"] = draw(st.integers(0, 999))
    if "rows" in first:
        embedding = layer("Embedding", input_dim=first["rows"], output_dim=features(draw))
        state.add({**embedding, "of": [0]}, (*first["input"], embedding["with"]["output_dim"]), 1.0)
    count = draw(st.integers(least, most))
    for number in range(count):
        last = len(state.nodes) - 1
        source = number if number < len(inputs) and "rows" not in first else _source(draw, last, len(inputs))
        _step(draw, state, source)
    _mark_outputs(draw, state)
    return state.nodes


def _source(draw: Draw, last: int, inputs: int) -> int:
    """The last tensor mostly, else one before it."""
    if draw(st.integers(0, 3)) < 3:
        return last
    return int(draw(st.integers(inputs, last)))


def _mark_outputs(draw: Draw, state: _State) -> None:
    """At times a tensor that others read is an output as well."""
    if draw(st.integers(0, 5)) == 5:
        inner = [n for n, node in enumerate(state.nodes) if "input" not in node]
        state.nodes[draw(st.sampled_from(inner))]["out"] = True


def graph(seed: int, strategy: Any = None) -> Description:
    """The graph of a seed: the same in every process."""
    found: list[Description] = []

    # The first example is always the simplest there is.
    @hypothesis.seed(seed)
    @hypothesis.settings(PROFILE, max_examples=2, phases=(hypothesis.Phase.generate,))
    @hypothesis.given(strategy or graphs())
    def collect(description: Description) -> None:
        found.append(description)

    collect()
    return found[-1]
