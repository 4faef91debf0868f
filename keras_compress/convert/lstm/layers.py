"""LSTMs as Keras layers: in two parts of real numbers, and as one of integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_compress.convert.lstm.kernel import LstmKernel
from keras_compress.core import affine
from keras_compress.core.registry import PACKAGE
from keras_compress.tflite.lstm.integers import LstmIntegers

Tensor = Any
_INT8 = affine.QuantSpec(bits=8, symmetric=False, narrow_range=False)


@keras.saving.register_keras_serializable(package=PACKAGE)
class LstmCells(keras.layers.Layer):
    """Cell states of an LSTM, and behind them its output gates: `(batch, steps, 2 * units)`.

    `LstmOutput` makes the outputs of them. Between the two the range of the cells can be measured; that of the gates
    is within -1 to 1, which any grid of cells takes in.

    Args:
        units: Length of the state.
        **kwargs: Those of a layer.
    """

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape: Any) -> None:
        for name, rows in (("kernel", shape[-1]), ("recurrent_kernel", self.units)):
            setattr(self, name, self.add_weight(shape=(rows, 4 * self.units), name=name, trainable=False))
        self.bias = self.add_weight(shape=(4 * self.units,), name="bias", trainable=False)

    def compute_output_spec(self, inputs: Tensor) -> Tensor:
        return keras.KerasTensor((*inputs.shape[:2], 2 * self.units), inputs.dtype)

    def call(self, inputs: Tensor) -> Tensor:
        weights = (ops.convert_to_tensor(v) for v in (self.kernel, self.recurrent_kernel, self.bias))
        return tf.concat(_cells_and_gates(inputs, *weights), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


def _cells_and_gates(inputs: Tensor, kernel: Tensor, recurrent: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Cell states of all steps, and the gates that let them out."""
    sums = tf.transpose(tf.matmul(inputs, kernel) + bias, (1, 0, 2))
    zeros = tf.zeros((tf.shape(inputs)[0], tf.shape(recurrent)[0]), inputs.dtype)
    cells, gates = tf.scan(lambda state, gate: _float_step(gate, state, recurrent), sums, (zeros, zeros))
    return tf.transpose(cells, (1, 0, 2)), tf.transpose(gates, (1, 0, 2))


def _float_step(gate: Tensor, state: tuple[Tensor, Tensor], recurrent: Tensor) -> tuple[Tensor, Tensor]:
    """From a cell and the gate that let it out, which is closed before the first step, to the next."""
    cell, output_gate = state
    hidden = output_gate * tf.tanh(cell)
    i, f, g, o = tf.split(gate + tf.matmul(hidden, recurrent), 4, axis=-1)
    return tf.sigmoid(f) * cell + tf.sigmoid(i) * tf.tanh(g), tf.sigmoid(o)


