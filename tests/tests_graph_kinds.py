"""The kinds of layers and operations that random graphs are made of, those that docs/layers.md promises."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from tests_graphs import Node, Shape

MOST_STEPS = 5
Draw = Callable[[Any], Any]
Maker = Callable[[Draw, Shape], Node]
ACTIVATIONS = (
    "relu", "relu6", "leaky_relu", "elu", "selu", "silu", "hard_silu", "gelu", "sigmoid", "hard_sigmoid", "tanh",
    "softmax", "log_softmax", "softplus", "softsign", "mish", "exponential",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """One kind of layer or operation.

    Attributes:
        name: Of the layer class, or of the function in `tests_graphs.FUNCTIONS`.
        group: What it is drawn among.
        ranks: Of the samples it takes: 1 vectors, 2 sequences, 3 images, 4 volumes.
        settings: Draws the node but its `of`.
        fits: Whether the shape of a sample will do.
        partner: Whether two shapes fit together, for a kind of two inputs.
    """

    name: str
    group: str
    ranks: tuple[int, ...]
    settings: Maker
    fits: Callable[[Shape], bool] = lambda shape: True
    partner: Callable[[Shape, Shape], bool] | None = None


def layer(name: str, **drawn: Any) -> Node:
    return {"layer": name, "with": drawn}


def function(name: str, **drawn: Any) -> Node:
    return {"call": name, "with": drawn} if drawn else {"call": name}


def one_of(draw: Draw, *values: Any) -> Any:
    return draw(st.sampled_from(values))


def features(draw: Draw) -> int:
    return int(one_of(draw, 4, 1, 2, 3, 5, 6, 8))


def _some(draw: Draw, **settings: Any) -> dict[str, Any]:
    """The settings whose drawn value is not the default, `None`."""
    return {key: value for key, value in settings.items() if value is not None}


def _activation(draw: Draw) -> str | None:
    return one_of(
        draw, None, None, None, "relu", draw(st.sampled_from([a for a in ACTIVATIONS[:-1] if "softmax" not in a]))
    )


def _no_bias(draw: Draw) -> bool | None:
    return one_of(draw, None, None, False)


def dense(draw: Draw, shape: Shape) -> Node:
    return layer("Dense", units=features(draw), **_some(draw, activation=_activation(draw), use_bias=_no_bias(draw)))


def _einsum(draw: Draw, shape: Shape) -> Node:
    units = features(draw)
    bias = one_of(draw, "d", None)
    return layer("EinsumDense", equation="abc,cd->abd", output_shape=(shape[0], units), **_some(draw, bias_axes=bias))


def _windows(draw: Draw, shape: Shape, paddings: Sequence[str], equal_strides: bool) -> dict[str, Any]:
    """Kernel, strides, dilation and padding that leave something of the shape."""
    padding = draw(st.sampled_from(paddings))
    dilation = one_of(draw, 1, 1, 2)
    most = [3 if padding != "valid" else min(3, (n - 1) // dilation + 1) for n in shape[:-1]]
    kernel = tuple(draw(st.integers(1, m)) for m in most)
    strides = 1 if dilation > 1 else one_of(draw, 1, 1, 2)
    if strides == 2 and not equal_strides and len(most) == 2:
        strides = one_of(draw, 2, 2, (2, 1))
    made = {"padding": padding, "strides": strides, "dilation_rate": dilation}
    drawn = {key: value for key, value in made.items() if value not in ("valid", 1)}
    return {"kernel_size": kernel if len(kernel) > 1 else kernel[0], **drawn}


def _convolution(name: str, *paddings: str) -> Maker:
    def make(draw: Draw, shape: Shape) -> Node:
        # A grouped Conv1D with dilation has no kernel on CPUs in TensorFlow itself.
        windows = _windows(draw, shape, paddings, name.startswith("Separable"))
        drawn = _some(draw, activation=_activation(draw), use_bias=_no_bias(draw))
        filters = features(draw)
        divisors = [g for g in (2, 3, 4) if shape[-1] % g == 0 and filters % g == 0]
        if name in ("Conv1D", "Conv2D") and divisors and "dilation_rate" not in windows:
            drawn |= _some(draw, groups=one_of(draw, None, draw(st.sampled_from(divisors))))
        if name.startswith("Separable"):
            drawn |= _some(draw, depth_multiplier=one_of(draw, None, None, 2))
        return layer(name, filters=filters, **windows, **drawn)

    return make


def _transposed(name: str) -> Maker:
    def make(draw: Draw, shape: Shape) -> Node:
        drawn = _some(
            draw, padding=one_of(draw, None, "same"), strides=one_of(draw, None, 2), activation=_activation(draw),
            use_bias=_no_bias(draw),
        )  # fmt: skip
        return layer(name, filters=features(draw), kernel_size=draw(st.integers(1, 3)), **drawn)

    return make


def _depthwise(name: str) -> Maker:
    def make(draw: Draw, shape: Shape) -> Node:
        drawn = _some(
            draw, depth_multiplier=one_of(draw, None, None, 2), activation=_activation(draw), use_bias=_no_bias(draw)
        )
        return layer(name, **_windows(draw, shape, ("valid", "same"), True), **drawn)

    return make


def _recurrent(name: str) -> Maker:
    def make(draw: Draw, shape: Shape) -> Node:
        drawn = _some(draw, return_sequences=one_of(draw, None, True), go_backwards=one_of(draw, None, None, True))
        if name == "GRU":
            drawn |= _some(draw, reset_after=one_of(draw, None, False))
        return layer(name, units=draw(st.integers(1, 4)), **drawn)

    return make


def _bidirectional(draw: Draw, shape: Shape) -> Node:
    inner = layer(one_of(draw, "GRU", "LSTM", "SimpleRNN"), units=draw(st.integers(1, 3)))
    inner["with"] |= _some(draw, return_sequences=one_of(draw, None, True))
    mode = one_of(draw, "concat", "sum", "mul", "ave")
    return {"layer": "Bidirectional", "around": inner, "with": {"merge_mode": mode}}


def _stacked(draw: Draw, shape: Shape) -> Node:
    cells = [layer(one_of(draw, *names), units=draw(st.integers(1, 3))) for names in (("LSTMCell", "GRUCell"),) * 2]
    return {"layer": "RNN", "around": cells, "with": {}}


def _distributed(draw: Draw, shape: Shape) -> Node:
    inner = (
        layer("Conv2D", filters=features(draw), kernel_size=1, **_some(draw, activation=_activation(draw)))
        if len(shape) == 4
        else dense(draw, shape)
    )
    return {"layer": "TimeDistributed", "around": inner, "with": {}}


def _attention(name: str) -> Maker:
    def make(draw: Draw, shape: Shape) -> Node:
        if name == "GroupQueryAttention":
            return layer(name, head_dim=one_of(draw, 4, 2), num_query_heads=4, num_key_value_heads=one_of(draw, 2, 1))
        return layer(name, num_heads=one_of(draw, 2, 1), key_dim=one_of(draw, 4, 3))

    return make


def _wide_attention(draw: Draw, shape: Shape) -> Node:
    return layer("MultiHeadAttention", num_heads=2, key_dim=3, attention_axes=(1, 2))


def _constant(name: str, make: Callable[..., Node] = layer, **choices: Sequence[Any]) -> Maker:
    """A node whose settings are each one of some values; `None` leaves a setting out."""

    def drawn(draw: Draw, shape: Shape) -> Node:
        return make(name, **_some(draw, **{key: draw(st.sampled_from(list(v))) for key, v in choices.items()}))

    return drawn


def _normalized(name: str) -> Maker:
    """Over the features mostly; batch normalization over another axis and layer normalization over all, at times."""

    def make(draw: Draw, shape: Shape) -> Node:
        drawn: dict[str, Any] = {}
        if len(shape) > 1 and name == "LayerNormalization":
            drawn = _some(draw, axis=one_of(draw, None, None, None, list(range(1, len(shape) + 1))))
        if len(shape) > 1 and name == "BatchNormalization":
            drawn = _some(draw, axis=one_of(draw, None, None, None, None, 1))
        if name in ("BatchNormalization", "LayerNormalization"):
            drawn |= _some(draw, center=one_of(draw, None, None, False), scale=one_of(draw, None, None, False))
        return layer(name, **drawn)

    return make


def _groups(draw: Draw, shape: Shape) -> Node:
    return layer("GroupNormalization", groups=draw(st.sampled_from([g for g in (1, 2, 3, 4, 8) if shape[-1] % g == 0])))


def _standardized(draw: Draw, shape: Shape) -> Node:
    mean, variance = ([round(low + 0.3 * n, 1) for n in range(shape[-1])] for low in (-0.5, 0.5))
    return layer("Normalization", mean=mean, variance=variance)


def _pooled(name: str) -> Maker:
    def make(draw: Draw, shape: Shape) -> Node:
        size = draw(st.integers(1, min(3, *shape[:-1])))
        drawn = _some(draw, strides=one_of(draw, None, 1, 2), padding=one_of(draw, None, "same"))
        return layer(name, pool_size=size, **drawn)

    return make


def _resized(draw: Draw, shape: Shape) -> Node:
    height, width = (draw(st.integers(1, 12)) for _ in range(2))
    return layer("Resizing", height=height, width=width, interpolation=one_of(draw, "nearest", "bilinear"))


def _reshaped(draw: Draw, shape: Shape) -> Node:
    size = math.prod(shape)
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    first = draw(st.sampled_from(divisors))
    targets = [(size,), (first, size // first), (first, 1, size // first)]
    return layer("Reshape", target_shape=draw(st.sampled_from(targets)))


def _permuted(draw: Draw, shape: Shape) -> Node:
    return layer("Permute", dims=tuple(draw(st.permutations(range(1, len(shape) + 1)))))


def _reduced(name: str) -> Maker:
    return lambda draw, shape: function(name, axis=one_of(draw, -1, *range(1, len(shape))))


def _joined(draw: Draw, shape: Shape) -> Node:
    return one_of(draw, layer("Concatenate"), function("concatenate", axis=-1))


def _same(first: Shape, second: Shape) -> bool:
    return first == second


def _several(shape: Shape) -> bool:
    """What is normalized over one feature is a constant."""
    return shape[-1] > 1


def _few_steps(shape: Shape) -> bool:
    """Each step is unrolled."""
    return shape[0] <= MOST_STEPS


def _broadcast(first: Shape, second: Shape) -> bool:
    """Equal, or one number for each channel, as a squeeze-and-excite gate is."""
    return first == second or (len(first) == len(second) and set(second[:-1]) <= {1} and first[-1] == second[-1])


def _only_features_differ(first: Shape, second: Shape) -> bool:
    return first[:-1] == second[:-1]


def _both_sequences(first: Shape, second: Shape) -> bool:
    return len(first) == len(second) == 2


def _same_features(first: Shape, second: Shape) -> bool:
    return len(first) == len(second) == 2 and first[-1] == second[-1]


ALL, SPATIAL = (1, 2, 3, 4), (2, 3, 4)
_UNARY = {
    "abs": {}, "square": {}, "exp": {}, "sin": {}, "sqrt": {}, "exact_gelu": {},
    "clip": {"low": (-1.0, 0.0, -0.5), "high": (1.0, 6.0)}, "where": {"factor": (0.1, -0.5)},
    "scaled": {"factor": (0.5, -2.0), "shift": (1.0, -0.3)}, "divided": {"by": (2.0, -3.0)},
    "from": {"number": (1.0, -0.5)}, "offset": {"low": (-1.0, 0.2), "high": (1.0, 0.5)},
}  # fmt: skip
KINDS: tuple[Kind, ...] = (
    Kind("Dense", "weighted", (1, 2, 3), dense),
    Kind("EinsumDense", "weighted", (2,), _einsum),
    Kind("Conv1D", "weighted", (2,), _convolution("Conv1D", "valid", "same", "causal")),
    Kind("Conv1DTranspose", "weighted", (2,), _transposed("Conv1DTranspose")),
    Kind("DepthwiseConv1D", "weighted", (2,), _depthwise("DepthwiseConv1D")),
    Kind("SeparableConv1D", "weighted", (2,), _convolution("SeparableConv1D", "valid", "same")),
    Kind("Conv2D", "weighted", (3,), _convolution("Conv2D", "valid", "same")),
    Kind("Conv2D", "weighted", (3,), _convolution("Conv2D", "valid", "same")),
    Kind("Conv2DTranspose", "weighted", (3,), _transposed("Conv2DTranspose")),
    Kind("DepthwiseConv2D", "weighted", (3,), _depthwise("DepthwiseConv2D")),
    Kind("SeparableConv2D", "weighted", (3,), _convolution("SeparableConv2D", "valid", "same")),
    Kind("TimeDistributed", "weighted", (2, 4), _distributed),
    *(Kind(name, "recurrent", (2,), _recurrent(name), _few_steps) for name in ("LSTM", "GRU", "SimpleRNN")),
    Kind("Bidirectional", "recurrent", (2,), _bidirectional, _few_steps),
    Kind("RNN", "recurrent", (2,), _stacked, _few_steps),
    Kind("MultiHeadAttention", "attention", (2,), _attention("MultiHeadAttention"), partner=_both_sequences),
    Kind("GroupQueryAttention", "attention", (2,), _attention("GroupQueryAttention"), partner=_same_features),
    Kind("MultiHeadAttention", "attention", (3,), _wide_attention, partner=_same),
    *(Kind(name, "attention", (2,), _constant(name), partner=_same_features) for name in
      ("Attention", "AdditiveAttention")),
    *(
        Kind(name, "activation", ALL, _constant("Activation", activation=[name]),
             _several if "softmax" in name else lambda shape: True)
        for name in ACTIVATIONS
    ),
    Kind("ReLU", "activation", ALL, _constant("ReLU", max_value=(None, 6.0, 1.0))),
    Kind("LeakyReLU", "activation", ALL, _constant("LeakyReLU", negative_slope=(None, 0.1))),
    Kind("ELU", "activation", ALL, _constant("ELU")),
    Kind("Softmax", "activation", ALL, _constant("Softmax"), _several),
    Kind("PReLU", "activation", (1, 2), _constant("PReLU")),
    Kind("PReLU", "activation", (3,), _constant("PReLU", shared_axes=(None, [1, 2]))),
    *(Kind("BatchNormalization", "normalization", ALL, _normalized("BatchNormalization")) for _ in range(3)),
    *(Kind(name, "normalization", ALL, _normalized(name), _several) for name in
      ("LayerNormalization", "RMSNormalization", "UnitNormalization")),
    Kind("GroupNormalization", "normalization", (2, 3), _groups, lambda shape: math.prod(shape[:-1]) > 1),
    Kind("Rescaling", "normalization", ALL, _constant("Rescaling", scale=(0.5, 2.0), offset=(None, -0.1))),
    Kind("Normalization", "normalization", (1, 2, 3), _standardized),
    *(
        Kind(f"{name}{rank - 1}D", "pooling", (rank,), _pooled(f"{name}{rank - 1}D"))
        for name in ("MaxPooling", "AveragePooling") for rank in SPATIAL
    ),
    *(
        Kind(f"Global{name}{rank - 1}D", "pooling", (rank,),
             _constant(f"Global{name}{rank - 1}D", keepdims=(None, True)))
        for name in ("MaxPooling", "AveragePooling") for rank in SPATIAL
    ),
    *(Kind(f"ZeroPadding{r - 1}D", "shape", (r,), _constant(f"ZeroPadding{r - 1}D", padding=(1, 2))) for r in SPATIAL),
    *(
        Kind(f"Cropping{r - 1}D", "shape", (r,), _constant(f"Cropping{r - 1}D", cropping=(1,)),
             lambda shape: min(shape[:-1]) > 2)
        for r in SPATIAL
    ),
    Kind("UpSampling1D", "shape", (2,), _constant("UpSampling1D", size=(2, 3))),
    Kind("UpSampling2D", "shape", (3,),
         _constant("UpSampling2D", size=(2, (1, 3)), interpolation=("nearest", "bilinear"))),
    Kind("Resizing", "shape", (3,), _resized),
    Kind("Reshape", "shape", (1, 2, 3), _reshaped),
    Kind("Permute", "shape", (2, 3), _permuted),
    Kind("Flatten", "shape", ALL, _constant("Flatten")),
    Kind("RepeatVector", "shape", (1,), _constant("RepeatVector", n=(2, 3, 1))),
    *(Kind(name, "merge", ALL, _constant(name), partner=_broadcast) for name in ("Add", "Add", "Multiply")),
    *(Kind(name, "merge", ALL, _constant(name), partner=_same) for name in
      ("Subtract", "Maximum", "Minimum", "Average")),
    Kind("Concatenate", "merge", ALL, _joined, partner=_only_features_differ),
    Kind("Dot", "merge", (2,), _constant("Dot", axes=(2,)), partner=_same_features),
    Kind("Dot", "merge", (1,), _constant("Dot", axes=(1,)), partner=_same),
    *(Kind(name, "merge", ALL, _constant(name, function), partner=_broadcast) for name in ("plus", "minus", "times")),
    *(Kind(name, "merge", ALL, _constant(name, function), partner=_same) for name in ("over", "maximum", "minimum")),
    *(Kind(name, "operation", ALL, _constant(name, function, **choices)) for name, choices in _UNARY.items()),
    *(Kind(name, "operation", ALL, _reduced(name)) for name in ("mean", "sum", "max")),
)  # fmt: skip
# How often each group is drawn, of its sum.
GROUPS = {
    "weighted": 8, "normalization": 4, "activation": 3, "merge": 5, "operation": 2, "pooling": 2, "shape": 2,
    "recurrent": 1, "attention": 1, "again": 1, "nested": 1,
}  # fmt: skip
