"""ReLUs with a ceiling: replaced where they never reach it, or clipped channel by channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.graph import graph as keras_graph
from keras_compress.graph.batch_norms import graphs_in
from keras_compress.graph.model import LayerCopies, copied, copy_layer
from keras_compress.post_training.channel_walk import ceiling_of
from keras_compress.post_training.moments import Moments, moments_of
from keras_compress.post_training.record import ChannelStatistics, carry, record_of

Make = Callable[[str, keras.layers.Layer], keras.layers.Layer]
# A channel whose mean is so many standard deviations below the ceiling is never clipped: one value in a billion is.
HARMLESS_SIGMAS = 6.0


def without_ceilings(model: keras.Model, everywhere: bool = False) -> keras.Model:
    """The model with ReLUs in the place of those with a ceiling (ReLU6), where that changes nothing, or everywhere.

    Args:
        model: Plain model whose BatchNormalizations are folded.
        everywhere: Also where values may reach the ceiling: the function is another one then.
    """
    record = record_of(model)
    harmless, others = _ceilings(model, record.statistics)
    replaced = harmless | others if everywhere else harmless
    if not replaced:
        return model
    notes = []
    if harmless:
        notes.append(f"ReLU6 replaced by ReLU where statistics say that it never clips: {_listed(harmless)}")
    if others and everywhere:
        notes.append(f"ReLU6 replaced by ReLU where it may clip, as asked: {_listed(others)}")
    tensors = {id(node.outputs[0]): None for path in replaced.values() for node in path}
    return carry(with_ceilings(model, tensors), record.noted(*notes))


def _listed(found: Mapping[str, Any]) -> str:
    return ", ".join(found)


def _ceilings(
    model: keras.Model, statistics: Mapping[str, ChannelStatistics]
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Path -> calls of ReLUs with a ceiling, those that never reach it and others."""
    reached: dict[str, bool] = {}
    calls: dict[str, list[Any]] = {}

    def seen(call: keras_graph.Call, moments: Moments) -> None:
        ceiling = ceiling_of(call.operation)
        if ceiling is None:
            return
        known = statistics.get(call.path)
        if known is not None:
            high: Any = known.mean + HARMLESS_SIGMAS * known.std
        else:
            own = bool(getattr(call.operation, "weights", ()))
            high = None if own else moments.high
        clips = high is None or bool(np.max(high) > ceiling)
        reached[call.path] = reached.get(call.path, False) or clips
        calls.setdefault(call.path, []).append(call.node)

    moments_of(model, statistics, HARMLESS_SIGMAS, seen)
    harmless = {path: nodes for path, nodes in calls.items() if not reached[path]}
    return harmless, {path: nodes for path, nodes in calls.items() if reached[path]}


def with_ceilings(
    model: keras.Model, ceilings: Mapping[int, NDArray[Any] | None], make: Make | None = None
) -> keras.Model:
    """A copy of a model in which some ReLUs have other ceilings.

    Args:
        model: The model.
        ceilings: `id` of the tensor that a ReLU with a ceiling makes -> a ceiling for each channel, or `None` for none.
        make: Makes the new layers; `copy_layer` by default.
    """
    changed = {id(n.operation) for each in graphs_in(model) for n in keras_graph.nodes(each) if _made(n) in ceilings}

    def copy(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        made = copy_layer(layer) if make is None else make(path, layer)
        if id(layer) not in changed:
            return made
        if type(layer).__name__ == "ReLU":
            return copy_layer(made, max_value=None)
        return copy_layer(made, activation="relu")

    def visit(call: keras_graph.Call) -> Any:
        key = _made(call.node)
        if key not in ceilings:
            return copies(call)
        if isinstance(call.operation, keras.layers.Layer):
            made = copies(call)
        else:
            made = keras_graph.rename_between(call.args[0], keras.ops.relu(call.args[0]), call.operation.name)
        ceiling = ceilings[key]
        if ceiling is None:
            return made
        clipped = keras.ops.minimum(made, np.asarray(ceiling, np.float32))
        return keras_graph.rename_between(made, clipped, f"{call.operation.name}_ceiling")

    copies = LayerCopies(copy, visit, inside=False)
    result: keras.Model = copied(model, copies)
    return result


def _made(node: Any) -> int:
    return id(node.outputs[0]) if node.outputs else 0
