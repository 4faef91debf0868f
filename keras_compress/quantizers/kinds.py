"""How the int8 kernels treat each kind of layer: what may be fused, and what keeps the scale of its input."""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Sequence
from enum import Enum
from typing import Any

import keras
import tensorflow as tf

from keras_compress.core import keras_private
from keras_compress.graph.model import inner


class Kind(Enum):
    """What a call means for the integers that flow through it."""

    LINEAR = "weighted sum with its own output range"
    NORM = "batch normalization"
    CLAMP = "clamp that fuses into the operation before it"
    SAME = "moves values without changing them: keeps the scale"
    AVERAGE = "average that keeps the scale and rounds"
    MEAN = "average over all positions, with its own output range"
    JOIN = "puts tensors together: the inputs take the output's scale"
    FIXED = "output range fixed by the runtime"
    FREE = "own output range"


class Place(Enum):
    """What is known of the values at a point of a graph."""

    RELU = "just behind a ReLU"
    NON_NEGATIVE = "not negative: ReLUs, pooled or joined"
    MEAN = "means over all positions: small beside what they are means of, and few"
    ANYWHERE = "may be negative"


# Layers that do nothing in inference; called without a word of training, augmentations would begin.
_INFERENCE_IDENTITY = (
    "Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianNoise GaussianDropout AlphaDropout "
    "ActivityRegularization Identity AugMix CutMix MixUp RandAugment RandomBrightness RandomColorDegeneration "
    "RandomColorJitter RandomContrast RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur "
    "RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation RandomSaturation "
    "RandomSharpness RandomShear RandomTranslation RandomZoom "
    # What it tells training, `freeze` knows.
    "RoundAverage"
)
INFERENCE_IDENTITY = _INFERENCE_IDENTITY.split()
_BY_CLASS = {
    Kind.LINEAR: "Dense EinsumDense Conv1D Conv2D Conv3D Conv1DTranspose Conv2DTranspose Conv3DTranspose "
    "DepthwiseConv1D DepthwiseConv2D SeparableConv1D SeparableConv2D",
    Kind.NORM: "BatchNormalization",
    Kind.SAME: "MaxPooling1D MaxPooling2D MaxPooling3D GlobalMaxPooling1D GlobalMaxPooling2D Flatten Reshape Permute "
    "ZeroPadding1D ZeroPadding2D ZeroPadding3D Cropping1D Cropping2D Cropping3D UpSampling1D RepeatVector "
    "InputLayer Transpose Squeeze ExpandDims GetItem Copy Split Unstack SwapAxes Swapaxes Moveaxis Flip "
    + _INFERENCE_IDENTITY,
    Kind.AVERAGE: "AveragePooling1D AveragePooling2D AveragePooling3D",
    Kind.MEAN: "GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D",
    Kind.JOIN: "Concatenate Stack",
    Kind.CLAMP: "Relu Relu6",
    Kind.FIXED: "Softmax Sigmoid Tanh",
}
_KINDS = {name: kind for kind, names in _BY_CLASS.items() for name in names.split()}
# Activations that a kernel takes along, and those whose output range the runtime fixes: scale, zero point.
FUSED_ACTIVATIONS = ("relu", "relu6")
FIXED_GRIDS = {
    "softmax": (1 / 256, -128),
    "sigmoid": (1 / 256, -128),
    "tanh": (1 / 128, 0),
}
FIXED_GRIDS_8 = {**FIXED_GRIDS, "log_softmax": (16 / 256, 127)}
FIXED_GRID_16 = (1 / 32768, 0)


# The same function in each of these modules; `keras.ops.gelu` is another one than `keras.activations.gelu`.
_IN_TENSORFLOW = (
    *("relu", "relu6", "elu", "selu", "leaky_relu", "sigmoid", "tanh", "silu", "swish", "softplus", "softsign"),
    *("softmax", "log_softmax"),
)
_IN_OPS = (
    *(*_IN_TENSORFLOW, "celu", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "log_sigmoid", "squareplus"),
    *("soft_shrink", "hard_shrink", "tanh_shrink", "sparse_plus", "sparse_sigmoid"),
)


