"""Where the bytes of a `.tflite` file are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from keras_compress.tflite.encoding.known import DECODE
from keras_compress.tflite.flatbuffer import Graph, read_model
from keras_compress.tflite.inspection import WEIGHT_INPUTS

# Kinds of parts, in the order in which the page shows them.
KINDS = WEIGHTS, BIASES, OTHER, SCALES, TABLES = (
    "weights",
    "biases",
    "other constants",
    "scales and zero points",
    "operators, tensors, names",
)
# Inputs of an operator with a bias, by its number of inputs.
_BIAS_INPUT = 2


@dataclass(frozen=True)
class Part:
    """A share of the file.

    Attributes:
        name: Tensor that the bytes belong to; the kind where they belong to the whole file.
        kind: One of the kinds above.
        bytes: How many.
    """

    name: str
    kind: str
    bytes: int


def file_map(content: bytes) -> list[dict[str, Any]]:
    """The parts of a file, largest first within each kind; their bytes add up to the file's.

    Args:
        content: The `.tflite` file.

    Raises:
        ValueError: For anything else.
    """
    graph = Graph(read_model(content))
    parts = [*_constants(graph), Part(SCALES, SCALES, _scale_bytes(graph))]
    rest = len(content) - sum(part.bytes for part in parts)
    parts.append(Part(TABLES, TABLES, rest))
    ordered = sorted(parts, key=lambda part: (KINDS.index(part.kind), -part.bytes))
    return [asdict(part) for part in ordered if part.bytes]


def _constants(graph: Graph) -> Iterator[Part]:
    """Each buffer once, by the first tensor that has it."""
    kinds = _kinds(graph)
    seen = set()
    for number, tensor in enumerate(graph.tensors):
        data = graph.model.buffers[tensor.buffer].data
        if tensor.buffer not in seen and data is not None and len(data):
            seen.add(tensor.buffer)
            yield Part(graph.name(number), kinds.get(number, OTHER), len(data))


def _kinds(graph: Graph) -> dict[int, str]:
    """Tensor -> what it is to the operators that read it."""
    kinds: dict[int, str] = {}
    for op in graph.operators:
        weights = WEIGHT_INPUTS.get(graph.kind(op), ())
        if graph.custom_name(op) == DECODE:
            # Streams and tables in turns stand for the weights that they are decoded to.
            weights = tuple(range(len(op.inputs)))
        for position, tensor in enumerate(op.inputs):
            if position in weights:
                kinds[tensor] = WEIGHTS
            elif position == _BIAS_INPUT and weights:
                kinds.setdefault(tensor, BIASES)
    return kinds


def _scale_bytes(graph: Graph) -> int:
    """Of all tensors' quantization: 4 bytes for a scale, 8 for a zero point; equal lists are written once."""
    lists: dict[bytes, int] = {}
    for tensor in graph.tensors:
        if tensor.quantization is not None:
            for values, dtype in ((tensor.quantization.scale, "<f4"), (tensor.quantization.zeroPoint, "<i8")):
                if values is not None and np.size(values):
                    written = np.asarray(values, dtype).tobytes()
                    lists[written] = len(written)
    return sum(lists.values())
