"""Why TFLite-Micro refuses a file that LiteRT runs, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keras_compress.tflite.bit_format import OPERATORS
from keras_compress.tflite.flatbuffer import PACKED_BITS, Graph, read_model
from keras_compress.tflite.inspection import WEIGHT_INPUTS
from keras_compress.tflite.storage import takes_packed

_INTEGERS = ("int8", "uint8", "int16", *PACKED_BITS)
# They look entries up: nothing is multiplied.
_LOOKUPS = ("GATHER", "EMBEDDING_LOOKUP")


def unfit_for_tflm(content: bytes) -> str | None:
    """Which operator has weights that TFLite-Micro has no kernel for, and the cure; `None` where none is known.

    Raises:
        ValueError: For a damaged file.
    """
    model = read_model(content)
    graphs = (Graph(model, number) for number in range(len(model.subgraphs)))
    return next((reason for graph in graphs for op in graph.operators for reason in _reasons(graph, op)), None)


def _reasons(graph: Graph, op: Any) -> Iterator[str]:
    kind = graph.kind(op)
    if graph.custom_name(op) in OPERATORS.values():
        yield (
            f"{graph.name(op.outputs[0])!r} has weights as bits, which TFLite-Micro's host build does not read; "
            "kc.expand gives the stock file, kc.export_c the operator's source"
        )
        return
    if kind == "DEQUANTIZE" and graph.is_constant(op.inputs[0]) and graph.dtype(op.inputs[0]) == "float16":
        yield f"{graph.name(op.inputs[0])!r} is stored in float16; convert with mode='int8' or 'float32'"
    sparse = [t for t in op.inputs if t >= 0 and graph.tensors[t].sparsity is not None]
    if sparse:
        yield f"{graph.name(sparse[0])!r} is stored sparse; convert with sparsity='none'"
    for position in WEIGHT_INPUTS.get(kind, ()):
        weight = op.inputs[position] if position < len(op.inputs) else -1
        if weight < 0 or kind in _LOOKUPS or graph.dtype(weight) not in _INTEGERS:
            continue
        what = f"{kind} {graph.name(op.outputs[0])!r} has"
        if any(graph.dtype(t).startswith("float") for t in op.outputs):
            yield (
                f"{what} {graph.dtype(weight)} weights and float activations (dynamic range); convert with mode='int8'"
            )
        bits = PACKED_BITS.get(graph.dtype(weight))
        scales = graph.quantization(weight)
        if bits is not None and not takes_packed("tflm", kind, bits, 1 if scales is None else len(scales[0])):
            yield f"{what} INT{bits} weights; convert with target='tflm', or weights_storage='int8'"
