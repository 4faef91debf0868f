"""Operations that act on each value alone: channels pass through them."""

from __future__ import annotations

import inspect

from keras_compress.core.registry import register
from keras_compress.quantizers.rprelu import RPReLU
from keras_compress.quantizers.xnor_plus_plus import XnorPlusPlusScale
from keras_compress.structured.channel_ids import Axes
from keras_compress.structured.rules.merges import merged_axes
from keras_compress.structured.rules.probe import freeze_mixed
from keras_compress.structured.rules.rule import Rule, Visit, shape_of


@register("channel_rule")
class ElementwiseRule(Rule):
    """One tensor in, one of the same shape out. A factor or limit for each channel is of fixed width."""

    handles = (
        *("ActivityRegularization", "ELU", "GaussianDropout", "GaussianNoise", "Identity", "LeakyReLU", "ReLU"),
        *("Rescaling", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "StochasticDepth"),
        # Keras operations of mathematics ...
        *("Absolute", "Arccos", "Arccosh", "Arcsin", "Arcsinh", "Arctan", "Arctanh", "Array", "BitwiseInvert", "Cast"),
        *("Cbrt", "Ceil", "Clip", "Conjugate", "ConvertToTensor", "Copy", "Cos", "Cosh", "Deg2rad", "Rad2deg"),
        *(
            "Erf",
            "Erfc",
            "Erfinv",
            "Exp",
            "Exp2",
            "Expm1",
            "Fabs",
            "Floor",
            "Imag",
            "Isfinite",
            "Isinf",
            "Isnan",
            "Isneginf",
        ),
        *("Isposinf", "Isreal", "Log", "Log10", "Log1p", "Log2", "LogicalNot", "NanToNum", "Negative", "OnesLike"),
        *("Real", "Reciprocal", "Round", "Rsqrt", "SaturateCast", "Sign", "Signbit", "Sin", "Sinc", "Sinh", "Sqrt"),
        *("Square", "StopGradient", "Tan", "Tanh", "Trunc", "ZerosLike"),
        # ... and of activations.
        *("Celu", "Elu", "Gelu", "HardShrink", "HardSigmoid", "HardSilu", "HardTanh", "LeakyRelu", "LogSigmoid"),
        *("Relu", "Relu6", "Selu", "Sigmoid", "Silu", "SoftShrink", "Softplus", "Softsign", "SparsePlus"),
        *("SparseSigmoid", "Squareplus", "TanhShrink", "Threshold"),
    )

    def outputs(self, visit: Visit) -> list[Axes]:
        names = inspect.signature(type(visit.operation).__init__).parameters
        settings = (shape_of(getattr(visit.operation, name, None)) for name in names if name not in ("self", "name"))
        constants = [*(shape for shape in settings if shape), *visit.constants()]
        shapes = [visit.shape, *constants]
        return [merged_axes(visit, [visit.inputs[0], *({} for _ in constants)], shapes)]


@register("channel_rule")
class DropoutRule(Rule):
    """In training, some values are 0; the shape of the noise may count channels."""

    handles = ("Dropout", "AlphaDropout")

    def outputs(self, visit: Visit) -> list[Axes]:
        noise = getattr(visit.operation, "noise_shape", None)
        for axis, ids in visit.inputs[0].items():
            if noise is not None and noise[axis] not in (None, 1):
                visit.setting(("noise_shape", axis), ids)
        return [dict(visit.inputs[0])]


@register("channel_rule")
class ActivationRule(Rule):
    """Any activation function; one that mixes channels, or may do so, freezes the axis it mixes."""

    handles = ("Activation",)

    def outputs(self, visit: Visit) -> list[Axes]:
        freeze_mixed(visit, visit.operation.activation, visit.inputs[0])
        return [dict(visit.inputs[0])]


@register("channel_rule")
class PReLURule(Rule):
    """A slope for each channel, and for each position where it is not shared."""

    handles = ("PReLU",)

    def outputs(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        for axis, ids in visit.inputs[0].items():
            if layer.alpha.shape[axis - 1] != 1:
                visit.weight(layer.alpha, axis - 1, ids, "through")
        return [dict(visit.inputs[0])]


@register("channel_rule")
class RPReLURule(Rule):
    """ReActNet's shifts and slopes of each channel."""

    handles = (RPReLU,)

    def outputs(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        for variable in (layer.gamma, layer.beta, layer.zeta):
            visit.weight(variable, 0, visit.last, "through")
        return [dict(visit.inputs[0])]


@register("channel_rule")
class XnorPlusPlusScaleRule(Rule):
    """XNOR-Net++'s factors of channels and places: each has the channels of the axes along which it differs."""

    handles = (XnorPlusPlusScale,)

    def outputs(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        for factor, axes in zip(layer.factors, layer.factor_axes, strict=True):
            for axis in axes:
                visit.weight(factor, axis, visit.inputs[0].get(axis + 1), "through")
        return [dict(visit.inputs[0])]


@register("channel_rule")
class LayerScaleRule(Rule):
    """ConvNeXt's factor for each channel."""

    handles = ("LayerScale",)

    def outputs(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        visit.weight(layer.gamma, 0, visit.last, "through")
        visit.setting("projection_dim", visit.last)
        return [dict(visit.inputs[0])]
