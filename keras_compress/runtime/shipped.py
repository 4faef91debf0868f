"""A file on disk as the artifact that `verify` compares: its model is frozen with the ranges of the file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras

from keras_compress.convert.artifact import Artifact
from keras_compress.convert.batch_size import AUTO, BatchSize
from keras_compress.convert.compressed import expand_content
from keras_compress.convert.convert import convert
from keras_compress.convert.expand.small_rows import is_of_small_rows
from keras_compress.convert.freeze import freeze, is_frozen, points_in
from keras_compress.data.samples import fixed_batch, input_specs, samples
from keras_compress.graph.graph import is_graph
from keras_compress.quantizers.activation import FixedGrid
from keras_compress.runtime.deployed import content_of
from keras_compress.tflite.encoding.known import DECODE
from keras_compress.tflite.flatbuffer import PACKED_BITS, Graph, read_model
from keras_compress.tflite.inspection import check_structure
from keras_compress.tflite.lowering.rule import rule_of
from keras_compress.tflite.lowering.weighted import Weighted
from keras_compress.tflite.lstm.operator import CELL
from keras_compress.tflite.lstm.operator import KIND as LSTM
from keras_compress.tflite.passes.store_bits import has_bits
from keras_compress.tflite.plan import MADE_FOR
from keras_compress.tflite.storage import BITS

# Samples that set ranges for a moment, until the file's take their place.
_SAMPLES = 100


def shipped(
    model_file: bytes | str | os.PathLike[str], model: keras.Model | None, x: Any, kernels: Sequence[str] | None
) -> Artifact:
    """The artifact that a file is, given the Keras model it was made from.

    Ranges that training set are the model's, and a file with other ones fails; those that calibration set are not in a
    Keras model, and are taken from the file. Weights are always the model's.

    Args:
        model_file: The bytes of an integer `.tflite` file that `convert` made, or its path.
        model: The Keras model.
        x: Data as for `verify`.
        kernels: Runtimes that were asked for.

    Raises:
        ValueError: Without a model, for a file without integers, or one that was made from another model.
    """
    content, label = content_of(model_file)
    check_structure(content)
    if model is None:
        raise ValueError(f"Expected the Keras model that {label} was made from. Received: model=None")
    graph = Graph(read_model(content))
    of_bits = has_bits(graph)
    if of_bits:
        graph = _plain(content)
    options = {**_options(graph, label, _is_mixed(model)), "batch_size": _batch_size(graph, model)}
    if of_bits:
        options["weights_storage"] = BITS
    target = "tflm" if kernels is not None and set(kernels) == {"tflm"} else _target(graph)
    few = _few(x, model)
    artifact = convert(model, target, representative_dataset=None if is_frozen(model) else few, **options)
    tensors = _tensors(graph, artifact, label)
    grids = {point: grid for point, tensor in tensors.items() if (grid := _grid(graph, tensor)) is not None}
    cells, same_cells = _cells(artifact, graph)
    apart = _of_small_rows(graph)
    if len(apart) != sum(map(is_of_small_rows, artifact.points)):
        grids, same_cells = {**apart, **grids}, False
    same = same_cells and all(_same(artifact.frozen, name, grid) for name, grid in grids.items() if artifact.frozen)
    if artifact.frozen is None or is_frozen(model) or same:
        return _with_content(artifact, content, graph, tensors)
    bits = 16 if artifact.mode == "16x8" else 8
    known = {"grids": {**grids, **cells}, "recurrent": options["recurrent"], "batch_size": options["batch_size"]}
    frozen = freeze(model, few, activation_bits=bits, storage=artifact.storage, **known)
    made = convert(frozen, target, **options)
    return _with_content(made, content, graph, _tensors(graph, made, label))


def _plain(content: bytes) -> Graph:
    """The stock file that one with weights as bits stands for."""
    return Graph(read_model(expand_content(content)))


def _with_content(made: Artifact, content: bytes, graph: Graph, tensors: Mapping[str, int]) -> Artifact:
    if made.lowered is not None:  # operators are those of the plain file, which was made here
        return replace(made, content=content)
    return replace(made, content=content, points={point: graph.name(tensor) for point, tensor in tensors.items()})


def _is_mixed(model: keras.Model) -> bool:
    """Whether a model asks for activations of 16 bits beside others."""
    widths = {point.quantizer.bits == 16 for point in points_in(model)}
    return len(widths) == 2


def _options(graph: Graph, label: str, is_mixed: bool) -> dict[str, Any]:
    """Mode, type of inputs and outputs, and storage of weights, as the file has them."""
    weights = [(kind, dtype) for kind, data, dtype in _weighted(graph) if data in ("int8", "int16")]
    if not weights:
        raise ValueError(f"Expected a file with integers, in mode 'int8' or '16x8'. Received: {label}, without")
    widths = {data for _, data, _ in _weighted(graph)}
    sixteen = "int16" in widths and "int8" not in widths and not is_mixed
    ends = {graph.dtype(tensor) for tensor in (*graph.inputs, *graph.outputs)}
    io = next((dtype for dtype in ("int8", "uint8", "int16") if dtype in ends), "float32")
    packed = {dtype for _, dtype in weights if dtype in PACKED_BITS}
    slow = any(kind != "FULLY_CONNECTED" and dtype in PACKED_BITS for kind, dtype in weights)
    storage = "int2" if "int2" in packed else "int4" if packed and slow else "auto" if packed else "int8"
    return {
        "mode": "16x8" if sixteen else "int8",
        "io": io,
        "weights_storage": _encoded(graph) or storage,
        "recurrent": "fused" if any(graph.kind(op) == LSTM for op in graph.operators) else "unrolled",
    }


def _batch_size(graph: Graph, model: keras.Model) -> BatchSize:
    """What was asked for: where the model has another size than the file."""
    own = fixed_batch(model) if is_graph(model) else None
    signature = graph.tensors[graph.inputs[0]].shapeSignature
    found = None if signature is not None and len(signature) and signature[0] < 0 else graph.shape(graph.inputs[0])[0]
    return AUTO if found in (own, own or 1) else found


def _weighted(graph: Graph) -> list[tuple[str, str, str]]:
    """Kind of each operator with weights, type of its data and of its weights."""
    found = []
    for op in graph.operators:
        rule = rule_of(graph.kind(op))
        if isinstance(rule, Weighted):
            found.append((graph.kind(op), graph.dtype(op.inputs[rule.data]), graph.dtype(op.inputs[rule.weight])))
    return found


def _encoded(graph: Graph) -> str | None:
    return "auto" if any(graph.custom_name(op) == DECODE for op in graph.operators) else None


def _target(graph: Graph) -> str:
    """TFLite-Micro, where the file says so, weights are encoded, or biases are without the scales that LiteRT wants."""
    if graph.model.description == MADE_FOR["tflm"] or _encoded(graph):
        return "tflm"
    for op in graph.operators:
        rule = rule_of(graph.kind(op))
        if isinstance(rule, Weighted) and rule.bias < len(op.inputs) and op.inputs[rule.bias] >= 0:
            weight = graph.quantization(op.inputs[rule.weight])
            if weight is not None and weight[0].size > 1 and graph.quantization(op.inputs[rule.bias]) is None:
                return "tflm"
    return "litert"


def _few(x: Any, model: keras.Model) -> Any:
    if not is_graph(model):
        return x  # how many inputs it has is found out with the data
    return [array[:_SAMPLES] for array in samples(x, input_specs(model))]


def _tensors(graph: Graph, made: Artifact, label: str) -> dict[str, int]:
    """Activation point -> its tensor in the file: by its place, since some names are numbered anew in each session."""
    again = _plain(made.content) if made.storage.wanted == BITS else Graph(read_model(made.content))
    if _form(again) == _form(graph):
        numbers = {again.name(a): b for a, b in zip(_in_order(again), _in_order(graph), strict=True) if min(a, b) >= 0}
    else:
        numbers = {graph.name(tensor): tensor for tensor in range(len(graph.tensors))}
    # Which rows are measured apart is up to the data, of which these are others.
    missing = [tensor for point, tensor in made.points.items() if tensor not in numbers and not is_of_small_rows(point)]
    if missing and made.lowered is None:
        raise ValueError(
            f"Expected a file that `convert` made from the model {getattr(made.frozen, 'name', '')!r}. "
            f"Received: {label}, without its tensor {missing[0]!r}"
        )
    return {point: numbers[tensor] for point, tensor in made.points.items() if tensor in numbers}


def _of_small_rows(graph: Graph) -> dict[str, FixedGrid]:
    """Grids of what is computed for small rows, by which they are known to be measured apart."""
    named = ((graph.name(tensor), tensor) for tensor in range(len(graph.tensors)))
    found = ((name, _grid(graph, tensor)) for name, tensor in named if is_of_small_rows(name))
    return {name: grid for name, grid in found if grid is not None}


def _form(graph: Graph) -> list[Any]:
    ends = (len(graph.inputs), len(graph.outputs))
    return [ends, *((graph.kind(op), len(op.inputs), len(op.outputs)) for op in graph.operators)]


def _in_order(graph: Graph) -> list[int]:
    return [*graph.inputs, *(tensor for op in graph.operators for tensor in (*op.inputs, *op.outputs))]


def _cells(made: Artifact, graph: Graph) -> tuple[dict[str, FixedGrid], bool]:
    """Point at the cell states of an LSTM -> their grid in the file, and whether all are those that were made here."""
    again = _plain(made.content) if made.storage.wanted == BITS else Graph(read_model(made.content))
    here, there = ([op.inputs[CELL] for op in each.operators if each.kind(op) == LSTM] for each in (again, graph))
    pairs = [(_grid(again, a), _grid(graph, b)) for a, b in zip(here, there, strict=False)]
    names = [again.name(tensor).removesuffix("/cell") + ".cells_quantized" for tensor in here]
    found = {name: grid for name, (_, grid) in zip(names, pairs, strict=False) if grid is not None}
    return found, all(a is not None and b is not None and a.scale == b.scale for a, b in pairs)


def _grid(graph: Graph, tensor: int) -> FixedGrid | None:
    quantization = graph.quantization(tensor)
    if quantization is None:
        return None
    return FixedGrid(float(quantization[0][0]), int(quantization[1]), 16 if graph.dtype(tensor) == "int16" else 8)


def _same(frozen: keras.Model, point: str, grid: FixedGrid) -> bool:
    known = next((layer.quantizer for layer in frozen.layers if layer.name == point), None)
    return known is not None and (known.scale, known.zero_point) == (grid.scale, grid.zero_point)
