"""Attention as projections, two batched matrix products and a softmax."""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_compress.convert.expand.activations import with_activation
from keras_compress.convert.expand.arithmetic import as_array, combine
from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion
from keras_compress.convert.expand.products import batched_product, einsum_dense, reshaped
from keras_compress.convert.expand.weights import default_integers
from keras_compress.core import keras_private

Tensor = Any
# Multi-head and grouped attention name it differently.
_FACTORS = ("_inverse_sqrt_key_dim", "_inverse_sqrt_head_dim")
_MASKS = ("query_mask", "value_mask", "key_mask", "attention_mask", "mask", "bias")


def refuse_masks(emit: Emitter, kwargs: dict[str, Any]) -> None:
    """Raise for masks.

    Raises:
        ValueError: A mask is a large negative number added before the softmax, which would take the whole int8 range.
    """
    given = [key for key in _MASKS if kwargs.get(key) is not None]
    given += [key for key in ("use_causal_mask", "is_causal") if kwargs.get(key)]
    if given:
        raise ValueError(
            f"Expected no mask in {emit.mode}: a masked score is a large negative number, which would take the whole "
            f"range of the others. Received: {', '.join(given)} at {emit.name('')!r}; convert with mode='float32' or "
            "'float16'."
        )


def attend(emit: Emitter, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """`softmax(query key^T) value` for tensors `(batch, time, heads, size)`; returns the outputs and the scores."""
    scores = batched_product(emit, "btnh,bsnh->bnts", query, key, "scores")
    shares = emit.new(keras.layers.Softmax(name="softmax"), scores)
    return batched_product(emit, "bnts,bsnh->btnh", shares, value, "context"), shares


class MultiHeadAttention(Expansion):
    """MultiHeadAttention over one axis; the factor `1 / sqrt(key_dim)` goes into the scales of the query's weights."""

    handles: ClassVar[tuple[str, ...]] = ("MultiHeadAttention", "GroupedQueryAttention", "GroupQueryAttention")

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        names = ("query", "value", "key", "query_mask", "value_mask", "key_mask", "attention_mask")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        refuse_masks(emit, given)
        query, value = given["query"], given["value"]
        key = value if given.get("key") is None else given["key"]
        axes, rank = keras_private.attention_axes(operation), len(query.shape)
        if [a % rank for a in axes] != list(range(1, rank - 1)):
            raise ValueError(
                f"Expected attention over all axes between batch and features. Received: attention_axes={axes} for "
                f"inputs of shape {query.shape} at {emit.name('')!r}"
            )
        dense = functools.partial(keras_private.projection, operation)
        factor = next(getattr(operation, name) for name in _FACTORS if hasattr(operation, name))
        with emit.inside("query"):
            projected = _places(emit, einsum_dense(emit, dense("query"), query, float(factor)))
        with emit.inside("key"):
            keys = _repeated(emit, operation, _places(emit, einsum_dense(emit, dense("key"), key)))
        with emit.inside("value"):
            values = _repeated(emit, operation, _places(emit, einsum_dense(emit, dense("value"), value)))
        outputs, scores = attend(emit, projected, keys, values)
        space = query.shape[1:-1], value.shape[1:-1]
        outputs = reshaped(emit, outputs, (*space[0], *outputs.shape[2:]), "restored")
        scores = reshaped(emit, scores, (scores.shape[1], *space[0], *space[1]), "restored_scores")
        gate = dense("gate") if keras_private.has_gate(operation) else None
        if gate is not None:
            with emit.inside("gate"):
                gating = with_activation(emit, gate.activation, einsum_dense(emit, gate, query))
            outputs = emit.new(keras.layers.Multiply(name="gated"), [outputs, gating])
        with emit.inside("output"):
            outputs = einsum_dense(emit, dense("output"), outputs)
        return (outputs, scores) if given.get("return_attention_scores") else outputs


def _places(emit: Emitter, tensor: Tensor) -> Tensor:
    """Heads `(batch, ..., heads, size)` with all places along one axis."""
    *space, heads, size = tensor.shape[1:]
    return reshaped(emit, tensor, (int(np.prod(space)), heads, size), "places")


def _repeated(emit: Emitter, layer: Any, tensor: Tensor) -> Tensor:
    """Heads `(batch, time, heads, size)`, each repeated for the queries that share it."""
    times = getattr(layer, "num_repeats", 1)
    if times == 1:
        return tensor
    heads = [emit.apply(lambda x, i=i: x[:, :, i : i + 1], tensor, name=f"head{i}") for i in range(tensor.shape[2])]
    return emit.new(keras.layers.Concatenate(axis=2, name="repeated"), [head for head in heads for _ in range(times)])


class DotProductAttention(Expansion):
    """`keras.ops.dot_product_attention`."""

    handles = ("DotProductAttention",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(("query", "key", "value", "bias", "mask", "scale"), args, strict=False)), **kwargs}
        refuse_masks(emit, {**given, "is_causal": getattr(operation, "is_causal", False)})
        query = given["query"]
        scale = given.get("scale")
        query = combine(emit, "multiply", query, 1.0 / math.sqrt(query.shape[-1]) if scale is None else float(scale))
        return attend(emit, query, given["key"], given["value"])[0]


class Attention(Expansion):
    """`keras.layers.Attention` by dot product, and `AdditiveAttention`."""

    handles = ("Attention", "AdditiveAttention")

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        refuse_masks(emit, kwargs)
        inputs = args[0]
        query, value = inputs[0], inputs[1]
        key = inputs[2] if len(inputs) > 2 else value
        scores = _scores(emit, operation, query, key)
        shares = emit.new(keras.layers.Softmax(name="softmax"), scores)
        outputs = batched_product(emit, "bts,bsh->bth", shares, value, "context")
        return (outputs, shares) if kwargs.get("return_attention_scores") else outputs


def _scores(emit: Emitter, operation: Any, query: Tensor, key: Tensor) -> Tensor:
    """Scores `(batch, queries, keys)` before the softmax."""
    owner = next(cls for cls in type(operation).__mro__ if "_calculate_scores" in vars(cls))
    if owner is keras.layers.AdditiveAttention:
        return _additive(emit, query, key, None if operation.scale is None else as_array(operation.scale))
    if owner is not keras.layers.Attention or operation.score_mode != "dot":
        found = operation.score_mode if owner is keras.layers.Attention else owner.__name__
        raise ValueError(f"Expected score_mode='dot'. Received: {found!r} at {emit.name('')!r}")
    if operation.scale is not None:
        query = combine(emit, "multiply", query, as_array(operation.scale))
    return batched_product(emit, "bth,bsh->bts", query, key, "scores")


def _additive(emit: Emitter, query: Tensor, key: Tensor, weights: NDArray[Any] | None) -> Tensor:
    """`sum(weights * tanh(query + key))` over the features, for each pair."""
    (queries, size), keys = query.shape[1:], key.shape[1]
    rows = reshaped(emit, query, (queries, 1, size), "queries")
    columns = reshaped(emit, key, (1, keys, size), "keys")
    summed = emit.apply(ops.add, rows, columns, name="pairs")
    bent = emit.new(keras.layers.Activation("tanh", name="tanh"), summed)
    column = np.ones(size, np.float32) if weights is None else weights
    scores = emit.dense(bent, default_integers(column.reshape(size, 1), (-1,)), name="scores")
    return reshaped(emit, scores, (queries, keys), "scores_matrix")
