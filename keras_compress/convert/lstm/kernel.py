"""What UNIDIRECTIONAL_SEQUENCE_LSTM computes with int8 sequences, to the last bit, on either runtime.

A step takes the sums of each gate over inputs and hidden state to int16 (steps of 2^-12), sigmoid and tanh by tables
(steps of 2^-15), and

    c' = clip(round(f c) + round(i g)),    h' = clip(round(o tanh(c')) + zero point).

LiteRT adds a sum over the hidden state to that over the inputs before it saturates, and shifts the two products of the
cell once; TFLite-Micro saturates both sums, and rounds every product twice.

**Reference**: `lstm_eval.cc` and `unidirectional_sequence_lstm.cc` of LiteRT (the portable kernels; x86 has no others)
and of TFLite-Micro.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.convert.kernel_rounding import round_twice
from keras_compress.tflite.lstm.integers import LstmIntegers, factors_of
from keras_compress.tflite.lstm.tables import sigmoid_table, tanh_table

Tensor = Any
_LOWEST, _HIGHEST = -32768, 32767


class LstmKernel:
    """The arithmetic of one LSTM on one runtime, on int64 tensors or arrays.

    Args:
        lstm: Weights and grids.
        runtime: `"litert"` or `"tflm"`: whose kernel.
    """

    def __init__(self, lstm: LstmIntegers, runtime: str) -> None:
        self._lstm, self._runtime = lstm, runtime
        self._factors = factors_of(lstm, runtime)
        self._sigmoid, self._tanh = sigmoid_table(runtime), tanh_table(runtime, 3)
        self._tanh_of_cell = tanh_table(runtime, 15 + lstm.cell_exponent)
        self._kernel, self._recurrent = (tf.cast(w, tf.float64) for w in (lstm.kernel, lstm.recurrent_kernel))

    def __call__(self, sequence: Tensor) -> Tensor:
        """Hidden states of all steps, from states of zero.

        Args:
            sequence: int64, `(batch, steps, inputs)`, integers on the input's grid.

        Returns:
            int64, `(batch, steps, units)`, on the output's grid.
        """
        gates = tf.transpose(self._of_inputs(sequence), (1, 0, 2))
        batch, units = tf.shape(gates)[1], self._lstm.units
        start = tf.fill((batch, units), tf.constant(self._lstm.output_grid[1], tf.int64))
        states = tf.scan(lambda state, gate: self._step(gate, *state), gates, (start, tf.zeros_like(start)))
        return tf.transpose(states[0], (1, 0, 2))

    def _of_inputs(self, sequence: Tensor) -> Tensor:
        products = _product(sequence - self._lstm.input_grid[1], self._kernel)
        return _clipped(round_twice(products + tf.cast(self._lstm.bias, tf.int64), *self._factors.kernel))

    def _step(self, gate: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        lstm, factors = self._lstm, self._factors
        recurrent = round_twice(_product(hidden - lstm.output_grid[1], self._recurrent), *factors.recurrent)
        if self._runtime == "tflm":
            recurrent = _clipped(recurrent)
        i, f, g, o = tf.split(_clipped(gate + recurrent), 4, axis=-1)
        i, f, o = (_looked_up(self._sigmoid, sums) for sums in (i, f, o))
        kept = _clipped(round_twice(f * cell, *factors.kept))
        new = _clipped(round_twice(i * _looked_up(self._tanh, g), *factors.new))
        cell = _clipped(kept + new)
        output = round_twice(o * _looked_up(self._tanh_of_cell, cell), *factors.hidden)
        return tf.clip_by_value(output + lstm.output_grid[1], np.int64(-128), np.int64(127)), cell


def _product(integers: Tensor, weight: Tensor) -> Tensor:
    # Whole numbers below 2^53: float64 holds them, and multiplies faster than integers.
    return tf.cast(tf.matmul(tf.cast(integers, tf.float64), weight), tf.int64)


def _clipped(values: Tensor) -> Tensor:
    return tf.clip_by_value(values, np.int64(_LOWEST), np.int64(_HIGHEST))


def _looked_up(table: Tensor, values: Tensor) -> Tensor:
    return tf.cast(tf.gather(table, values - _LOWEST), tf.int64)
