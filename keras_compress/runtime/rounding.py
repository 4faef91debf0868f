"""How often a kernel must differ from exact arithmetic by one step.

The reference kernels and TFLM multiply an accumulator by `M = input scale * weight scale / output scale` in two steps:
`round(round(acc * q) / 2^n)` with `M = q * 2^-n`, `0.5 <= q < 1`. After the first rounding a value lies on a tie of the
second with a chance of `2^-n`, and half of these go the wrong way. Many small accumulators (few inputs, coarse scales)
mean a large M, a small n, and more of them.

Where the accumulators are few and alike, chance does not describe them: a product of two int8 tensors is often an odd
number of half steps (a SiLU near 0 multiplies by 128 / 256), and in a 1x1 depthwise convolution with one weight all
values may lie at the same distance from a tie.

Sums of whole multiples of half an output step (tensors on one scale, added into twice that; the mean of two) lie on a
tie as often as they are odd. Each kernel has its own rule there, and neither neighbour is nearer.

With 16-bit activations the kernels keep 15 bits of q (the accumulator takes 48): an output y is off by `y * r`, r the
relative error of that, up to 2^-15, and crosses a middle between two steps with that chance.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.lstm.operator import KIND as LSTM

# Kernels that give the integers of others, by whose names their rounding is known.
ROUNDS_AS = {"kc_binary": "xnnpack"}
# Mean magnitude that 16-bit outputs are taken to have; ranges are wider than what values mostly are.
_MEAN_OUTPUT_16 = 2.0**13
_PRODUCTS = ("MEAN", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "MUL", "BATCH_MATMUL")
# Values that go through these are not rounded.
EXACT = (
    *("RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "CONCATENATION", "PACK", "STRIDED_SLICE"),
    *("MAXIMUM", "MINIMUM"),
)
_MOVING = ("RESHAPE", "REVERSE_V2", "STRIDED_SLICE", "TRANSPOSE")
_SUMS, _DENSE = ("ADD", "SUB"), "FULLY_CONNECTED"
# Measured on the networks of `benchmarks/zoo.py`: up to 3.9 % of the products of two tensors.
PRODUCT_OF_TENSORS = 0.02
# HARD_SWISH is computed in 16 bits: XNNPACK puts up to 1.3 % of the values one step off, the other kernels 40 %.
# MEAN rounds once on XNNPACK and twice on TFLite-Micro, whose rules frozen models copy; LiteRT's other kernels divide
# by the number of values in another way, and put up to 36 % one step off.
_OWN_RULES = {
    "HARD_SWISH": {"xnnpack": 0.03, "reference": 0.5, "builtin": 0.5, "tflm": 0.5},
    "MEAN": {"reference": 0.5, "builtin": 0.5},
}
# Their outputs have one scale, whatever is wanted. Behind one that a point did not know of, in a function that only
# TensorFlow understands, another operator moves them to the point's scale: rounded twice, where the frozen model does
# once.
_FIXED_SCALE = ("L2_NORMALIZATION", "LOGISTIC", "SOFTMAX", "TANH")


def expected_share(graph: Graph, kernel: str) -> float:
    """Largest share of values that a kernel's own arithmetic may put one step off, for the worst operator of a file.

    Args:
        graph: A file, as a rule of one operator.
        kernel: `"xnnpack"`, which rounds once and leaves some packed weights to the built-in kernels, or another, which
            rounds twice: then twice the expected share.
    """
    own = [_OWN_RULES[graph.kind(op)].get(kernel, 0.0) for op in graph.operators if graph.kind(op) in _OWN_RULES]
    if any(own):
        return max(own)
    rounding = [op for op in graph.operators if graph.kind(op) not in EXACT]
    if any(graph.kind(op) in _FIXED_SCALE for op in rounding) and len(rounding) > 1:
        return 0.5
    twice = [
        op
        for op in graph.operators
        if graph.kind(op) in _PRODUCTS and (kernel != "xnnpack" or left_to_built_in(graph, op))
    ]
    shares = [2 * _share(graph, op) for op in twice]
    ties = [_ties(graph, op) for op in graph.operators if graph.kind(op) in _SUMS]
    ties += [_ties(graph, op) for op in twice if graph.kind(op) == _DENSE]
    return max([0.0, *shares, *ties])


def is_copied(graph: Graph, kernel: str) -> bool:
    """Whether the frozen model computes what a file does to the last bit: LSTMs, and what moves values.

    LiteRT's kernels for ARM round ties of negative numbers upwards, those for other processors away from zero, as
    the frozen model does.

    Args:
        graph: A file.
        kernel: As for `expected_share`.
    """
    kinds = {graph.kind(op) for op in graph.operators}
    portable = kernel == "tflm" or not platform.machine().lower().startswith(("arm", "aarch"))
    return portable and LSTM in kinds and kinds <= {LSTM, *_MOVING}


def left_to_built_in(graph: Graph, op: Any) -> bool:
    """Whether XNNPACK leaves an operator to the built-in kernel.

    These are products of tensors, packed weights, 16 bits, and transposed convolutions with SAME padding whose strides
    leave gaps between the kernels: the padding would be negative.
    """
    if any(tensor >= 0 and graph.dtype(tensor) == "int16" for tensor in op.inputs):
        return True
    if graph.kind(op) == "BATCH_MATMUL":
        return True
    if graph.kind(op) == "MEAN":
        return False
    if graph.kind(op) == "TRANSPOSE_CONV" and _has_gaps(graph, op):
        return True
    dtype = graph.dtype(op.inputs[1])
    if dtype not in ("int4", "int2"):
        return False
    inputs, scales = graph.shape(op.inputs[1])[-1], graph.quantization(op.inputs[1])
    per_tensor = scales is None or scales[0].size == 1
    if graph.kind(op) != "FULLY_CONNECTED":
        return True
    return inputs % 2 != 0 if dtype == "int4" else inputs % 4 != 0 or per_tensor


def _has_gaps(graph: Graph, op: Any) -> bool:
    options, (height, width) = op.builtinOptions, graph.shape(op.inputs[1])[1:3]
    gaps: bool = options.strideH > height or options.strideW > width
    return gaps and bool(options.padding == schema.Padding.SAME)


def _share(graph: Graph, op: Any) -> float:
    """Share of outputs that rounding twice gets wrong by one step."""
    data = op.inputs[2] if graph.kind(op) == "TRANSPOSE_CONV" else op.inputs[0]
    if graph.kind(op) == "MEAN":
        return _share_of_means(graph, op)
    scales = [graph.quantization(t) for t in (data, op.inputs[1], op.outputs[0])]
    if any(found is None for found in scales):
        return 0.0
    if _scales_alike(graph, op):
        return 0.5
    source, weight, target = (found[0].astype(np.float64) for found in scales if found is not None)
    fraction, exponent = np.frexp(source[0] * weight / target[0])
    if graph.dtype(data) == "int16":
        reduced = np.minimum(np.rint(fraction * 2.0**15), 2.0**15 - 1) / 2.0**15
        return float(np.minimum(_MEAN_OUTPUT_16 * np.abs(reduced / fraction - 1.0), 0.5).mean())
    shift = np.maximum(-exponent, 0)
    share = float(np.where(shift > 0, 2.0 ** -(shift + 1.0), 0.0).mean())
    of_tensors = graph.kind(op) == "MUL" and not any(graph.is_constant(t) for t in op.inputs)
    return max(2 * share, PRODUCT_OF_TENSORS) if of_tensors else share


def _share_of_means(graph: Graph, op: Any) -> float:
    """The same of means, whose factor is divided by the number of values."""
    source, target = graph.quantization(op.inputs[0]), graph.quantization(op.outputs[0])
    if source is None or target is None:
        return 0.0
    count = np.prod(graph.shape(op.inputs[0])) / np.prod(graph.shape(op.outputs[0]))
    _, exponent = np.frexp(float(source[0][0]) / float(target[0][0]) / count)
    return float(2.0 ** -(max(-int(exponent), 0) + 1.0)) if exponent < 0 else 0.0


def _scales_alike(graph: Graph, op: Any) -> bool:
    """A 1x1 depthwise convolution: each output is one input times one weight."""
    return graph.kind(op) == "DEPTHWISE_CONV_2D" and graph.shape(op.inputs[1])[1:3] == (1, 1)


def _ties(graph: Graph, op: Any) -> float:
    """Share of a sum's values that lie exactly between two steps."""
    tensors = [*op.inputs[:2], op.outputs[0]]
    scales = [graph.quantization(tensor) for tensor in tensors]
    if any(found is None for found in scales) or graph.dtype(tensors[0]) != "int8":
        return 0.0
    first, second, target = (found[0].astype(np.float64) for found in scales if found is not None)
    if graph.kind(op) in _SUMS:
        return _odd_share(np.array([[first[0], second[0]]]) / target[0])
    weights = graph.constant(tensors[1])
    if weights is None:
        return 0.0
    common = np.gcd.reduce(np.abs(weights.astype(np.int64)), axis=1)
    return _odd_share((first[0] * second * common / target[0]).reshape(-1, 1))


def _odd_share(units: Any) -> float:
    """Share of odd sums, where each row's terms are whole multiples of 1/2, 1/4 or 1/8 of a step; else 0."""
    shares = []
    for row in units:
        whole = [bits for bits in range(4) if np.allclose(row * 2.0**bits, np.rint(row * 2.0**bits), rtol=0, atol=1e-5)]
        shares.append(2.0 ** -whole[0] if whole and whole[0] > 0 and row.any() else 0.0)
    return float(np.mean(shares))
