"""Attention: whole heads can be removed, and features that queries and keys share."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_compress.core import keras_private
from keras_compress.core.registry import register
from keras_compress.structured.channel_ids import Axes, Ids
from keras_compress.structured.rules.rule import Rule, Visit

HEADS = "heads"


@register("channel_rule")
class MultiHeadAttentionRule(Rule):
    """A head is removed as a whole; queries, keys and values may come from different channels."""

    handles = ("MultiHeadAttention",)

    def outputs(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        heads = visit.channels(layer.num_heads, HEADS)
        visit.setting("num_heads", heads)
        given = _inputs(visit)
        queries, values = given["query"], given["value"]
        _projections(visit, given, {"query": heads, "key": heads, "value": heads})
        axes = keras_private.attention_axes(layer)
        keys = int(np.prod([values.shape[axis] or 1 for axis in axes], dtype=np.int64))
        positions = visit.positions(queries.shape)
        visit.product(positions * keys * (layer.key_dim + layer.value_dim), heads)
        out = _joined(visit, heads, positions)
        if out is not None and layer.get_config()["output_shape"] is None:
            # Without a width of its own, the layer takes that of the queries.
            visit.setting("output_shape", out, visit.axes_of(queries).get(len(queries.shape) - 1))
        elif out is not None:
            visit.setting(("output_shape", 0), out)
        return _results(visit, heads, out)


@register("channel_rule")
class GroupedQueryAttentionRule(Rule):
    """A head of keys and values is removed with the heads of queries that read it.

    The layer gives back as many features as the queries have, so these are tied.
    """

    handles = ("GroupedQueryAttention",)

    def outputs(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        heads = visit.channels(layer.num_key_value_heads, HEADS)
        query_heads = np.repeat(heads, layer.num_repeats)
        visit.setting("num_key_value_heads", heads)
        visit.setting("num_query_heads", query_heads)
        given = _inputs(visit)
        queries, values = given["query"], given["value"]
        _projections(visit, given, {"query": query_heads, "key": heads, "value": heads})
        positions = visit.positions(queries.shape)
        visit.product(2 * positions * (values.shape[1] or 1) * layer.head_dim, query_heads)
        out = _joined(visit, query_heads, positions)
        came = visit.axes_of(queries).get(2)
        if came is None:
            visit.freeze(out, f"{visit.path} gives back as many features as its queries have, which are fixed")
        elif out is not None:
            visit.tie(came, out)
        return _results(visit, query_heads, out)


def _inputs(visit: Visit) -> dict[str, Any]:
    """The tensors that queries, keys and values are made of; what else comes in, such as masks, has to stay."""
    given = {name: visit.argument(name) for name in ("query", "key", "value")}
    given["key"] = given["value"] if given["key"] is None else given["key"]
    for number, tensor in enumerate(visit.tensors):
        if any(tensor is each for each in given.values()):
            visit.freeze_axes(number, f"{visit.path} takes it for positions", but=len(tensor.shape) - 1)
            visit.read(number)
        else:
            visit.freeze_axes(number, f"{visit.path} takes it for a mask")
    return given


def _projections(visit: Visit, given: dict[str, Any], heads: dict[str, Ids]) -> None:
    """Kernels `(features, heads, size)` and biases `(heads, size)` of queries, keys, values and of a gate."""
    layer = visit.operation
    dense = [(name, keras_private.projection(layer, name)) for name in ("query", "key", "value")]
    if keras_private.has_gate(layer):
        dense.append(("query", keras_private.projection(layer, "gate")))
    for name, each in dense:
        tensor = given[name]
        came = visit.axes_of(tensor).get(len(tensor.shape) - 1)
        visit.weight(each.kernel, 0, came, "in")
        visit.weight(each.kernel, 1, heads[name], "out", HEADS)
        visit.weight(each.bias, 0, heads[name], "out", HEADS)
        features, _, size = each.kernel.shape
        visit.product(visit.positions(tensor.shape) * size, features if came is None else came, heads[name])


def _joined(visit: Visit, heads: Ids, positions: int) -> Ids | None:
    """The features that the heads are joined to, by a kernel `(heads, size, features...)`; `None` for several axes."""
    dense = keras_private.projection(visit.operation, "output")
    visit.weight(dense.kernel, 0, heads, "in")
    size, *features = dense.kernel.shape[1:]
    if len(features) != 1:
        visit.product(positions * int(np.prod([size, *features])), heads)
        return None
    out = visit.channels(features[0])
    visit.weight(dense.kernel, 2, out, "out")
    visit.weight(dense.bias, 0, out, "out")
    visit.product(positions * size, heads, out)
    return out


def _results(visit: Visit, heads: Ids, out: Ids | None) -> list[Axes]:
    if len(visit.outputs) > 1:
        visit.freeze(heads, f"{visit.path} gives the scores of each away")
    return [{} if out is None else {len(visit.output_shape) - 1: out}, *({} for _ in visit.outputs[1:])]


@register("channel_rule")
class AttentionRule(Rule):
    """Attention without projections: queries and keys are multiplied, or added, feature by feature, and summed."""

    handles = ("Attention", "AdditiveAttention")

    def outputs(self, visit: Visit) -> list[Axes]:
        given = visit.parts
        queries, values = given[0], given[1]
        if any(len(tensor.shape) != 3 for tensor in given):
            return visit.freeze_all("works on more axes than positions and features")
        keys = given[2] if len(given) > 2 else values
        for number, tensor in enumerate(visit.tensors):
            taken = any(tensor is each for each in given)
            visit.freeze_axes(number, f"{visit.path} takes it for positions", but=2 if taken else None)
            if taken:
                visit.read(number)
        features = self._shared(visit, visit.axes_of(queries).get(2), visit.axes_of(keys).get(2))
        if type(visit.operation).__name__ == "AdditiveAttention":
            visit.weight(visit.operation.scale, 0, features, "through")
        came = visit.axes_of(values).get(2)
        pairs = (queries.shape[1] or 1) * (values.shape[1] or 1)
        visit.product(pairs, queries.shape[2] if features is None else features)
        visit.product(pairs, values.shape[2] if came is None else came)
        return [{} if came is None else {2: came}, *({} for _ in visit.outputs[1:])]

    def _shared(self, visit: Visit, queries: Ids | None, keys: Ids | None) -> Ids | None:
        if queries is not None and keys is not None:
            visit.tie(queries, keys)
            return queries
        for ids in (queries, keys):
            visit.freeze(ids, f"{visit.path} compares it with features of fixed width")
        return None
