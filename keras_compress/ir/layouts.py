"""Where a Keras kernel ends up in TFLite: the layout of each weighted layer that has integer kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core.transform import IntegerWeight
from keras_compress.tflite.grids import ConstantGrid

Array = NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """How one kind of layer stores its kernel on the device.

    Attributes:
        arrange: Keras kernel (or its scale, same rank) -> TFLite layout.
        quantized_dimension: Axis of the output channels in the TFLite layout.
        operator: What the layer becomes.
    """

    arrange: Callable[[Array], Array]
    quantized_dimension: int = 0
    operator: str = "CONV_2D"

    def grid(self, name: str, weight: IntegerWeight) -> ConstantGrid:
        """The integers and scales as the file holds them."""
        values = self.arrange(weight.integers)
        scale = self.arrange(np.broadcast_to(weight.scale, weight.integers.shape))
        along = np.moveaxis(scale, self.quantized_dimension, 0).reshape(values.shape[self.quantized_dimension], -1)
        one = weight.scale.size == 1
        return ConstantGrid(
            name=name,
            values=np.ascontiguousarray(values, dtype=np.int8),
            scale=np.ascontiguousarray(along[:1, 0] if one else along[:, 0], dtype=np.float32),
            quantized_dimension=0 if one else self.quantized_dimension,
            bits=weight.bits,
        )


def _depthwise_2d(kernel: Array) -> Array:
    return kernel.reshape(1, *kernel.shape[:2], -1)


def _depthwise_1d(kernel: Array) -> Array:
    return kernel.reshape(1, 1, kernel.shape[0], -1)


_LAYOUTS: dict[str, Layout] = {
    "Conv2D": Layout(lambda k: np.transpose(k, (3, 0, 1, 2))),
    "Conv1D": Layout(lambda k: np.transpose(k, (2, 0, 1))[:, None]),
    "Conv2DTranspose": Layout(lambda k: np.transpose(k, (2, 0, 1, 3)), operator="TRANSPOSE_CONV"),
    "DepthwiseConv2D": Layout(_depthwise_2d, 3, "DEPTHWISE_CONV_2D"),
    "DepthwiseConv1D": Layout(_depthwise_1d, 3, "DEPTHWISE_CONV_2D"),
    "Dense": Layout(lambda k: np.transpose(k), operator="FULLY_CONNECTED"),
    "Operand": Layout(lambda k: k, operator="operator on two tensors"),
    "Rows": Layout(lambda k: k, operator="GATHER"),
}


# What layers are taken apart into, not what users write.
_OF_THIS_LIBRARY = ("Operand", "Rows")
# Layers that have weights and no integer kernel in any mode -> why.
_REFUSED = {
    "Conv3D": "for CONV_3D",
    "Conv3DTranspose": "for CONV_3D_TRANSPOSE",
    "ConvLSTM3D": "for CONV_3D, which each of its steps would be made of,",
}


def layout_of(layer: keras.layers.Layer, path: str, mode: str = "int8") -> Layout:
    """The layout of a layer's kernel.

    Args:
        layer: A weighted layer.
        path: Its path, which a refusal names.
        mode: `"int8"`, `"16x8"` or `"dynamic"`, which a refusal names.

    Raises:
        ValueError: For a layer that has no integer kernel yet, by path.
    """
    for cls in type(layer).__mro__:
        if cls.__name__ in _LAYOUTS and cls.__module__.startswith(("keras.", "keras_compress.")):
            return _LAYOUTS[cls.__name__]
    kind = next((cls.__name__ for cls in type(layer).__mro__ if cls.__name__ in _REFUSED), None)
    why = f", {_REFUSED[kind]} has no {mode} kernel" if kind else ""
    known = sorted(set(_LAYOUTS) - set(_OF_THIS_LIBRARY))
    raise ValueError(
        f"Expected layers with integer kernels: {known}. Received: {type(layer).__name__} at {path!r}{why}; "
        "replace it, or convert with mode='float32', 'float16'."
    )
