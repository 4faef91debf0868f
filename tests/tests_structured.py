"""Channel graphs of tiny models, cut beside masked: what the tests of structured pruning share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_compress.structured import surgery
from keras_compress.structured.channel_graph import OUTPUT, ChannelGraph, Removed
from keras_compress.structured.dependency import channel_graph


@dataclass(frozen=True)
class Case:
    """A model, and what its channel graph must say.

    Attributes:
        build: Makes the model.
        groups: Widths of the groups that can be pruned, by name.
        macs: Multiply-accumulates, of all channels and with half of each group gone, counted by hand.
        frozen: Words of the reasons of groups that cannot, by name; outputs of the model are left out.
        exact: Whether masking what makes the channels is enough, as activations are 0 at 0.
    """

    build: Callable[[], keras.Model]
    groups: dict[str, int]
    macs: tuple[int, int]
    frozen: dict[str, str] = field(default_factory=dict)
    exact: bool = True


def checked(case: Case) -> tuple[ChannelGraph, Removed, keras.Model]:
    """Cut half of each group at random, and check the result against the case and against the masked model."""
    keras.utils.set_random_seed(0)
    model = case.build()
    shake(model)
    graph = channel_graph(model)
    found = {group.name: len(group) for group in graph.prunable}
    assert found == case.groups, found
    stuck = {group.name: str(group.reason) for group in graph.frozen if group.reason != OUTPUT}
    assert stuck.keys() == case.frozen.keys(), stuck
    assert all(words in stuck[name] for name, words in case.frozen.items()), stuck
    removed = half(graph)
    cut = surgery.cut(graph, removed)
    assert (graph.macs(), graph.macs(removed)) == case.macs, (graph.macs(), graph.macs(removed))
    assert (graph.params(), graph.params(removed)) == (model.count_params(), cut.count_params())
    x = surgery.random_inputs(model, 2, 0)
    roles = ("out", "through") if case.exact else ("out", "through", "in")
    assert surgery.largest_difference(surgery.mask(graph, removed, roles), cut, x) <= 1e-5
    if case.groups:
        assert cut.count_params() < model.count_params()
        assert surgery.largest_difference(model, cut, x) > 1e-3
    return graph, removed, cut


def half(graph: ChannelGraph, seed: int = 1) -> Removed:
    """Half of the channels of each group, at random."""
    random = np.random.default_rng(seed)
    removed = graph.none_removed()
    for group in graph.prunable:
        removed[random.choice(group.units, len(group) // 2, replace=False)] = True
    return removed


def shake(model: keras.Model, seed: int = 0) -> None:
    """Values under which every vector matters: no factor 1, no offset 0."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        name = variable.name
        if name in ("gamma", "moving_variance", "alpha"):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
        elif name in ("bias", "beta", "moving_mean"):
            variable.assign(random.normal(0.0, 0.3, variable.shape))


def headed(inputs: Any, x: Any, units: int = 3) -> keras.Model:
    """A model with a dense layer of a fixed width on all that `x` has."""
    x = keras.layers.Flatten(name="flat")(x) if len(x.shape) > 2 else x
    return keras.Model(inputs, keras.layers.Dense(units, name="head")(x))
