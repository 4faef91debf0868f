"""Fewer filters in binary networks: layer by layer, a subsidiary component learns which of the main network's stay."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core.global_state import global_state_kept
from keras_compress.core.progress import ProgressLine
from keras_compress.core.selection import Selector
from keras_compress.core.shown import Shown, names
from keras_compress.graph.model import check_model
from keras_compress.graph.remade import classes_in
from keras_compress.pipelines.checkpoints import Checkpoints
from keras_compress.pipelines.round_training import RoundCallback, RoundTrainer
from keras_compress.runtime.measure import Metric, accuracy
from keras_compress.structured.channel_graph import ChannelGraph, ChannelGroup
from keras_compress.structured.dependency import channel_graph
from keras_compress.structured.filter_selector import readings_of, with_selector, without_channels
from keras_compress.structured.prune import limits_of
from keras_compress.structured.selection import step_of

Array = NDArray[Any]


@dataclass(frozen=True)
class SelectedFilters:
    """One layer.

    Attributes:
        layer: Path of the layer that makes the channels; the first where several do.
        before: How many channels it had.
        after: How many are left.
        metric: Of the network trained without them, on the validation data; `None` without any.
    """

    layer: str
    before: int
    after: int
    metric: float | None = None


@dataclass(frozen=True, repr=False)
class FewerFilters(Shown):
    """What `select_filters` made.

    Attributes:
        model: The network without the filters, trained.
        layers: What was done to each layer, bottom up.
        skipped: Layers that were left, and why.
        baseline: Metric of the network that was given; `None` without validation data.
    """

    model: keras.Model
    layers: tuple[SelectedFilters, ...]
    skipped: tuple[str, ...]
    baseline: float | None = None

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines."""
        before, after = (sum(getattr(each, key) for each in self.layers) for key in ("before", "after"))
        last = self.layers[-1].metric if self.layers else None
        return f"FewerFilters: {after:,} of {before:,} channels are left", [
            ("layers", names([f"{each.layer}: {each.after} of {each.before}" for each in self.layers], ".layers")),
            ("metric", "" if last is None else f"{last:.6g}, {self.baseline:.6g} before"),
            ("skipped", names(self.skipped, ".skipped")),
        ]

    def report(self) -> dict[str, Any]:
        """What a report says, as JSON types."""
        layers = [asdict(each) for each in self.layers]
        return {"baseline": self.baseline, "layers": layers, "skipped": list(self.skipped)}


@global_state_kept()
def select_filters(
    model: keras.Model,
    fit: Any,
    strength: float = 1e-3,
    *,
    max_ratio: float = 0.9,
    round_to: int = 8,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    validation_data: tuple[Any, Any] | None = None,
    metric: Metric = accuracy,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
) -> FewerFilters:
    """Learn which filters of a trained binary network can go, cut them out and train the rest, layer by layer.

    By the magnitude of its weights no filter of signs is smaller than another. So for each layer a number for each
    filter is trained, whose sign keeps or drops the filter, while all weights stay as they are (the subsidiary
    component); then the dropped filters are cut out and the network (main) is trained on, before the next layer.

    **Forward** `y_c = x_c (sign(m_c) + 1) / 2`, **Loss** `L + strength * sum_c (sign(m_c) + 1) / 2`, **Gradient** see
    `kc.FilterSelector`.

    Args:
        model: Trained model, binary (`kc.quantize_model(...)`) or not; Functional or Sequential.
        fit: What trains a model in place: `kc.Training(...).on(x, y)`, or a function `fit(model, stage)`. Epochs and
            rates by `"subsidiary"` and `"main"`, such as `epochs={"subsidiary": 1, "main": 2}`.
        strength: What a filter that stays costs, of the loss, >= 0: what it is worth at least.
        max_ratio: Largest share to drop of one layer, in (0, 1).
        round_to: Numbers of channels left are multiples of it; in layers of fewer than four multiples, of its half, a
            quarter, ... of which there are four.
        filters: Which layers; all whose channels can be cut by default.
        rules: Exceptions: `{"layers": selector, "skip": True}`, or with `"max_ratio"`.
        validation_data: `(x, y)` arrays: inputs and labels for `metric`.
        metric: `(outputs, y) -> float`, the higher the better; the accuracy by default.
        seed: Set before each training; a `kc.Training` with a seed of its own sets that.
        folder: Where finished steps are kept: a killed run called again goes on behind its last one.

    Returns:
        The network without the filters, quantized as it was, and what was done.

    Raises:
        ValueError: For arguments out of range, a rule that matches nothing, a model no layer of which can be cut, or a
            folder that holds other work.

    **Reference**: Xu et al., "A main/subsidiary network framework for simplifying binary neural networks" (2019),
    section 3: layer-wise, bottom-up.
    **Deviations**: see `kc.FilterSelector`; the main network is trained as a whole, not from the layer on.
    """
    check_model(model)
    if not strength >= 0 or not 0 < max_ratio < 1 or round_to < 1:
        raise ValueError(
            "Expected `strength` >= 0, `max_ratio` in (0, 1) and `round_to` >= 1. "
            f"Received: strength={strength}, max_ratio={max_ratio}, round_to={round_to}"
        )
    train = RoundTrainer(fit, seed, model)
    graph = channel_graph(model)
    limits = limits_of(graph, {"max_ratio": max_ratio}, filters, rules)
    chosen, skipped = _chosen(graph, set(limits))
    work = {
        "model": model,
        "settings": [strength, {name: each.max_ratio for name, each in limits.items()}, round_to],
        "layers": [group.name for group in chosen],
        "validation_data": list(validation_data or ()),
        "metric": metric,
        **train.decisive(),
    }
    with Checkpoints(folder, work) as kept, ProgressLine("selecting filters", 2 * len(chosen)) as line:
        search = _Search(train, kept, strength, round_to, validation_data, metric, line, classes_in(model))
        baseline = search.measured(model)
        found = []
        for number, group in enumerate(chosen):
            model, row = search.layer(model, number, group.name, limits[group.name].max_ratio)
            found.append(row)
    return FewerFilters(model, tuple(found), tuple(skipped), baseline)


