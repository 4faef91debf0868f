"""How often kernels that round twice must differ from exact arithmetic.

The reference kernels and TFLM multiply an accumulator by `M = input scale * weight scale / output scale` in two steps:
`round(round(acc * q) / 2^n)` with `M = q * 2^-n`, `0.5 <= q < 1`. After the first rounding a value lies on a tie of the
second with a chance of `2^-n`, and half of these go the wrong way. Many small accumulators (few inputs, coarse scales)
mean a large M, a small n, and more of them.
"""

from __future__ import annotations

import numpy as np

from keras_compress.convert.flatbuffer import Graph, read_model

_PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "MUL", "BATCH_MATMUL")


def double_rounding_share(content: bytes) -> float:
    """Expected share of outputs that a twice-rounding kernel gets wrong by one step, the worst operator of a file.

    Operators that multiply nothing count as 0.
    """
    graph = Graph(read_model(content))
    return max((_share(graph, op) for op in graph.operators if graph.kind(op) in _PRODUCTS), default=0.0)


def _share(graph: Graph, op: object) -> float:
    operands = op.inputs  # type: ignore[attr-defined]
    data = operands[2] if graph.kind(op) == "TRANSPOSE_CONV" else operands[0]
    scales = [graph.quantization(t) for t in (data, operands[1], op.outputs[0])]  # type: ignore[attr-defined]
    if any(found is None for found in scales):
        return 0.0
    source, weight, target = (found[0].astype(np.float64) for found in scales if found is not None)
    _, exponent = np.frexp(source[0] * weight / target[0])
    shift = np.maximum(-exponent, 0)
    share = float(np.where(shift > 0, 2.0 ** -(shift + 1.0), 0.0).mean())
    # Products of two int8 numbers are few, and squares fewer: they meet ties about twice as often as sums do.
    return 2 * share if graph.kind(op) == "MUL" else share
