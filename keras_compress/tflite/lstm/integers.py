"""The integers of one fused LSTM, and how they come from float weights and measured ranges."""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.tflite.multiplier import multiplier_of

Array = NDArray[Any]
GATES = ("input", "forget", "cell", "output")  # Keras's order, and the operator's
# Sums of a gate are in steps of 2^-12 before sigmoid and tanh, and in steps of 2^-15 behind them.
_SUM_BITS, _GATE_BITS = 12, 15
# LiteRT's tanh takes up to 6 integer bits of a cell's value.
CELL_EXPONENTS = range(-15, -8)
_LARGEST_BIAS = 2.0**28


@dataclass(frozen=True)
class LstmIntegers:
    """Weights and grids of one LSTM: `real = scale * (integer - zero_point)`.

    Attributes:
        kernel: int8, `(inputs, 4 * units)`, symmetric; gates in the order of `GATES`.
        recurrent_kernel: int8, `(units, 4 * units)`, likewise.
        bias: int32, `(4 * units,)`, in steps of the input's scale times the kernel's.
        kernel_scale: float32, one for each gate.
        recurrent_scale: float32, one for each gate.
        input_grid: Scale and zero point of the sequence, int8.
        output_grid: Those of the outputs, which are the hidden state.
        cell_exponent: Cell states are int16 in steps of `2 ** cell_exponent`.
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array
    kernel_scale: Array
    recurrent_scale: Array
    input_grid: tuple[float, int]
    output_grid: tuple[float, int]
    cell_exponent: int

    def packed(self) -> bytes:
        """All of it as bytes: equal ones are equal."""
        file = io.BytesIO()
        arrays: Any = {each.name: np.asarray(getattr(self, each.name)) for each in fields(self)}
        np.savez(file, **arrays)
        return file.getvalue()

    @classmethod
    def unpacked(cls, content: bytes) -> LstmIntegers:
        """What `packed` gave."""
        with np.load(io.BytesIO(content)) as found:
            arrays = {each.name: found[each.name] for each in fields(cls)}
        grids = {key: (float(arrays[key][0]), int(arrays[key][1])) for key in ("input_grid", "output_grid")}
        return cls(**{**arrays, **grids, "cell_exponent": int(arrays["cell_exponent"])})

    @property
    def units(self) -> int:
        """Length of the state."""
        return int(self.recurrent_kernel.shape[0])


def cell_exponent(largest: float) -> int:
    """Exponent of the step of an int16 cell state whose magnitude gets to `largest`.

    Beyond 64 the state saturates: the kernels have no coarser step, and there its tanh is 1 anyhow.

    >>> cell_exponent(0.3), cell_exponent(1.0), cell_exponent(5.0), cell_exponent(1000.0)
    (-15, -15, -12, -9)
    """
    power = int(np.ceil(np.log2(max(float(largest), 1.0))))
    return min(power - 15, CELL_EXPONENTS[-1])


def lstm_integers(
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array | None,
    input_grid: tuple[float, int],
    output_grid: tuple[float, int],
    largest_cell: float,
) -> LstmIntegers:
    """Integers of an LSTM with float weights in Keras's layout: one scale for each gate's matrix, symmetric.

    Args:
        kernel: `(inputs, 4 * units)`.
        recurrent_kernel: `(units, 4 * units)`.
        bias: `(4 * units,)`, or `None`.
        input_grid: Scale and zero point of the sequence.
        output_grid: Those of the outputs.
        largest_cell: Largest magnitude of a cell state.
    """
    units = recurrent_kernel.shape[0]
    bias = np.zeros(4 * units) if bias is None else np.asarray(bias, np.float64)
    # A matrix of zeros, or one of tiny numbers, must leave its bias within int32.
    least = np.abs(bias).reshape(4, units).max(axis=1) / (input_grid[0] * _LARGEST_BIAS)
    kernel_scale, kernel = _by_gate(kernel, least)
    recurrent_scale, recurrent_kernel = _by_gate(recurrent_kernel, np.zeros(4))
    steps = np.float64(np.float32(input_grid[0])) * kernel_scale.astype(np.float64)
    biases = np.rint(bias / np.repeat(steps, units)).astype(np.int32)
    return LstmIntegers(
        kernel, recurrent_kernel, biases, kernel_scale, recurrent_scale, input_grid, output_grid,
        cell_exponent(largest_cell),
    )  # fmt: skip


def _by_gate(weight: Array, least: Array) -> tuple[Array, Array]:
    gates = np.asarray(weight, np.float64).reshape(weight.shape[0], 4, -1)
    scale = np.maximum(np.abs(gates).max(axis=(0, 2)) / 127, least).astype(np.float32)
    scale = np.where(scale > 0, scale, np.float32(1))
    integers = np.clip(np.rint(gates / scale[:, None]), -127, 127).astype(np.int8)
    return scale, integers.reshape(weight.shape)


def overflows(lstm: LstmIntegers) -> bool:
    """Whether a kernel's sums, shifted to the left where their steps are coarser than 2^-12, can pass int32."""
    factors = factors_of(lstm, "tflm")
    of_inputs = 255 * np.abs(lstm.kernel.astype(np.int64)).sum(axis=0) + np.abs(lstm.bias.astype(np.int64))
    of_states = 255 * np.abs(lstm.recurrent_kernel.astype(np.int64)).sum(axis=0)
    shifts = (np.maximum(exponent, 0) for _, exponent in (factors.kernel, factors.recurrent))
    return any(bool((sums << shift >= 2**31).any()) for sums, shift in zip((of_inputs, of_states), shifts, strict=True))


@dataclass(frozen=True)
class Factors:
    """What a runtime multiplies by where it brings sums to a coarser step: pairs as of `multiplier_of`, int64.

    Attributes:
        kernel: For each of the `4 * units` sums over the inputs.
        recurrent: For each of those over the hidden state.
        kept: For forget gate times cell state.
        new: For input gate times candidate.
        hidden: For output gate times tanh of the cell state.
    """

    kernel: tuple[Array, Array]
    recurrent: tuple[Array, Array]
    kept: tuple[Array, Array]
    new: tuple[Array, Array]
    hidden: tuple[Array, Array]


def factors_of(lstm: LstmIntegers, runtime: str) -> Factors:
    """The factors of a runtime's kernel; float32 where the kernel computes in float32.

    **Reference**: `PopulateQuantizedLstmParams8x8_16` of LiteRT, `PrepareGateParametersInteger` of TFLite-Micro.
    """
    sums = np.float32(2.0**_SUM_BITS)
    kernel = np.float32(lstm.input_grid[0]) * lstm.kernel_scale * sums
    recurrent = np.float32(lstm.output_grid[0]) * lstm.recurrent_scale * sums
    hidden = np.float64(2.0 ** (-2 * _GATE_BITS)) / np.float64(np.float32(lstm.output_grid[0]))
    shifts = -_GATE_BITS, -2 * _GATE_BITS - lstm.cell_exponent
    if runtime == "litert":
        hidden = np.float64(np.float32(hidden))
        kept, new = ((np.int64(2**31), np.int64(shift)) for shift in shifts)  # one shift, rounded once
    else:
        kept, new = (multiplier_of(np.float64(2.0**shift)) for shift in shifts)
    return Factors(
        _for_each_unit(kernel, lstm.units), _for_each_unit(recurrent, lstm.units), kept, new, multiplier_of(hidden)
    )


def _for_each_unit(scale: Array, units: int) -> tuple[Array, Array]:
    factor, exponent = multiplier_of(scale)
    return np.repeat(factor, units), np.repeat(exponent, units)