@keras.saving.register_keras_serializable(package=PACKAGE)
class LstmOutput(keras.layers.Layer):
    """Outputs of an LSTM from what `LstmCells` gives."""

    def compute_output_spec(self, inputs: Tensor) -> Tensor:
        return keras.KerasTensor((*inputs.shape[:-1], inputs.shape[-1] // 2), inputs.dtype)

    def call(self, inputs: Tensor) -> Tensor:
        cells, gates = ops.split(inputs, 2, axis=-1)
        return gates * ops.tanh(cells)


@keras.saving.register_keras_serializable(package=PACKAGE)
class FusedLSTM(keras.layers.Layer):
    """An LSTM as a runtime's kernel computes it, on real numbers that lie on its grids: all steps, from zero states.

    Args:
        units: Length of the state.
        runtime: `"litert"` or `"tflm"`: whose kernel.
        kernel_scale: One number for each gate.
        recurrent_scale: Likewise.
        input_grid: Scale and zero point of the inputs, int8.
        output_grid: Those of the outputs.
        cell_exponent: See `LstmIntegers`.
        **kwargs: Those of a layer.
    """

    def __init__(
        self,
        units: int,
        runtime: str,
        kernel_scale: Sequence[float],
        recurrent_scale: Sequence[float],
        input_grid: tuple[float, int],
        output_grid: tuple[float, int],
        cell_exponent: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype="float32", autocast=False, **{"trainable": False, **kwargs})
        self.units, self.runtime = units, runtime
        self._scales = np.asarray(kernel_scale, np.float32), np.asarray(recurrent_scale, np.float32)
        self._grids = (float(input_grid[0]), int(input_grid[1])), (float(output_grid[0]), int(output_grid[1]))
        self._cell_exponent = cell_exponent

    @classmethod
    def of(cls, lstm: LstmIntegers, runtime: str, name: str) -> FusedLSTM:
        """A built layer with these integers."""
        layer = cls(
            lstm.units, runtime, lstm.kernel_scale.tolist(), lstm.recurrent_scale.tolist(), lstm.input_grid,
            lstm.output_grid, lstm.cell_exponent, name=name,
        )  # fmt: skip
        layer.build((None, None, lstm.kernel.shape[0]))
        for variable, values in (
            (layer.kernel, lstm.kernel), (layer.recurrent_kernel, lstm.recurrent_kernel), (layer.bias, lstm.bias),
        ):  # fmt: skip
            variable.assign(values)
        return layer

    def build(self, shape: Any) -> None:
        def integers(name: str, rows: tuple[int, ...], dtype: str) -> Any:
            return self.add_weight(
                shape=(*rows, 4 * self.units), initializer="zeros", dtype=dtype, trainable=False, name=name
            )

        self.kernel = integers("kernel", (shape[-1],), "int8")
        self.recurrent_kernel = integers("recurrent_kernel", (self.units,), "int8")
        self.bias = integers("bias", (), "int32")
        self.built = True

    def integers(self) -> LstmIntegers:
        """Weights and grids, as arrays."""
        return self._with(*(np.asarray(variable) for variable in (self.kernel, self.recurrent_kernel, self.bias)))

    def _with(self, kernel: Any, recurrent_kernel: Any, bias: Any) -> LstmIntegers:
        return LstmIntegers(kernel, recurrent_kernel, bias, *self._scales, *self._grids, self._cell_exponent)

    def unrounded(self, inputs: Tensor, noise: np.random.Generator | None = None) -> Tensor:
        """The same weights, and nothing rounded; with noise, of up to half a step, on each weight."""
        lstm = self.integers()
        kernel_scale, recurrent_scale = (np.repeat(scale, self.units).astype(np.float64) for scale in self._scales)
        steps = kernel_scale, recurrent_scale, kernel_scale * self._grids[0][0]
        held = [np.asarray(each, np.float64) for each in (lstm.kernel, lstm.recurrent_kernel, lstm.bias)]
        if noise is not None:
            held = [each + noise.uniform(-0.5, 0.5, each.shape) for each in held]
        weights = [(each * step).astype(np.float32) for each, step in zip(held, steps, strict=True)]
        cells, gates = _cells_and_gates(inputs, *map(tf.constant, weights))
        return gates * tf.tanh(cells)

    def compute_output_spec(self, inputs: Tensor) -> Tensor:
        return keras.KerasTensor((*inputs.shape[:-1], self.units), "float32")

    def call(self, inputs: Tensor) -> Tensor:
        lstm = self._with(*(ops.convert_to_tensor(v) for v in (self.kernel, self.recurrent_kernel, self.bias)))
        (scale, zero_point), (out_scale, out_zero_point) = self._grids
        integers = affine.quantize_to_int(inputs, scale, float(zero_point), _INT8)
        outputs = LstmKernel(lstm, self.runtime)(tf.cast(integers, tf.int64))
        return affine.dequantize(tf.cast(outputs, tf.float32), out_scale, float(out_zero_point))

    def get_config(self) -> dict[str, Any]:
        scales = [[float(scale) for scale in scales] for scales in self._scales]
        config = {key: value for key, value in super().get_config().items() if key != "dtype"}
        return {
            **config,
            "units": self.units,
            "runtime": self.runtime,
            "kernel_scale": scales[0],
            "recurrent_scale": scales[1],
            "input_grid": list(self._grids[0]),
            "output_grid": list(self._grids[1]),
            "cell_exponent": self._cell_exponent,
        }
