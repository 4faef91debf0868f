"""Which operators of a `.tflite` file multiply by weights, and how often in one inference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from keras_compress.runtime.cortex_m_costs import CONVOLUTION, DENSE, DEPTHWISE
from keras_compress.tflite.flatbuffer import Graph

# Operators that multiply by weights, but in a number that shapes alone do not tell, or without a published figure.
UNCOUNTED = (
    *("SVDF", "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN", "LSTM", "RNN"),
    *("BIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_RNN", "CONV_3D", "CONV_3D_TRANSPOSE"),
    *("WHILE", "IF", "CALL_ONCE"),
)


@dataclass(frozen=True)
class Multiplying:
    """An operator that multiplies.

    Attributes:
        cost: Kind of its kernel: key of a core's table.
        data, weights: Which inputs they are.
        macs: `(input shape, weight shape, output shape) -> multiplications`.
    """

    cost: str
    data: int
    weights: int
    macs: Callable[[Sequence[int], Sequence[int], Sequence[int]], int]


# Weights as the file stores them: OHWI; 1HWO for depthwise; OI.
MULTIPLYING = {
    "CONV_2D": Multiplying(CONVOLUTION, 0, 1, lambda i, w, o: math.prod(o) * math.prod(w[1:])),
    "DEPTHWISE_CONV_2D": Multiplying(DEPTHWISE, 0, 1, lambda i, w, o: math.prod(o) * math.prod(w[1:3])),
    "TRANSPOSE_CONV": Multiplying(CONVOLUTION, 2, 1, lambda i, w, o: math.prod(i) * math.prod(w[:3])),
    "FULLY_CONNECTED": Multiplying(DENSE, 0, 1, lambda i, w, o: math.prod(o) * w[-1]),
    # The rows of the first operand are the output's, also where it is transposed, or the same for all of the second.
    "BATCH_MATMUL": Multiplying(DENSE, 0, 1, lambda i, w, o: math.prod(o) * math.prod(i[-2:]) // o[-2]),
}


def multiplied(graph: Graph, op: Any) -> tuple[Multiplying, int] | None:
    """How an operator multiplies, and how often; `None` where it does not."""
    found = MULTIPLYING.get(graph.kind(op))
    if found is None:
        return None
    data, weights, output = (graph.shape(i) for i in (op.inputs[found.data], op.inputs[found.weights], op.outputs[0]))
    return found, found.macs(data, weights, output)


def not_counted(graph: Graph, operators: dict[str, int]) -> list[str]:
    """Notes on multiplications that are in no figure.

    Args:
        graph: The file.
        operators: Kind of operator -> how many.
    """
    uncounted = [f"{count} {name}" for name, count in operators.items() if name in UNCOUNTED]
    return [*([f"Not included: {', '.join(uncounted)}"] if uncounted else []), *_unknown_sizes(graph)]


def _unknown_sizes(graph: Graph) -> list[str]:
    """What the file leaves open: how often its other graphs run, and how large its inputs are."""
    notes = []
    others = sum(len(subgraph.operators) for subgraph in graph.model.subgraphs[1:])
    if others:
        notes.append(
            f"Not included: {others} operators of other subgraphs (what WHILE and IF run, other signatures): how often "
            "they run is not in the file"
        )
    for tensor in graph.inputs:
        signature = graph.tensors[tensor].shapeSignature
        if signature is not None and any(size < 0 for size in list(signature)[1:]):
            notes.append(f"Too low: input {graph.name(tensor)!r} has open sizes {list(signature)}, counted as 1")
    return notes
