"""Weights of few different vectors stored as codes, which a GATHER looks up in their codebook while the model runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from keras_compress.tflite.encoding.codec import Codec
from keras_compress.tflite.encoding.known import codecs
from keras_compress.tflite.encoding.vectors import CodedVectors, coded
from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.gathered import READERS
from keras_compress.tflite.lowering.rule import rule_of
from keras_compress.tflite.lowering.weighted import Weighted
from keras_compress.tflite.passes.encode_weights import TABLE_BYTES, choices, form_of

# What a file grows by for one weight beside codebook and codes: up to seven tensors, five operators and padding.
_GRAPH_BYTES = 700
# Operators that make a weight out of codes, the last one first.
_MAKING = ("TRANSPOSE", "RESHAPE", "GATHER", "ADD", "CAST")


def gather_vectors(graph: Graph) -> list[str]:
    """Store int8 weights of convolutions and dense layers as codes of vectors, where nothing else is smaller.

    The operators before a layer are CAST (codes to int32), ADD (128, where there are more than 128 codewords), GATHER,
    RESHAPE and, of kernels with several places, TRANSPOSE. The weight is then a computed tensor of the same integers
    and scales.

    Args:
        graph: Integer graph for TFLite-Micro.

    Returns:
        A line for each weight that is stored so.
    """
    notes: list[str] = []
    operators: list[Any] = []
    done: set[int] = set()
    known = codecs()
    for op in graph.operators:
        weight = op.inputs[_weight_of(graph, op)] if graph.kind(op) in READERS else -1
        found = None if weight < 0 or weight in done else _smallest(graph, weight, known)
        if found is not None:
            done.add(weight)
            number, size = found.codewords.shape
            notes.append(f"{graph.name(weight)}: {len(found.codes):,} codes of {number} vectors of {size}")
            operators += _made(graph, weight, found)
        operators.append(op)
    graph.operators = operators
    return notes


def _weight_of(graph: Graph, op: Any) -> int:
    rule = rule_of(graph.kind(op))
    return rule.weight if isinstance(rule, Weighted) else 0


def _smallest(graph: Graph, weight: int, known: Mapping[str, Codec]) -> CodedVectors | None:
    """The weight as vectors; `None` where it is stored in fewer bytes otherwise."""
    values = graph.constant(weight)
    if values is None or values.dtype != np.int8 or graph.dtype(weight) != "int8" or values.size == 0:
        return None
    found = coded(values)
    if found is None:
        return None
    choice = choices(values, form_of(graph, weight), known)
    others = [values.nbytes, *(size + TABLE_BYTES for size in choice.sizes.values())]
    return found if found.bytes + _GRAPH_BYTES < min(others) else None


def _made(graph: Graph, weight: int, found: CodedVectors) -> list[Any]:
    """Operators that compute a weight, whose constant goes."""
    name = graph.name(weight)
    codes = graph.add_constant(f"{name}/codes", found.stored_codes)
    operators = []
    cast = schema.CastOptionsT()
    cast.inDataType, cast.outDataType = graph.tensors[codes].type, schema.TensorType.INT32
    numbers = graph.add_tensor(f"{name}/numbers", found.codes.shape, "int32")
    operators.append(graph.make_operator("CAST", [codes], [numbers], cast))
    if found.offset:
        offset = graph.add_constant(f"{name}/offset", np.array([found.offset], np.int32))
        shifted = graph.add_tensor(f"{name}/shifted", found.codes.shape, "int32")
        operators.append(graph.make_operator("ADD", [numbers, offset], [shifted], schema.AddOptionsT()))
        numbers = shifted
    book = graph.add_constant(f"{name}/codewords", found.codewords)
    rows = graph.add_tensor(f"{name}/vectors", (len(found.codes), found.codewords.shape[1]), "int8")
    operators.append(graph.make_operator("GATHER", [book, numbers], [rows], schema.GatherOptionsT()))
    graph.free_constant(weight)
    moved = graph.add_tensor(f"{name}/moved", found.shape, "int8") if found.places_last else weight
    options = schema.ReshapeOptionsT()
    options.newShape = list(found.shape)
    shape = graph.add_constant(f"{name}/shape", np.array(found.shape, np.int32))
    operators.append(graph.make_operator("RESHAPE", [rows, shape], [moved], options))
    if found.places_last:
        order = graph.add_constant(f"{name}/order", np.array([0, 2, 3, 1], np.int32))
        operators.append(graph.make_operator("TRANSPOSE", [moved, order], [weight], schema.TransposeOptionsT()))
    scales = graph.quantization(weight)
    for tensor in {book, rows, moved} - {weight}:
        if scales is not None:
            graph.set_quantization(tensor, scales[0][:1])
    return operators


def restore_vectors(graph: Graph) -> int:
    """Put the values of weights that are made of codes into the graph, and take the operators out that made them.

    Returns:
        How many weights there were.

    Raises:
        ValueError: For a code without a codeword, with the weight's name.
    """
    producers = graph.producers()
    gone: set[int] = set()
    count = 0
    for op in graph.operators:
        weight = op.inputs[_weight_of(graph, op)] if graph.kind(op) in READERS else -1
        made = _chain(graph, producers, weight)
        if made is not None:
            values = _values(graph, made, graph.name(weight))
            graph.set_constant(weight, values.reshape(graph.shape(weight)))
            gone |= {id(each) for each in made}
            count += 1
    graph.operators = [op for op in graph.operators if id(op) not in gone]
    return count


def _chain(graph: Graph, producers: Mapping[int, Any], weight: int) -> list[Any] | None:
    """The operators that make a weight out of codes, the first one first; `None` for any other weight."""
    found: list[Any] = []
    tensor, kinds = weight, list(_MAKING)
    while tensor >= 0 and not graph.is_constant(tensor) and tensor in producers:
        op = producers[tensor]
        kind = graph.kind(op)
        if kind not in kinds:
            return None
        kinds = kinds[kinds.index(kind) + 1 :]
        found.append(op)
        tensor = op.inputs[1 if kind == "GATHER" else 0]
    made = [graph.kind(op) for op in found]
    complete = tensor >= 0 and graph.is_constant(tensor) and "GATHER" in made and "CAST" in made
    return found[::-1] if complete else None


def _values(graph: Graph, made: list[Any], name: str) -> NDArray[Any]:
    value: Any = graph.constant(made[0].inputs[0])
    for op in made:
        kind = graph.kind(op)
        if kind == "CAST":
            value = value.astype(np.int64)
        elif kind == "ADD":
            value = value + _constant(graph, op.inputs[1], name)
        elif kind == "GATHER":
            book = _constant(graph, op.inputs[0], name)
            if value.size and not 0 <= value.min() <= value.max() < len(book):
                raise ValueError(f"Could not read {name!r}: a code has no codeword")
            value = book[value]
        elif kind == "RESHAPE":
            value = value.reshape(graph.shape(op.outputs[0]))
        else:
            value = value.transpose(_constant(graph, op.inputs[1], name))
    return np.ascontiguousarray(value)


def _constant(graph: Graph, tensor: int, name: str) -> NDArray[Any]:
    found = graph.constant(tensor)
    if found is None:
        raise ValueError(f"Could not read {name!r}: a table that makes it is computed")
    return found
