"""Embeddings, and the layers that repeat values."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import tensorflow as tf

from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion
from keras_compress.convert.expand.products import reshaped
from keras_compress.convert.expand.weights import frozen
from keras_compress.core.registry import PACKAGE

Tensor = Any


@keras.saving.register_keras_serializable(package=PACKAGE)
class Rows(keras.layers.Layer):
    """Rows of a table by their numbers: GATHER on the device, whose output is on the table's grid.

    Args:
        rows: Number of rows.
        size: Length of a row.
    """

    def __init__(self, rows: int, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows, self.size = int(rows), int(size)
        self.kernel = self.add_weight(name="kernel", shape=(self.rows, self.size), initializer="zeros")
        self.built = True

    def get_compressible_weights(self) -> dict[str, tuple[int, ...]]:
        return {"kernel": ()}

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor((*inputs.shape, self.size), self.compute_dtype)

    def call(self, inputs: Tensor) -> Tensor:
        return tf.gather(self.kernel.value, tf.cast(inputs, tf.int32))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rows": self.rows, "size": self.size}


class Embedding(Expansion):
    """An embedding, without Keras's care for negative numbers, which needs SELECT."""

    handles: ClassVar[tuple[str, ...]] = ("Embedding",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        weight = emit.weight(operation.embeddings, ())
        layer = Rows(operation.input_dim, operation.output_dim, name="rows")
        return emit.new(frozen(layer, weight), args[0])


class UpSampling(Expansion):
    """Nearest-neighbour upsampling as a resize: TFLM has no TILE."""

    handles = ("UpSampling2D",)

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return bool(operation.interpolation == "nearest")

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        height, width = args[0].shape[1] * operation.size[0], args[0].shape[2] * operation.size[1]
        return emit.new(keras.layers.Resizing(height, width, interpolation="nearest", name="resized"), args[0])


class Resize(Expansion):
    """`keras.ops.image.resize` as the layer: points and kernels know what that does to integers."""

    handles = ("Resize",)

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        settings = ("antialias", "crop_to_aspect_ratio", "pad_to_aspect_ratio")
        plain = not any(getattr(operation, name) for name in settings) and operation.data_format != "channels_first"
        return plain and len(args[0].shape) == 4 and operation.interpolation in ("nearest", "bilinear")

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        layer = keras.layers.Resizing(*operation.size, interpolation=operation.interpolation, name="resized")
        return emit.new(layer, args[0])


class UpSampling1D(Expansion):
    """The same for sequences."""

    handles = ("UpSampling1D",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        return repeated(emit, args[0], int(operation.size))


class RepeatVector(Expansion):
    """A vector, n times."""

    handles = ("RepeatVector",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        return repeated(emit, reshaped(emit, args[0], (1, args[0].shape[1]), "row"), int(operation.n))


def repeated(emit: Emitter, tensor: Tensor, times: int) -> Tensor:
    """Each step of `(batch, steps, channels)` so many times."""
    steps, channels = tensor.shape[1:]
    image = reshaped(emit, tensor, (steps, 1, channels), "image")
    resized = emit.new(keras.layers.Resizing(steps * times, 1, interpolation="nearest", name="resized"), image)
    return reshaped(emit, resized, (steps * times, channels), "restored")
