"""What kind of numbers a file's operators multiply, read from the file."""

from __future__ import annotations

from collections import Counter

from ai_edge_litert import schema_py_generated as schema

from keras_compress.tflite.flatbuffer import Graph, read_model
from keras_compress.tflite.inspection import WEIGHT_INPUTS

# The values that meet the weights, where they are not the first input: there the output's shape is.
_DATA_INPUT = {"TRANSPOSE_CONV": 2, "CONV_3D_TRANSPOSE": 2}
# They multiply nothing.
_LOOKUPS = ("EMBEDDING_LOOKUP",)
_TYPES = {value: name.lower() for name, value in vars(schema.TensorType).items() if name[0] != "_"}


def arithmetic(content: bytes) -> str:
    """How the operators with weights compute.

    Args:
        content: A `.tflite` file.

    Returns:
        `"float32"`; `"float16"`: weights stored so, computed in float32; `"dynamic"`: integer weights, inputs that are
        real numbers; `"int8"`; `"16x8"`: inputs of 16 bits; where a file has several, all with `+` between
        them, the most frequent first; `"no weights"` without any.
    """
    kinds: Counter[str] = Counter()
    model = read_model(content)
    for number in range(len(model.subgraphs)):
        graph = Graph(model, number)
        made_by = {output: op for op in graph.operators for output in op.outputs}
        for op in graph.operators:
            positions = WEIGHT_INPUTS.get(graph.kind(op), ())
            weights = [op.inputs[n] for n in positions if n < len(op.inputs) and op.inputs[n] >= 0]
            if weights and 0 not in positions and graph.kind(op) not in _LOOKUPS:
                kinds[_kind(graph, op.inputs[_DATA_INPUT.get(graph.kind(op), 0)], weights[0], made_by)] += 1
    return "+".join(kind for kind, _ in kinds.most_common()) or "no weights"


def _kind(graph: Graph, given: int, weight: int, made_by: dict[int, object]) -> str:
    source = made_by.get(weight)
    while source is not None and graph.kind(source) in ("DEQUANTIZE", "DENSIFY"):
        weight = source.inputs[0]  # type: ignore[attr-defined]
        source = made_by.get(weight)
    inputs, weights = (_TYPES[graph.tensors[index].type] for index in (given, weight))
    if inputs.startswith("float"):
        return weights if weights.startswith("float") else "dynamic"
    return "16x8" if inputs == "int16" else inputs
