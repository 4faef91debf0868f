"""How far a kernel's arithmetic may stand from exact arithmetic at one value, and what it may therefore give.

A kernel is right if its integer is within `0.5 + error` steps of the exact value: every rule for ties is then right at
a tie and at no other place, however many values lie on one (grey levels scaled to [-1, 1] put each fourth there). Errors,
in steps of the output:

- The exact value comes from a model in float32, and so does XNNPACK's requantization: `2^-10`, and `2^-20` of the value.
- Two roundings, `round(round(acc * q) / 2^n)` with `M = q * 2^-n` and `0.5 <= q < 1`: the first is off by half of
  `2^-n`, so `2^-(n + 1)`; nothing for `n <= 0`. PRELU has two factors, of which the larger error counts. MEAN on
  TFLite-Micro divides its factor by the number of values, rounded to a power of two: twice that of `M / count`.
- 16-bit activations: the kernels keep 15 bits of q, off by its relative error times the value.
- ADD and SUB keep 20 bits of each term: `2^-20` of it.

RESIZE_BILINEAR in the built-in kernels takes positions in steps of 1/1024 pixel, and the distance between two of them
rounded to such a step: up to `index / 2048` of a pixel, which is some steps at an edge in the picture. No bound could
stay tight: its integers are computed here.

**Reference**: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference" (2018), section 2.2; the fixed-point positions as in TensorFlow Lite's integer kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.convert.flatbuffer import Graph, read_model
from keras_compress.runtime.rounding import left_to_built_in

Array = NDArray[Any]
_NOISE, _RELATIVE = 2.0**-10, 2.0**-20
# Values that go through these are not rounded.
_EXACT = ("RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "CONCATENATION", "PACK", "STRIDED_SLICE", "MAXIMUM", "MINIMUM")
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
_PRODUCTS = (*_WEIGHTED, "MUL", "BATCH_MATMUL")
_SUMS = ("ADD", "SUB")


@dataclass(frozen=True)
class KernelError:
    """What one kernel may be off at one operator.

    Attributes:
        steps: Error beside that of float32, in steps of the output; a number, or one for each entry of the last axis.
        relative: The same as a share of the value.
        known: Whether that is all: nothing is to be allowed for this kernel beyond it.
        resized: Whether the operator is a bilinear resize in fixed point.
    """

    steps: Array | float = 0.0
    relative: Array | float = 0.0
    known: bool = False
    resized: bool = False

    @classmethod
    def of(cls, content: bytes, kernel: str) -> KernelError:
        """Of a file that rounds at one operator, or at several side by side, such as those before a concatenation.

        Args:
            content: A `.tflite` file, such as a piece from `keras_compress.convert.segments`.
            kernel: `"xnnpack"`, `"reference"` or `"tflm"`.
        """
        graph = Graph(read_model(content))
        errors = [_of_operator(graph, op, kernel) for op in graph.operators if graph.kind(op) not in _EXACT]
        if len(errors) == 1:
            return errors[0]
        steps, relative = (float(sum(np.max(error[i]) for error in map(_pair, errors))) for i in (0, 1))
        return cls(steps, relative, known=bool(errors) and all(error.known for error in errors))

    def allows(self, got: Array, exact: Array, zero_point: int) -> Array:
        """Where the kernel's integers are as near to the exact value as its arithmetic can bring them.

        Args:
            got: Integers, any shape.
            exact: Real numbers on the same scale, before they are rounded and clipped.
            zero_point: Integer of 0.0.
        """
        steps, relative = (
            np.max(found) if np.ndim(found) and np.size(found) != exact.shape[-1] else found
            for found in (self.steps, self.relative)
        )
        error = _NOISE + steps + (_RELATIVE + relative) * np.abs(exact - zero_point)
        near: Array = np.abs(got - exact) <= 0.5 + error
        return near


def _pair(error: KernelError) -> tuple[Array | float, Array | float]:
    return error.steps, error.relative


def _of_operator(graph: Graph, op: Any, kernel: str) -> KernelError:
    kind = graph.kind(op)
    if kind == "RESIZE_BILINEAR":
        return KernelError(resized=kernel != "xnnpack" and len(graph.operators) == 1)
    if kind == "QUANTIZE":
        return KernelError(known=graph.dtype(op.inputs[0]) == "float32")
    if graph.dtype(op.outputs[0]) not in ("int8", "int16"):
        return KernelError()
    if kind in _SUMS:
        return KernelError(known=graph.dtype(op.outputs[0]) == "int8")
    if kind == "PRELU":
        return _of_prelu(graph, op)
    if kind == "MEAN":
        return _of_mean(graph, op, kernel)
    return _of_product(graph, op, kernel) if kind in _PRODUCTS else KernelError()


def _of_product(graph: Graph, op: Any, kernel: str) -> KernelError:
    """Weighted operators, and products of two tensors."""
    data = op.inputs[2] if graph.kind(op) == "TRANSPOSE_CONV" else op.inputs[0]
    scales = _scales(graph, [data, op.inputs[1], op.outputs[0]])
    if scales is None:
        return KernelError()
    factors = scales[0] * scales[1] / scales[2]
    if graph.dtype(data) == "int16":
        fraction, _ = np.frexp(factors)
        kept = np.minimum(np.rint(fraction * 2.0**15), 2.0**15 - 1) / 2.0**15
        return KernelError(relative=np.abs(kept / fraction - 1.0), known=graph.kind(op) in _WEIGHTED)
    once = kernel == "xnnpack" and not left_to_built_in(graph, op)
    return KernelError(0.0 if once else _first_rounding(factors), known=True)


def _of_prelu(graph: Graph, op: Any) -> KernelError:
    """No runtime but the built-in kernel has one in int8; XNNPACK leaves it alone."""
    scales = _scales(graph, [op.inputs[0], op.inputs[1], op.outputs[0]])
    if scales is None or graph.dtype(op.inputs[0]) != "int8":
        return KernelError()
    factors = np.array([1.0, scales[1][0]]) * scales[0][0] / scales[2][0]
    return KernelError(float(_first_rounding(factors).max()), known=True)


def _of_mean(graph: Graph, op: Any, kernel: str) -> KernelError:
    scales = _scales(graph, [op.inputs[0], op.outputs[0]])
    if kernel == "reference" or scales is None or graph.dtype(op.inputs[0]) != "int8":
        return KernelError()
    count = np.prod(graph.shape(op.inputs[0])) / np.prod(graph.shape(op.outputs[0]))
    twice = 2.0 * float(_first_rounding(scales[0] / scales[1] / count)[0])
    return KernelError(0.0 if kernel == "xnnpack" else twice, known=True)


def _first_rounding(factors: Array) -> Array:
    _, exponent = np.frexp(factors)
    off: Array = np.where(exponent < 0, 2.0 ** (exponent - 1.0), 0.0)
    return off


def _scales(graph: Graph, tensors: list[int]) -> list[Array] | None:
    found = [graph.quantization(tensor) for tensor in tensors]
    if any(one is None for one in found):
        return None
    return [one[0].astype(np.float64) for one in found if one is not None]


def resized_in_fixed_point(values: Array, height: int, width: int) -> Array:
    """int8 images, bilinearly resized as TensorFlow Lite's built-in kernel does; pixels' centres are at halves.

    Args:
        values: `(batch, height, width, channels)`.
        height: Of the result.
        width: Of the result.
    """
    rows, columns = _weights(values.shape[1], height), _weights(values.shape[2], width)
    # Whole numbers below 2^53 throughout: float64 holds them, and multiplies faster than integers.
    sums = np.einsum("yh,nhwc,xw->nyxc", rows, values.astype(np.float64), columns, optimize=True)
    resized: Array = np.trunc((sums + np.where(sums > 0, 2.0**19, -(2.0**19))) / 2.0**20).astype(values.dtype)
    return resized


def _weights(size: int, wanted: int) -> Array:
    """What each new position takes of each old one, in 1/1024: `(wanted, size)`."""
    step, rows = (1024 * size + wanted // 2) // wanted, np.arange(wanted)
    positions = rows * step + step // 2 - 512
    lower = np.minimum(np.maximum(positions // 1024, 0), size - 1)
    upper = np.clip(-(-positions // 1024), 0, size - 1)
    weights = np.zeros((wanted, size))
    np.add.at(weights, (rows, lower), 1024 - (positions - 1024 * lower))
    np.add.at(weights, (rows, upper), positions - 1024 * lower)
    return weights
