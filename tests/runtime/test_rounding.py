"""How often rounding twice is one step off, for operators made up of a few numbers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from keras_compress.runtime import rounding


class Graph:
    """Operators with a kind, and tensors `(dtype, shape, scales)`; the weights, tensor 1, are constant."""

    def __init__(self, *operators) -> None:
        self.operators = list(operators)

    def kind(self, op) -> str:
        return op.kind

    def dtype(self, tensor) -> str:
        return tensor[0]

    def shape(self, tensor) -> tuple[int, ...]:
        return tensor[1]

    def quantization(self, tensor):
        return None if tensor[2] is None else (np.array(tensor[2], np.float32), np.zeros(1))

    def is_constant(self, tensor) -> bool:
        return len(tensor) > 3

    def constant(self, tensor) -> None:
        """Values of the weights are not known here."""


class Tensor(tuple):
    """Compares with numbers as an index does."""

    def __ge__(self, other) -> bool:
        return True


def operator(kind: str, *, dtype="int8", weights="int8", shape=(2, 4), scales=(0.5,), constant=True, out=1.0):
    weight = (weights, shape, scales, "constant") if constant else (weights, shape, scales)
    data = Tensor((dtype, (1, 4), (0.5,)))
    return SimpleNamespace(kind=kind, inputs=[data, Tensor(weight)], outputs=[Tensor((dtype, (1, 2), (out,)))])


def transposed(kernel: tuple[int, int], strides: tuple[int, int], padding: int):
    op = operator("TRANSPOSE_CONV", shape=(4, *kernel, 2))
    op.builtinOptions = SimpleNamespace(strideH=strides[0], strideW=strides[1], padding=padding)
    # The output's shape is the first input.
    return SimpleNamespace(**{**vars(op), "inputs": [Tensor(("int32", (4,), None)), op.inputs[1], op.inputs[0]]})


# As the format numbers them.
SAME, VALID = 0, 1


@pytest.mark.parametrize(
    ("op", "left"),
    [
        (operator("CONV_2D"), False),
        (operator("CONV_2D", weights="int4"), True),
        (operator("CONV_2D", dtype="int16"), True),
        (operator("FULLY_CONNECTED"), False),
        (operator("FULLY_CONNECTED", weights="int4", shape=(2, 4)), False),
        (operator("FULLY_CONNECTED", weights="int4", shape=(2, 5)), True),
        (operator("FULLY_CONNECTED", weights="int2", shape=(2, 4), scales=(0.5, 0.5)), False),
        (operator("FULLY_CONNECTED", weights="int2", shape=(2, 4)), True),
        (operator("FULLY_CONNECTED", weights="int2", shape=(2, 6), scales=(0.5, 0.5)), True),
        (operator("FULLY_CONNECTED", dtype="int16"), True),
        (transposed((1, 2), (1, 2), SAME), False),
        (transposed((3, 1), (2, 2), SAME), True),
        (transposed((3, 1), (2, 2), VALID), False),
    ],
)
def test_what_xnnpack_leaves_to_the_kernel_that_rounds_twice(op, left: bool) -> None:
    assert rounding.left_to_built_in(Graph(op), op) is left
    assert (rounding.expected_share(Graph(op), "xnnpack") > 0) is (left and op.inputs[0][0] != "int16")


@pytest.mark.parametrize(
    ("op", "share"),
    [
        # M = 0.25 = 0.5 * 2^-1: half of the ties, which are one in two.
        (operator("FULLY_CONNECTED"), 0.25),
        (operator("FULLY_CONNECTED", out=4.0), 2.0**-4),
        # Factors of 1 and more are not shifted.
        (operator("FULLY_CONNECTED", out=0.125), 0.0),
        (operator("FULLY_CONNECTED", scales=(0.5, 8.0)), 0.125),
        (operator("FULLY_CONNECTED", scales=None), 0.0),
        (operator("DEPTHWISE_CONV_2D", shape=(1, 1, 1, 4)), 0.5),
        (operator("DEPTHWISE_CONV_2D", shape=(1, 3, 3, 4)), 0.25),
        (operator("MUL", constant=False, out=4.0), 2.0**-3),
        (operator("MUL", constant=False, out=1024.0), 0.02),
        (operator("MUL", out=1024.0), 2.0**-12),
        # 15 bits hold one half: nothing is lost. A quarter of their last bit more is 2^-16 of it, of 2^13 steps.
        (operator("FULLY_CONNECTED", dtype="int16"), 0.0),
        (operator("FULLY_CONNECTED", dtype="int16", out=0.25 / (0.5 + 2.0**-17)), 0.125),
    ],
)
def test_share_of_values_one_step_off(op, share: float) -> None:
    assert rounding._share(Graph(op), op) == pytest.approx(share, rel=0.01)


def test_the_worst_operator_counts_and_hard_swish_has_figures_of_its_own() -> None:
    both = Graph(operator("FULLY_CONNECTED", out=4.0), operator("CONV_2D"), operator("ADD", out=0.001))
    assert rounding.expected_share(both, "tflm") == 0.5
    alone = Graph(operator("HARD_SWISH"))
    assert [rounding.expected_share(alone, kernel) for kernel in ("xnnpack", "tflm", "other")] == [0.03, 0.5, 0.0]
