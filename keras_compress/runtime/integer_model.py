"""What int8 kernels compute, in NumPy: weighted operators to the last bit, for proofs that need no runtime.

TFLite-Micro, and LiteRT's reference convolutions, round twice: to 32 bits, then to the output. LiteRT's reference
FULLY_CONNECTED rounds once.

**Reference**: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference" (2018), section 2.2; the two roundings as measured on the kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from keras_compress.tflite.flatbuffer import Graph, read_model
from keras_compress.tflite.multiplier import round_twice

Array = NDArray[Any]
KERNELS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_LIMITS = {
    schema.ActivationFunctionType.RELU: (0.0, np.inf),
    schema.ActivationFunctionType.RELU6: (0.0, 6.0),
    schema.ActivationFunctionType.RELU_N1_TO_1: (-1.0, 1.0),
}


def run(
    content: bytes,
    inputs: Array,
    rounding: Callable[[Array, Array], Array] = round_twice,
    accumulator_bits: int | None = None,
) -> Array:
    """Outputs of a file with one weighted operator on integers.

    Args:
        content: A `.tflite` file, such as a piece from `keras_compress.tflite.segments`; operators that only reshape
            may be in it.
        inputs: int8 integers of its only input, any batch.
        rounding: `round_twice` or `round_once`.
        accumulator_bits: Add up in so many bits, with wrap-around; `None` for as many as are needed.

    Raises:
        ValueError: For a file with anything else.
    """
    graph = Graph(read_model(content))
    weighted = [op for op in graph.operators if graph.kind(op) in KERNELS]
    others = {graph.kind(op) for op in graph.operators} - {*KERNELS, "RESHAPE"}
    if len(weighted) != 1 or others:
        raise ValueError(f"Expected one operator out of {KERNELS}. Received: {len(weighted)}, and {sorted(others)}")
    (op,) = weighted
    values = inputs.reshape(len(inputs), *graph.shape(op.inputs[0])[1:]).astype(np.int64)
    found = sums(graph, op, values)
    if accumulator_bits is not None:
        found = wrapped(found, accumulator_bits)
    outputs = _requantized(graph, op, found, rounding)
    shaped: Array = outputs.reshape(len(inputs), *graph.shape(graph.outputs[0])[1:])
    return shaped


def wrapped(values: Array, bits: int) -> Array:
    """Integers as an accumulator of fewer bits holds them: two's complement, which begins anew where it overflows.

    A sum that wraps at each addition ends as this does, whatever the order.

    >>> wrapped(np.array([127, 128, -129, 300]), 8).tolist()
    [127, -128, 127, 44]
    """
    half = 2 ** (bits - 1)
    found: Array = (values + half) % (2 * half) - half
    return found


def sums(graph: Graph, op: Any, values: Array) -> Array:
    """What an operator out of `KERNELS` adds up: weights times inputs less their zero point, and the bias.

    Args:
        graph: The file.
        op: Its operator, with constant weights.
        values: Integers of its input, `(samples, ...)`.

    Raises:
        ValueError: For weights that are computed.
    """
    weight, kind = graph.constant(op.inputs[1]), graph.kind(op)
    if weight is None:
        raise ValueError(f"Expected constant weights. Received: computed ones at {graph.name(op.outputs[0])!r}")
    quantization = graph.quantization(op.inputs[0])
    # Products and sums are far below 2^53: float64 holds them exactly, and is multiplied much faster.
    centred = values.astype(np.float64) - (0 if quantization is None else int(quantization[1]))
    weight = weight.astype(np.float64)
    if kind == "FULLY_CONNECTED":
        found = centred.reshape(-1, weight.shape[1]) @ weight.T
    else:
        windows = _windows(op.builtinOptions, centred, weight.shape[1:3])
        if kind == "CONV_2D":
            found = np.einsum("nhwcij,oijc->nhwo", windows, weight, optimize=True)
        else:
            repeated = np.repeat(windows, weight.shape[3] // windows.shape[3], axis=3)
            found = np.einsum("nhwcij,ijc->nhwc", repeated, weight[0], optimize=True)
    bias = graph.constant(op.inputs[2]) if len(op.inputs) > 2 and op.inputs[2] >= 0 else None
    whole: Array = np.rint(found).astype(np.int64)
    return whole if bias is None else whole + bias.astype(np.int64)


def _windows(options: Any, values: Array, size: tuple[int, int]) -> Array:
    """What each output position sees: `(batch, height', width', channels, *size)`; padding is zero."""
    strides, dilation = (options.strideH, options.strideW), (options.dilationHFactor, options.dilationWFactor)
    spans = [(n - 1) * d + 1 for n, d in zip(size, dilation, strict=True)]
    pads = [(0, 0), (0, 0)]
    if options.padding == schema.Padding.SAME:
        needed = [
            max((-(-n // s) - 1) * s + span - n, 0)
            for n, s, span in zip(values.shape[1:3], strides, spans, strict=True)
        ]
        pads = [(n // 2, n - n // 2) for n in needed]
    padded = np.pad(values, [(0, 0), *pads, (0, 0)])
    windows = sliding_window_view(padded, spans, axis=(1, 2))[:, :: strides[0], :: strides[1]]
    cut: Array = windows[..., :: dilation[0], :: dilation[1]]
    return cut


def _requantized(graph: Graph, op: Any, sums: Array, rounding: Callable[[Array, Array], Array]) -> Array:
    scales = [graph.quantization(t) for t in (op.inputs[0], op.inputs[1], op.outputs[0])]
    source, weight, target = (found for found in scales if found is not None)
    factor = source[0].astype(np.float64)[0] * weight[0].astype(np.float64) / target[0].astype(np.float64)[0]
    integers = rounding(sums, np.broadcast_to(factor, sums.shape[-1:])) + int(target[1])
    low, high = fused_limits(op, float(target[0][0]), int(target[1]))
    clipped: Array = np.clip(integers, max(-128, low), min(127, high)).astype(np.int8)
    return clipped


def fused_limits(op: Any, scale: float, zero_point: int) -> tuple[int, int]:
    """The integers between which the activation fused into an operator leaves its output.

    Args:
        op: Any operator.
        scale: Of its output.
        zero_point: Likewise.
    """
    fused = getattr(op.builtinOptions, "fusedActivationFunction", None)
    ends = [end / scale + zero_point for end in _LIMITS.get(fused, (-np.inf, np.inf))]
    # Wider than any integer of a tensor.
    low, high = (int(np.clip(np.rint(end), -(2**40), 2**40)) for end in ends)
    return low, high
