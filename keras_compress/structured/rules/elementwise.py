"""Operations that act on each value alone: channels pass through them."""

from __future__ import annotations

from keras_compress.core.registry import register
from keras_compress.structured.channel_ids import Axes
from keras_compress.structured.rules.rule import Rule, Visit, softmax_axis


@register("channel_rule")
class ElementwiseRule(Rule):
    """One tensor in, one of the same shape out."""

    handles = (
        *("ActivityRegularization", "AlphaDropout", "Dropout", "ELU", "GaussianDropout", "GaussianNoise"),
        *("Identity", "LeakyReLU", "Masking", "ReLU", "Rescaling", "StochasticDepth"),
        *("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"),
        # Keras operations.
        *("Abs", "Absolute", "Cast", "Celu", "Clip", "Elu", "Exp", "Gelu", "HardShrink", "HardSigmoid", "HardSilu"),
        *("HardTanh", "LeakyRelu", "Log", "LogSigmoid", "Mish", "Negative", "Relu", "Relu6", "Round", "Rsqrt"),
        *("Selu", "Sigmoid", "Sign", "Silu", "SoftShrink", "Softplus", "Softsign", "Sqrt", "Square"),
        *("SquarePlus", "StopGradient", "Tanh", "TanhShrink", "Threshold", "ZerosLike", "OnesLike"),
    )

    def outputs(self, visit: Visit) -> list[Axes]:
        return [dict(visit.inputs[0])]


@register("channel_rule")
class ActivationRule(Rule):
    """Any activation function; a softmax freezes the axis it is taken over."""

    handles = ("Activation",)

    def outputs(self, visit: Visit) -> list[Axes]:
        if softmax_axis(visit.operation.activation):
            visit.freeze(visit.last, f"{visit.path} takes a softmax over it")
        return [dict(visit.inputs[0])]


@register("channel_rule")
class SoftmaxRule(Rule):
    """A softmax over some axes, whose channels have to stay."""

    handles = ("Softmax", "LogSoftmax")

    def outputs(self, visit: Visit) -> list[Axes]:
        axes = visit.operation.axis
        for axis in axes if isinstance(axes, (list, tuple)) else [axes]:
            visit.freeze(visit.inputs[0].get(axis % len(visit.shape)), f"{visit.path} takes a softmax over it")
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
class LayerScaleRule(Rule):
    """ConvNeXt's factor for each channel."""

    handles = ("LayerScale",)

    def outputs(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        visit.weight(layer.gamma, 0, visit.last, "through")
        visit.setting("projection_dim", visit.last)
        return [dict(visit.inputs[0])]