@functools.cache
def _known_functions() -> dict[int, str]:
    """`id` of a function of Keras or TensorFlow -> the name of the Keras activation that it is."""
    names = {"swish": "silu", "hard_swish": "hard_silu"}
    found = [(getattr(tf.nn, name), name) for name in _IN_TENSORFLOW]
    found += [(getattr(keras.ops, name), name) for name in _IN_OPS]
    found += [(tf.nn.gelu, "gelu"), (tf.exp, "exponential"), (keras.ops.exp, "exponential")]
    known = {id(function): names.get(name, name) for function, name in found}
    own = [getattr(keras.activations, name) for name in dir(keras.activations)]
    known.update({id(each): each.__name__ for each in own if isinstance(each, types.FunctionType)})
    return known


def known_activation(function: Any) -> str | None:
    """Name of the Keras activation that a function is; `None` for a user's own, whatever it is called."""
    return _known_functions().get(id(function))


def activation_name(layer: Any) -> str | None:
    """Name of the activation that a layer applies, `None` for linear.

    A function of a user's own is `"custom_"` and its name, which may be that of any other.
    """
    body = inner(layer) if isinstance(layer, keras.layers.Layer) else layer
    if type(body).__name__ in ("ReLU", "Softmax"):
        return _clamp_of(body) if type(body).__name__ == "ReLU" else "softmax"
    activation = getattr(body, "activation", None)
    if activation is None or activation is keras.activations.linear:
        return type(body).__name__.lower() if type(body).__name__ in ("Sigmoid", "Tanh", "Relu", "Relu6") else None
    known = known_activation(activation)
    if known is None and not isinstance(activation, keras.layers.Layer):
        name = getattr(activation, "__name__", type(activation).__name__)
        return "custom_" + re.sub(r"\W", "", str(name))
    return known or type(activation).__name__


def _clamp_of(relu: keras.layers.ReLU) -> str:
    if relu.negative_slope == 0 and relu.threshold == 0 and relu.max_value in (None, 6):
        return "relu" if relu.max_value is None else "relu6"
    return "leaky_relu"


def kind_of(operation: Any) -> Kind:
    """The kind of a layer or Keras operation; wrappers are looked through."""
    body = inner(operation) if isinstance(operation, keras.layers.Layer) else operation
    name = type(body).__name__
    if name in ("Activation", "ReLU"):
        activation = activation_name(body)
        if activation is None:
            return Kind.SAME
        if activation in FUSED_ACTIVATIONS:
            return Kind.CLAMP
        return Kind.FIXED if activation in FIXED_GRIDS else Kind.FREE
    if name in ("UpSampling2D", "Resizing"):
        return Kind.SAME if body.interpolation == "nearest" else Kind.AVERAGE
    # A layer of this library that only moves values says so itself.
    return Kind.SAME if getattr(body, "moves_values", False) else _KINDS.get(name, Kind.FREE)


def unmoved(tensor: Any) -> Any:
    """A symbolic tensor before calls that only move values: what made its integers, if they are any."""
    while kind_of(keras_private.maker(tensor)) is Kind.SAME and (read := keras_private.call_node(tensor).input_tensors):
        tensor = read[0]
    return tensor


def kind_of_call(operation: Any, shape: Sequence[int | None]) -> Kind:
    """The kind of an operation on an input of this shape: an average pooling with one window is a mean.

    Args:
        operation: Layer or Keras operation.
        shape: Shape of its first input, the batch first.
    """
    kind = kind_of(operation)
    return Kind.MEAN if kind is Kind.AVERAGE and _has_one_window(operation, shape[1:-1]) else kind


def _has_one_window(pooling: Any, places: Sequence[int | None]) -> bool:
    sizes = getattr(pooling, "pool_size", None)
    if sizes is None or pooling.padding != "valid" or pooling.data_format != "channels_last":
        return False
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    return sizes == tuple(places)


def may_follow(before: Kind, layer: Any, after: Kind) -> bool:
    """Whether the device runs the kind `after` as a part of `layer`, of kind `before`: no integers stand between."""
    if activation_name(layer) is not None:
        return False
    if before is Kind.LINEAR and after is Kind.NORM:
        return True
    return before in (Kind.LINEAR, Kind.NORM, Kind.FREE) and after is Kind.CLAMP


def splits(layer: Any) -> str | None:
    """The activation that has to leave a weighted layer, because no kernel fuses it; `None` where there is none."""
    name = activation_name(layer)
    return name if kind_of(layer) is Kind.LINEAR and name not in (None, *FUSED_ACTIVATIONS) else None
