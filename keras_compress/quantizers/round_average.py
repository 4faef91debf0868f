"""`RoundAverage`: what the device's average pooling does to its means, while the model trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from keras_compress.core import affine, keras_private
from keras_compress.core.registry import PACKAGE
from keras_compress.core.ste import in_float32, straight_through
from keras_compress.graph import graph
from keras_compress.quantizers.activation import ActivationQuantizer, QuantizeActivation, TrainedQuantizer
from keras_compress.quantizers.kinds import Kind, kind_of

Tensor = Any


@dataclass
class _Held:
    """Keeps Keras from taking the quantizer of another layer for a part of this one."""

    quantizer: ActivationQuantizer | None = None


def grid_of(tensor: Any) -> ActivationQuantizer | None:
    """The quantizer on whose grid a symbolic tensor lies, through poolings and calls that move values; or `None`."""
    while (made := keras_private.made_by(tensor)) is not None:
        operation, inputs = made
        if isinstance(operation, QuantizeActivation):
            found: ActivationQuantizer = operation.quantizer
            return found
        moves = kind_of(operation) in (Kind.SAME, Kind.AVERAGE) and not graph.is_graph(operation)
        if not moves or len(inputs) != 1:
            return None
        tensor = inputs[0]
    return None


@keras.saving.register_keras_serializable(package=PACKAGE)
class RoundAverage(keras.layers.Layer):
    """Rounds means to the grid that their values came on, as int8 kernels of average poolings and resizings do.

    **Forward** `scale * (round(x / scale + zero_point) - zero_point)`, ties away from zero, with the range of the last
    activation point before it, as it is in this batch. **Gradient** 1. Where there is no such point in the graph, or
    its range is not known yet, values pass.

    Args:
        stands_for: Name of the layer whose values these are.

    Shapes: any; the output has the shape and dtype of the input.
    """

    def __init__(self, stands_for: str | None = None, **kwargs: Any) -> None:
        super().__init__(dtype="float32", autocast=False, **{k: v for k, v in kwargs.items() if k != "dtype"})
        self.stands_for = stands_for
        self.supports_masking = True
        self._held = _Held()
        self.built = True

    def compute_output_spec(self, inputs: Any) -> Any:
        # A graph is made by calls on symbolic tensors, also when a model is loaded or copied: there the point is seen.
        found = grid_of(inputs)
        if found is not None:
            self._held.quantizer = found
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def call(self, inputs: Tensor) -> Tensor:
        quantizer = self._held.quantizer
        if quantizer is None:
            return inputs
        scale, zero_point = (ops.stop_gradient(p) for p in quantizer.parameters())
        values = ops.cast(inputs, "float32")
        rounded = straight_through(_rounded, values, scale, zero_point)
        if isinstance(quantizer, TrainedQuantizer):
            rounded = ops.where(ops.convert_to_tensor(quantizer.batches) > 0, rounded, values)
        return ops.cast(rounded, inputs.dtype)

    def plain_operations(self, inputs: Any) -> Any:
        """The same function of inference as plain Keras operations, for `strip`."""
        quantizer = self._held.quantizer
        if quantizer is None or not quantizer.trained():
            return inputs
        scale, zero_point = (float(p) for p in quantizer.parameters())
        return in_float32(lambda values: _rounded(values, scale, zero_point), inputs)

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        config.pop("dtype", None)
        return {**config, "stands_for": self.stands_for}


def _rounded(values: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return affine.dequantize(affine.round_half_away(values / scale + zero_point), scale, zero_point)
