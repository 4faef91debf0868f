"""Ready layers for models that are written for few bits: a Keras layer inside the one wrapper, made in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_compress.core.registry import resolve
from keras_compress.core.slots import slots_of
from keras_compress.core.wrapper import Compressed
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.quantizers.model import activation_quantizer, weight_transforms

_ARGUMENTS = """
    Args:
        *args: Positional arguments of `keras.layers.{layer}`.
        kernel_quantizer: Weight quantizer, its name or configuration; `{kernel_quantizer!r}` by default. Behind one
            whose levels are not integers stands the uniform 8-bit grid; see `grid`.
        input_quantizer: Activation quantizer that the inputs pass through first, such as `"ste_sign"`; none by default.
        gradient_quantizer: Quantizer of the gradient that arrives at the output, such as `DoReFaGradient(6)`.
        grid: As in `quantize_model`; `None` leaves the levels as they are.
        kernel_constraint: A Keras constraint, or `"weight_clip"`.
        **kwargs: Keyword arguments of `keras.layers.{layer}`.

    Returns:
        A `Compressed` layer. Its first transformed weights come from the initial values of the kernel.
"""


def wrapped(
    layer: Callable[..., keras.layers.Layer],
    *args: Any,
    kernel_quantizer: Any,
    input_quantizer: Any = None,
    gradient_quantizer: Any = None,
    grid: Any = "int8",
    kernel_constraint: Any = None,
    **kwargs: Any,
) -> Compressed:
    """A layer in the wrapper of this library, with quantizers.

    Args:
        layer: Keras layer class with one compressible weight.
        *args: Its positional arguments.
        kernel_quantizer: Weight quantizer, its name or configuration.
        input_quantizer: Activation quantizer that the inputs pass through first; `None` for none.
        gradient_quantizer: Quantizer of the gradient that arrives at the output; `None` for none.
        grid: As in `quantize_model`.
        kernel_constraint: A Keras constraint, or `"weight_clip"`.
        **kwargs: Keyword arguments of the layer.

    Raises:
        ValueError: For an unknown quantizer.
    """
    transforms = weight_transforms(kernel_quantizer, grid=grid)
    made_input = activation_quantizer(input_quantizer)
    gradients = None if gradient_quantizer is None else resolve("gradient_quantizer", gradient_quantizer)
    if isinstance(kernel_constraint, str):
        kernel_constraint = resolve("constraint", kernel_constraint)
    name = "depthwise_constraint" if layer is keras.layers.DepthwiseConv2D else "kernel_constraint"
    inner = layer(*args, **{name: kernel_constraint}, **kwargs)
    point = None if made_input is None else QuantizeActivation(made_input, name=f"{inner.name}_input")
    return Compressed(inner, {slots_of(inner)[0].name: transforms}, input_point=point, gradients=gradients)


def _constructor(layer: Callable[..., keras.layers.Layer], kernel_quantizer: Any, summary: str) -> Any:
    def make(*args: Any, kernel_quantizer: Any = kernel_quantizer, **kwargs: Any) -> Compressed:
        return wrapped(layer, *args, kernel_quantizer=kernel_quantizer, **kwargs)

    make.__doc__ = summary + "\n" + _ARGUMENTS.format(layer=layer.__name__, kernel_quantizer=kernel_quantizer)
    return make


QuantDense = _constructor(keras.layers.Dense, "int8", "A Dense layer with quantized weights.")
QuantConv2D = _constructor(keras.layers.Conv2D, "int8", "A Conv2D layer with quantized weights.")
QuantDepthwiseConv2D = _constructor(
    keras.layers.DepthwiseConv2D, "int8", "A DepthwiseConv2D layer with quantized weights."
)
BinaryDense = _constructor(keras.layers.Dense, "bwn", "A Dense layer with binary weights: +-alpha for each unit.")
BinaryConv2D = _constructor(keras.layers.Conv2D, "bwn", "A Conv2D layer with binary weights: +-alpha for each filter.")
TernaryDense = _constructor(keras.layers.Dense, "twn", "A Dense layer with ternary weights: 0 and +-alpha.")
TernaryConv2D = _constructor(keras.layers.Conv2D, "twn", "A Conv2D layer with ternary weights: 0 and +-alpha.")
