"""IDs that travel through the TFLite converter: where each activation point ends up in the flatbuffer."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

LOWEST, HIGHEST = -128.0, 127.0


@keras.saving.register_keras_serializable(package="keras_compress")
class Marker(keras.layers.Layer):
    """Marks its input as activation point `marker_id`.

    The layer is the identity in Keras's symbolic world. When traced it is a fake quantization whose step
    is exactly `marker_id`, which the converter turns into a QUANTIZE / DEQUANTIZE pair with that scale:
    tensor names do not survive a conversion, scales do.

    Args:
        marker_id: Positive integer, a key of `LoweringPlan.points`.

    Raises:
        ValueError: `marker_id` is not a positive integer.
    """

    def __init__(self, marker_id: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(marker_id, int) or isinstance(marker_id, bool) or not 0 < marker_id < 2**16:
            raise ValueError(f"Expected a marker_id in 1..65535. Received: marker_id={marker_id!r}")
        self.marker_id = marker_id

    @property
    def stands_for(self) -> str:
        """Name of the layer whose values are marked."""
        operation = self.input._keras_history.operation
        return str(getattr(operation, "stands_for", None) or operation.name)

    def compute_output_spec(self, inputs: Any, **kwargs: Any) -> Any:
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def call(self, inputs: Any) -> Any:
        return tf.quantization.fake_quant_with_min_max_args(
            inputs, min=LOWEST * self.marker_id, max=HIGHEST * self.marker_id, num_bits=8
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "marker_id": self.marker_id}


def marker_of_scale(scale: float) -> int | None:
    """ID of the marker that a QUANTIZE with this scale stands for, or None for any other scale."""
    nearest = round(scale)
    return nearest if nearest > 0 and abs(scale - nearest) <= 1e-5 * nearest else None