def _chosen(graph: ChannelGraph, allowed: set[str]) -> tuple[list[ChannelGroup], list[str]]:
    """Groups to work on, bottom up, and why the others are not.

    Raises:
        ValueError: Where none is left.
    """
    found, skipped = [], [f"{group.name}: {group.reason}" for group in graph.frozen if len(group)]
    for group in graph.prunable:
        tensors = {(id(each.tensor), each.axis) for each in readings_of(graph, group)}
        if group.name not in allowed:
            skipped.append(f"{group.name}: left out by the rules")
        elif len(tensors) != 1:
            skipped.append(f"{group.name}: its channels are read in {len(tensors)} places")
        else:
            found.append(group)
    if not found:
        raise ValueError(f"Expected a model with layers whose channels can be cut. Received: {skipped[:5]}")
    return found, skipped


@dataclass
class _Search:
    """The steps of each layer."""

    train: RoundTrainer
    kept: Checkpoints
    strength: float
    round_to: int
    data: tuple[Any, Any] | None
    metric: Metric
    line: ProgressLine
    classes: dict[str, Any]

    def layer(
        self, model: keras.Model, number: int, name: str, max_ratio: float
    ) -> tuple[keras.Model, SelectedFilters]:
        """The network after one layer, trained."""

        def select() -> tuple[None, dict[str, Any]]:
            graph = channel_graph(model)
            group = next(each for each in graph.prunable if each.name == name)
            masked, selector = with_selector(graph, group, self.strength)
            self.train(masked, f"subsidiary_{number}", RoundCallback(masked), "subsidiary")
            return None, {"selectors": np.asarray(selector.selectors, np.float64).tolist()}

        def cut() -> tuple[keras.Model, dict[str, Any]]:
            smaller = without_channels(model, {name: ~stays})
            self.train(smaller, f"main_{number}", RoundCallback(smaller), "main")
            return smaller, {"metric": self.measured(smaller)}

        self.line.describe(f"{name}: subsidiary")
        selectors = np.array(self.kept.step(f"subsidiary_{number}", select)["selectors"])
        self.line.advance()
        stays = staying(selectors, max_ratio, self.round_to)
        self.line.describe(f"{name}: main")
        figures = self.kept.step(f"main_{number}", cut)
        self.line.advance()
        with keras.saving.custom_object_scope(self.classes):
            found = self.kept.model(f"main_{number}")
        return found, SelectedFilters(name, len(stays), int(stays.sum()), figures["metric"])

    def measured(self, model: keras.Model) -> float | None:
        """The metric, where there are data for it."""
        if self.data is None:
            return None
        x, y = self.data
        return float(self.metric([model.predict(x, batch_size=512, verbose=0)], y))


def staying(selectors: Array, max_ratio: float, round_to: int) -> Array:
    """Which filters stay: those of numbers >= 0, and of the others the highest, until there are enough.

    Args:
        selectors: A number for each filter.
        max_ratio: Largest share to drop.
        round_to: How many stay is a multiple of it, see `step_of`.

    >>> staying(np.array([0.2, -0.1, 0.3, -0.4]), 0.9, 1).tolist()
    [True, False, True, False]
    >>> staying(np.array([-0.2, -0.1, -0.3, -0.4]), 0.5, 1).tolist()
    [True, True, False, False]
    """
    whole = len(selectors)
    step = step_of(whole, round_to)
    least = max(int(np.ceil(whole * (1 - max_ratio) - 1e-9)), int((selectors >= 0).sum()), 1)
    count = min(-(-least // step) * step, whole)
    found: Array = np.isin(np.arange(whole), np.argsort(-selectors, kind="stable")[:count])
    return found
