"""How far a kernel's arithmetic may stand from exact arithmetic at one value, and what it may therefore give.

A kernel is right if its integer is within `0.5 + error` steps of the exact value: every rule for ties is then right at
a tie and at no other place, however many values lie on one (grey levels scaled to [-1, 1] put each fourth there).
Errors, in steps of the output:

- The exact value comes from a model in float32, as XNNPACK's requantization does: `2^-10`, and `2^-20` of the value.
- Two roundings, `round(round(acc * q) / 2^n)` with `M = q * 2^-n` and `0.5 <= q < 1`: the first is off by half of
  `2^-n`, so `2^-(n + 1)`; nothing for `n <= 0`. PRELU has two factors, of which the larger error counts. MEAN on
  TFLite-Micro divides its factor by the number of values, rounded to a power of two: twice that of `M / count`.
- 16-bit activations: the kernels keep 15 bits of q, off by its relative error times the value.
- ADD and SUB keep 20 bits of each term: `2^-20` of it.
- XNNPACK's RESIZE_BILINEAR of int8 keeps 11 bits of each weight, off by `2^-12`, between values at most 255 apart,
  along two axes: `255 * 2^-11`, an eighth of a step.

Where a kernel interpolates in tables or counts in fixed point, no bound could stay tight: its integers are computed,
see `keras_compress.runtime.computed`. Only shapes and the input's scale enter there, and a wrong scale shows at
the operator before.

**Reference**: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference" (2018), section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.runtime.computed import Function, computed
from keras_compress.runtime.rounding import EXACT, left_to_built_in
from keras_compress.tflite.flatbuffer import Graph

Array = NDArray[Any]
_NOISE, _RELATIVE = 2.0**-10, 2.0**-20
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
        computed: See `keras_compress.runtime.computed`; `None` if nothing computes the kernel's integers.
    """

    steps: Array | float = 0.0
    relative: Array | float = 0.0
    known: bool = False
    computed: Function | None = None

    @classmethod
    def of(cls, graph: Graph, kernel: str) -> KernelError:
        """Of a file that rounds at one operator, or at several side by side, such as those before a concatenation.

        Args:
            graph: A file, such as a piece from `keras_compress.tflite.segments`.
            kernel: `"xnnpack"`, `"reference"` or `"tflm"`.
        """
        function = computed(graph, kernel)
        if function is not None:
            return cls(computed=function)
        errors = [_of_operator(graph, op, kernel) for op in graph.operators if graph.kind(op) not in EXACT]
        if len(errors) == 1:
            return errors[0]
        steps, relative = (float(sum(np.max(error[i]) for error in map(_pair, errors))) for i in (0, 1))
        return cls(steps, relative, known=bool(errors) and all(error.known for error in errors))

    def at(self, channel: Array, channels: int) -> KernelError:
        """The same for single values.

        Args:
            channel: Entry of the output's last axis that each value is in.
            channels: How many the last axis has.
        """

        def of_each(found: Array | float) -> Array | float:
            return np.asarray(found)[channel] if np.size(found) == channels > 1 else np.max(found)

        return replace(self, steps=of_each(self.steps), relative=of_each(self.relative))

    def allows(self, got: Array, exact: Array, zero_point: int) -> Array:
        """Where the kernel's integers are as near to the exact value as its arithmetic can bring them.

        Args:
            got: Integers, any shape.
            exact: Real numbers on the same scale, before they are rounded and clipped.
            zero_point: Integer of 0.0.
        """
        error = _NOISE + self.steps + (_RELATIVE + self.relative) * np.abs(exact - zero_point)
        near: Array = np.abs(got - exact) <= 0.5 + error
        return near


def _pair(error: KernelError) -> tuple[Array | float, Array | float]:
    return error.steps, error.relative


def _of_operator(graph: Graph, op: Any, kernel: str) -> KernelError:
    kind = graph.kind(op)
    if kind == "QUANTIZE" and graph.dtype(op.inputs[0]) == "float32":
        return KernelError(known=True)
    if graph.dtype(op.outputs[0]) not in ("int8", "int16"):
        return KernelError()
    twice = kernel != "xnnpack" or graph.dtype(op.inputs[0]) == "int16"
    if kind in ("QUANTIZE", "RELU") and twice:
        return _of_factors(graph, op, [1.0])
    if kind == "LEAKY_RELU" and twice:
        return _of_factors(graph, op, [1.0, op.builtinOptions.alpha])
    if kind in _SUMS:
        return KernelError(known=graph.dtype(op.outputs[0]) == "int8")
    if kind == "RESIZE_BILINEAR" and kernel == "xnnpack" and graph.dtype(op.outputs[0]) == "int8":
        return KernelError(255 * 2.0**-11, known=True)
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


def _of_factors(graph: Graph, op: Any, factors: list[float]) -> KernelError:
    """An input times one of some factors, which is rounded twice."""
    scales = _scales(graph, [op.inputs[0], op.outputs[0]])
    if scales is None:
        return KernelError()
    return KernelError(float(_first_rounding(np.abs(factors) * scales[0][0] / scales[1][0]).max()), known=True)


def _of_prelu(graph: Graph, op: Any) -> KernelError:
    """No runtime but the built-in kernel has one in int8; XNNPACK leaves it alone."""
    slope = _scales(graph, [op.inputs[1]])
    if slope is None or graph.dtype(op.inputs[0]) != "int8":
        return KernelError()
    return _of_factors(graph, op, [1.0, float(slope[0][0])])


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
