"""Where an integer file is expected to be larger, or slower, than the float file of the same model."""

from __future__ import annotations

import math
from collections import Counter

import keras

from keras_compress.core import keras_private
from keras_compress.graph.model import inner
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.inspection import inspect_tflite

# From this many on, a layer's own operators are what makes a file large.
_MANY = 8
# Int8 operators that XNNPACK leaves to LiteRT's own kernels, though it runs them, or what they stand for, in float: 1.3
# to 1.8 times the float file's time for attention and normalized sequences. GATHER is a table of 256 values.
_NOT_IN_XNNPACK = ("BATCH_MATMUL", "GATHER", "LOG_SOFTMAX", "SOFTMAX")
# Operators of a layer in a float file, at most: about those of a loop over the steps of an LSTM or GRU.
_LOOP = 20
# Below this share of all values that operators write they do not count.
_SHARE = 0.05


def notes_of_cost(model: keras.Model, frozen: keras.Model, content: bytes, graph: Graph | None) -> list[str]:
    """Notes for a file that is likely larger than the float file, or has operators that are slower than float ones.

    What the float file would take is reckoned, not converted: four bytes for each weight of the model, and for each
    layer its operators, as many as a loop has at most, each as large as one takes in this file with its tensors.

    Args:
        model: As it was given to `convert`.
        frozen: What it became.
        content: The file.
        graph: The file as it was read, where it is for LiteRT.
    """
    return [*_larger(model, frozen, content), *([] if graph is None else _slower(graph))]


def _larger(model: keras.Model, frozen: keras.Model, content: bytes) -> list[str]:
    parts = Counter(
        layer.name.partition(".")[0]
        for layer in frozen.layers
        if not isinstance(layer, (QuantizeActivation, keras.layers.InputLayer))
    )
    many = [f"{name!r} ({count} layers)" for name, count in parts.most_common(5) if count >= _MANY]
    if not many:
        return []
    stats = inspect_tflite(content)
    of_operator = (stats.raw_bytes - stats.weight_payload_bytes) / max(sum(stats.operators.values()), 1)
    reckoned = round(4 * weights_of(model) + of_operator * (2 + sum(min(n, _LOOP) for n in parts.values())))
    if stats.raw_bytes <= reckoned:
        return []
    return [
        f"{stats.raw_bytes:,} B are likely more than the float32 file's, about {reckoned:,} B: in integers "
        f"{', '.join(many)} are taken apart, steps of sequences one by one, and each operator takes "
        f"{of_operator:,.0f} B beside its weights."
    ]


def _slower(graph: Graph) -> list[str]:
    """Of files with 8-bit activations; 16-bit ones are in XNNPACK nowhere."""
    values: Counter[str] = Counter()
    slow: Counter[str] = Counter()
    for op in graph.operators:
        kind = graph.kind(op)
        values[kind] += sum(math.prod(graph.shape(tensor)) for tensor in op.outputs)
        slow[kind] += kind in _NOT_IN_XNNPACK and graph.dtype(op.outputs[0]) == "int8"
    found = {kind: count for kind, count in slow.items() if count}
    share = sum(values[kind] for kind in found) / max(sum(values.values()), 1)
    if share < _SHARE:
        return []
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
    return [
        f"Without an int8 kernel in XNNPACK, which runs it in float32: {listed} ({share:.0%} of the values). The file "
        "may be slower than the float32 one; `measure_all` times both."
    ]


def weights_of(model: keras.Model) -> int:
    """How many numbers the layers of the model have, those that this library adds not counted."""
    layers = {id(each): each for each in map(inner, keras_private.flattened(model, include_self=False))}
    own = [layer for layer in layers.values() if not type(layer).__module__.startswith("keras_compress.")]
    variables = {id(v): v for layer in own for v in keras_private.own_variables(layer)}
    return sum(math.prod(v.shape) for v in variables.values())
