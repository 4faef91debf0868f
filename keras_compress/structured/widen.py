"""`widen`: from a model to one with more channels, to be trained from scratch or from where it was."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_compress.core.budget import Budget
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.registry import register
from keras_compress.core.selection import Selector, rules_take, settings_by_path
from keras_compress.core.warn import warn
from keras_compress.graph.model import by_message, check_model, compressed_layers
from keras_compress.structured.channel_graph import OUTPUT, ChannelGraph, Copies
from keras_compress.structured.copying import with_copies
from keras_compress.structured.dependency import channel_graph
from keras_compress.structured.prune import warn_of_tied
from keras_compress.structured.rules.normalization import REMOVES
from keras_compress.structured.surgery import largest_difference, made_anew, random_inputs
from keras_compress.structured.unit_places import summed_without_weights
from keras_compress.structured.widths import WidthBudget, Widths

DEFAULT_FACTOR = 2.0
# Of outputs, relative to the largest: more than float32 rounding, even in deep networks, is a mistake.
LARGEST_DIFFERENCE = 1e-3
SUMMED = "something without weights sums over its channels, and would count copies twice"


@register("entry_point")
@global_state_kept()
@rules_take("factor")
def widen(
    model: keras.Model,
    factor: float | None = None,
    *,
    function_preserving: bool = False,
    target: Budget | Mapping[Any, float] | None = None,
    noise: float = 0.1,
    round_to: int = 1,
    seed: int = 0,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
) -> keras.Model:
    """A new, plain model with more channels between its inputs and outputs, which keep their shapes.

    WRPN (the default): a network of fewer bits that has `factor` times as many channels may be as accurate as the one
    of many bits. Layers that become wider begin with new values of their own initializers, to be trained from scratch.

    Net2WiderNet (`function_preserving=True`): a layer of n channels gets m of them by a mapping g, which is the
    identity for the first n and draws from them, with replacement, for the others; what reads a channel reads each of
    its copies with its share of the weight,

        U[.., j] = W[.., g(j)],    V[j, ..] = 1 / |{x : g(x) = g(j)}| * W[g(j), ..]

    so that the wider model computes what the model did, and training goes on from there.

    Channels that belong together (through additions, depthwise convolutions, concatenations, ...) grow together, and
    each group as a whole: see `kc.channel_graph`.

    Args:
        model: Built plain model; a subclassed one becomes a Functional model of what its `call` runs.
        factor: How many times as many channels, > 1; 2 by default, where there is no `target`.
        function_preserving: Whether the new model computes what this one does.
        target: Instead of `factor`: what the result may cost, `{"macs": 2.0}`. A number up to what the model costs now
            says how many times that, one above it is a figure, as in `kc.Budget(bytes=400_000)`.
        noise: With `function_preserving`: standard deviation of what is added to the shared weights, >= 0, as a share
            of theirs. Equal copies would get equal gradients, and stay equal.
        round_to: Numbers of channels are multiples of it; of a group of fewer than four multiples, of its half, a
            quarter, ... of which it has four.
        seed: Of the initializers, of the mapping and of the noise.
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}`, or with `"factor"`.

    Returns:
        A new model, not compiled. The one given stays as it is.

    Raises:
        ValueError: For a factor that is not above 1, a target that is no more than the model costs, a model with
            transforms in training, or one in which no channels can grow, with the layers and why.

    **Reference**: Mishra et al., "WRPN: Wide reduced-precision networks" (2018), section 3; Chen, Goodfellow and
    Shlens, "Net2Net: Accelerating learning via knowledge transfer" (2016), section 2.2 and Algorithm 1.
    **Deviations**: copies stand beside their channel instead of behind all others. The noise of a channel's copies
    adds up to 0, so that it changes no output. Channels that belong together are drawn together.
    """
    _check_settings(factor, target, noise, round_to)
    check_model(model)
    refuse_transforms(model)
    graph = channel_graph(model, allow_inexact=not function_preserving)
    factors = _factors(graph, function_preserving, filters, rules)
    widths = Widths(graph, factors, round_to, seed)
    if target is None:
        counts = widths.counts(DEFAULT_FACTOR if factor is None else float(factor))
    else:
        counts = WidthBudget(widths, Budget.of(target)).counts()
    copies = widths.copies(counts)
    if function_preserving:
        return _preserving(graph, copies, noise, seed)
    # New layers draw their seeds from Python's own random numbers, which are put back afterwards.
    random.seed(seed)
    return made_anew(graph, copies)


def _check_settings(factor: Any, target: Any, noise: Any, round_to: Any) -> None:
    if factor is not None and target is not None:
        raise ValueError(f"Expected either `factor` or `target`. Received: factor={factor}, target={target}")
    if factor is not None:
        _check_factor(factor)
    if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0.0 <= noise < np.inf:
        raise ValueError(f"Expected `noise` >= 0. Received: noise={noise!r}")
    if isinstance(round_to, bool) or not isinstance(round_to, (int, np.integer)) or round_to < 1:
        raise ValueError(f"Expected `round_to` as an integer >= 1. Received: round_to={round_to!r}")


def _check_factor(factor: Any, path: str = "") -> None:
    if isinstance(factor, bool) or not isinstance(factor, (int, float, np.number)) or not 1.0 < factor < np.inf:
        where = f" for layer {path!r}" if path else ""
        raise ValueError(
            f"Expected `factor` > 1: how many times as many channels{where}; `kc.prune_channels` takes some away. "
            f"Received: factor={factor!r}"
        )


def refuse_transforms(model: keras.Model) -> None:
    """Refuse a model in training with transforms, whose masks, codebooks and scales are of its widths.

    Raises:
        ValueError: Naming the layer, and the cure.
    """
    for path, wrapper in compressed_layers(model):
        raise ValueError(
            "Expected a model in which nothing is in training: grow it first, then prune, cluster and quantize; or "
            "take `kc.strip(model)`. "
            f"Received: layer {path!r} with {[type(t).__name__ for t in wrapper.transform_list]}"
        )


def _factors(
    graph: ChannelGraph,
    function_preserving: bool,
    filters: Selector | None,
    rules: Sequence[Mapping[str, Any]] | None,
) -> dict[str, float | None]:
    """Groups to widen, by name: with a factor of their own, or `None`. A group is left where one of its layers is.

    Raises:
        ValueError: Naming the layers, where none is left.
    """
    frozen = [group for group in graph.frozen if group.reason != OUTPUT]
    stuck = {group.name: str(group.reason).removesuffix(REMOVES) for group in frozen}
    if function_preserving:
        summed = summed_without_weights(graph)
        stuck |= {group.name: SUMMED for group in graph.prunable if summed[group.units].any()}
    layers = {each.path: each.layer for each in graph.weights if each.role == "out"}
    groups = [group for group in graph.prunable if group.name not in stuck]
    if not groups:
        told = by_message(stuck.items()) or [f"{group.name}: {group.reason}" for group in graph.frozen]
        raise ValueError(f"Expected a model with channels that can grow. Received: {'; '.join(told) or 'none at all'}")
    listed = [(path, layers[path]) for group in groups for path in group.layers]
    settings = settings_by_path(listed, {"factor": None}, filters, rules)
    for path, each in settings.items():
        if each["factor"] is not None:
            _check_factor(each["factor"], path)
    found: dict[str, float | None] = {}
    for group in groups:
        own = [settings[path]["factor"] for path in group.layers if path in settings]
        if len(own) == len(group.layers):
            found[group.name] = min((each for each in own if each is not None), default=None)
    if not found:
        raise ValueError(
            f"Expected filters and rules that leave something to widen. Received: filters={filters}, rules={rules}"
        )
    warn_of_tied(groups, settings)
    if stuck:
        warn(f"Channels left as they are: {'; '.join(by_message(stuck.items()))}")
    return found


def _preserving(graph: ChannelGraph, copies: Copies, noise: float, seed: int) -> keras.Model:
    """The wider model, compared with the one it was made from.

    Raises:
        ValueError: If they differ.
    """
    made = with_copies(graph, copies, noise, seed)
    difference = largest_difference(graph.model, made, random_inputs(graph.model, 2, seed=0))
    if not difference <= LARGEST_DIFFERENCE:
        raise ValueError(
            "Expected layers that compute the same from channels that are there twice. Received: "
            f"{graph.model.name!r}, whose outputs change by {difference:.2g} of the largest one with "
            f"{[group.name for group in graph.prunable]} widened: leave out by `rules` those that count their channels"
        )
    return made
