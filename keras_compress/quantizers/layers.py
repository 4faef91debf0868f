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
from keras_compress.quantizers.weight_quantizer import WeightQuantizer

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


class ReadyLayer(type):
    """Class of the ready layers. What they make is the one wrapper, and `isinstance` knows it, out of a file too.

    Attributes:
        of: The Keras layer inside.
        quantizer: The weight quantizer that it has by default.
        most_levels: Most levels that its weights have for each scale, `None` for any number.
    """

    of: type[keras.layers.Layer]
    quantizer: str
    most_levels: int | None = None

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> None:
        super().__init__(name, bases, namespace)
        cls.__doc__ = f"{cls.__doc__}\n{_ARGUMENTS.format(layer=cls.of.__name__, kernel_quantizer=cls.quantizer)}"

    def __call__(cls, *args: Any, **kwargs: Any) -> Compressed:
        return wrapped(cls.of, *args, **{"kernel_quantizer": cls.quantizer, **kwargs})

    def __instancecheck__(cls, instance: Any) -> bool:
        if not isinstance(instance, Compressed) or type(instance.layer) is not cls.of:
            return False
        levels = [each.number_of_clusters for each in instance.transform_list if isinstance(each, WeightQuantizer)]
        return bool(levels) and (cls.most_levels is None or min(levels) <= cls.most_levels)


class QuantDense(metaclass=ReadyLayer):
    """A Dense layer with quantized weights."""

    of, quantizer = keras.layers.Dense, "int8"


class QuantConv2D(metaclass=ReadyLayer):
    """A Conv2D layer with quantized weights."""

    of, quantizer = keras.layers.Conv2D, "int8"


class QuantDepthwiseConv2D(metaclass=ReadyLayer):
    """A DepthwiseConv2D layer with quantized weights."""

    of, quantizer = keras.layers.DepthwiseConv2D, "int8"


class BinaryDense(metaclass=ReadyLayer):
    """A Dense layer with binary weights: +-alpha for each unit."""

    of, quantizer, most_levels = keras.layers.Dense, "bwn", 2


class BinaryConv2D(metaclass=ReadyLayer):
    """A Conv2D layer with binary weights: +-alpha for each filter."""

    of, quantizer, most_levels = keras.layers.Conv2D, "bwn", 2


class TernaryDense(metaclass=ReadyLayer):
    """A Dense layer with ternary weights: 0 and +-alpha."""

    of, quantizer, most_levels = keras.layers.Dense, "twn", 3


class TernaryConv2D(metaclass=ReadyLayer):
    """A Conv2D layer with ternary weights: 0 and +-alpha."""

    of, quantizer, most_levels = keras.layers.Conv2D, "twn", 3
