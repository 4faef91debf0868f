"""The rows of `docs/layers.md`: one small model for each kind of layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers, ops

Tensor = Any
IMAGE, SEQUENCE, VECTOR, VOLUME = (8, 8, 4), (3, 6), (6,), (4, 4, 4, 2)


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: What is tried.
        group: Heading in the table.
        build: From one symbolic input, or a list of them, to the output.
        shape: Shape of a sample, the same for all inputs.
        own: Whether the layer has weights of its own; else a convolution or Dense layer stands before it.
        inputs: Number of inputs.
        dtype: Of the inputs; integers are numbers of rows below 10.
        batch: Number of samples, where the layer wants to know it.
    """

    name: str
    group: str
    build: Callable[[Any], Tensor]
    shape: tuple[int, ...] = IMAGE
    own: bool = False
    inputs: int = 1
    dtype: str = "float32"
    batch: int | None = None

    def model(self) -> keras.Model:
        """The model, with random weights from a fixed seed."""
        keras.utils.set_random_seed(0)
        keras.backend.clear_session()
        tensors = [keras.Input(self.shape, self.batch, dtype=self.dtype, name=f"x{n}") for n in range(self.inputs)]
        outputs = self.build(tensors[0] if self.inputs == 1 else tensors)
        return keras.Model(tensors[0] if self.inputs == 1 else tensors, outputs)


def _weighted(group: str, shape: tuple[int, ...], **made: Callable[[], Any]) -> list[Row]:
    return [Row(name, group, _only(make), shape, own=True) for name, make in made.items()]


def _only(make: Callable[[], Any]) -> Callable[[Tensor], Tensor]:
    return lambda x: make()(x)


def _behind(make: Callable[[], Any]) -> Callable[[Tensor], Tensor]:
    """A layer behind a convolution or Dense layer of 4 channels."""

    def build(x: Tensor) -> Tensor:
        rank = len(x.shape) - 2
        before = layers.Conv2D(4, 3) if rank == 2 else layers.Dense(4)
        return make()(before(x))

    return build


def _rows(group: str, shape: tuple[int, ...], *made: tuple[str, Callable[[], Any]], own: bool = False) -> list[Row]:
    return [Row(name, group, _only(make) if own else _behind(make), shape, own) for name, make in made]


class Gated(layers.Layer):
    """A user's layer with weights of its own."""

    def build(self, shape: Any) -> None:
        self.matrix = self.add_weight(shape=(shape[-1], 4), name="matrix")
        self.shift = self.add_weight(shape=(4,), name="shift", initializer="normal")

    def get_compressible_weights(self) -> dict[str, tuple[int, ...]]:
        return {"matrix": (-1,)}

    def call(self, inputs: Tensor) -> Tensor:
        moved = ops.matmul(inputs, self.matrix) + self.shift
        return ops.silu(moved) + moved * 0.5


class Block(layers.Layer):
    """A user's layer that calls Keras layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = layers.Conv2D(4, 3, padding="same", use_bias=False)
        self.norm = layers.BatchNormalization()

    def build(self, shape: Any) -> None:
        self.stem.build(shape)
        self.norm.build(shape)

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        return inputs + ops.relu(self.norm(self.stem(inputs), training=training))


def _attention(**settings: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: layers.MultiHeadAttention(2, 4)(x, x, **settings)


def _squeeze_and_excite(x: Tensor) -> Tensor:
    x = layers.Conv2D(4, 3, activation="relu")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(2, 1, activation="relu")(gate)
    return layers.Multiply()([x, layers.Conv2D(4, 1, activation="sigmoid")(gate)])


def _inverted_residual(x: Tensor) -> Tensor:
    y = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(8, 1, use_bias=False)(x)))
    y = layers.ReLU(6.0)(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y)))
    return layers.Add()([x, layers.BatchNormalization()(layers.Conv2D(4, 1, use_bias=False)(y))])


def _masked(x: Tensor) -> Tensor:
    return layers.LSTM(4)(layers.Masking()(x))


def _masked_tokens(x: Tensor) -> Tensor:
    return layers.GRU(4)(layers.Embedding(10, 4, mask_zero=True)(x))


def _pair(make: Callable[[], Any]) -> Callable[[Tensor], Tensor]:
    return lambda x: make()([layers.Conv2D(4, 3)(x), layers.Conv2D(4, 3)(x)])


def _recurrent(name: str, make: Callable[[], Any]) -> Row:
    return Row(name, "Recurrent", _only(make), SEQUENCE, own=True)


def _bidirectional(mode: str | None) -> Row:
    def build(x: Tensor) -> Tensor:
        made = layers.Bidirectional(layers.GRU(3), merge_mode=mode)(x)
        return layers.Concatenate()(list(made)) if mode is None else made

    return Row(f"Bidirectional(GRU), merge_mode={mode!r}", "Recurrent", build, SEQUENCE, own=True)


WEIGHTED = [
    *_weighted("Dense", VECTOR, Dense=lambda: layers.Dense(4, activation="relu")),
    *_weighted("Dense", SEQUENCE, **{
        "Dense on sequences": lambda: layers.Dense(4),
        "EinsumDense": lambda: layers.EinsumDense("abc,cde->abde", (3, 2, 3), bias_axes="de"),
    }),
    Row("Embedding", "Dense", lambda x: layers.Dense(3)(layers.Flatten()(layers.Embedding(10, 4)(x))), (5,), True,
        dtype="int32"),
    *_weighted("Convolutions", (8, 4), **{
        "Conv1D": lambda: layers.Conv1D(6, 3, activation="relu"),
        "Conv1D, causal": lambda: layers.Conv1D(6, 3, padding="causal"),
        "Conv1D, dilated": lambda: layers.Conv1D(6, 3, dilation_rate=2),
        "Conv1DTranspose": lambda: layers.Conv1DTranspose(6, 3, strides=2),
        "DepthwiseConv1D": lambda: layers.DepthwiseConv1D(3),
        "SeparableConv1D": lambda: layers.SeparableConv1D(6, 3),
    }),
    *_weighted("Convolutions", IMAGE, **{
        "Conv2D": lambda: layers.Conv2D(6, 3, padding="same", activation="relu"),
        "Conv2D, strides 2": lambda: layers.Conv2D(6, 3, strides=2, padding="same"),
        "Conv2D, dilated": lambda: layers.Conv2D(6, 3, dilation_rate=2),
        "Conv2D, dilated, padding same": lambda: layers.Conv2D(6, 3, dilation_rate=2, padding="same"),
        "Conv2D, 2 groups": lambda: layers.Conv2D(6, 3, groups=2),
        "Conv2DTranspose": lambda: layers.Conv2DTranspose(6, 3, strides=2, padding="same"),
        "DepthwiseConv2D": lambda: layers.DepthwiseConv2D(3),
        "DepthwiseConv2D, depth_multiplier 2": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
        "DepthwiseConv2D, dilated": lambda: layers.DepthwiseConv2D(3, dilation_rate=2),
        "SeparableConv2D": lambda: layers.SeparableConv2D(6, 3, activation="relu"),
    }),
    *_weighted("Convolutions", (8, 8, 1), **{
        "DepthwiseConv2D, 1 channel": lambda: layers.DepthwiseConv2D(3),
        "DepthwiseConv2D, 1 channel, depth_multiplier 4": lambda: layers.DepthwiseConv2D(3, depth_multiplier=4),
    }),
    *_weighted("Convolutions", VOLUME,
        Conv3D=lambda: layers.Conv3D(3, 2), Conv3DTranspose=lambda: layers.Conv3DTranspose(3, 2)),
]  # fmt: skip

RECURRENT = [
    _recurrent("LSTM", lambda: layers.LSTM(3)),
    _recurrent("LSTM, return_sequences", lambda: layers.LSTM(3, return_sequences=True)),
    _recurrent("LSTM, go_backwards", lambda: layers.LSTM(3, go_backwards=True)),
    _recurrent("GRU", lambda: layers.GRU(3)),
    _recurrent("GRU, reset_after=False", lambda: layers.GRU(3, reset_after=False)),
    _recurrent("SimpleRNN", lambda: layers.SimpleRNN(3)),
    _recurrent("RNN(StackedRNNCells)", lambda: layers.RNN(layers.StackedRNNCells(
        [layers.LSTMCell(3), layers.GRUCell(3)]))),
    *[_bidirectional(mode) for mode in ("concat", "sum", "mul", "ave", None)],
    Row("LSTM, stateful", "Recurrent", lambda x: layers.LSTM(3, stateful=True)(x), SEQUENCE, True, batch=64),
    Row("Masking + LSTM", "Recurrent", _masked, SEQUENCE, own=True),
    Row("Embedding(mask_zero=True) + GRU", "Recurrent", _masked_tokens, (6,), own=True, dtype="int32"),
    Row("ConvLSTM1D", "Recurrent", lambda x: layers.ConvLSTM1D(2, 2)(x), (3, 6, 2), own=True),
    Row("ConvLSTM2D", "Recurrent", lambda x: layers.ConvLSTM2D(2, 2)(x), VOLUME, own=True),
    Row("TimeDistributed(Conv2D)", "Recurrent", lambda x: layers.TimeDistributed(layers.Conv2D(4, 3))(x),
        (2, 6, 6, 3), own=True),
    Row("TimeDistributed(Dense)", "Recurrent", lambda x: layers.TimeDistributed(layers.Dense(4))(x), SEQUENCE, True),
]  # fmt: skip

ATTENTION = [
    Row("MultiHeadAttention", "Attention", _attention(), SEQUENCE, own=True),
    Row("MultiHeadAttention, cross", "Attention", lambda x: layers.MultiHeadAttention(2, 4)(x[0], x[1]), SEQUENCE,
        own=True, inputs=2),
    Row("MultiHeadAttention, causal", "Attention", _attention(use_causal_mask=True), SEQUENCE, own=True),
    Row("MultiHeadAttention over 2 axes", "Attention",
        lambda x: layers.MultiHeadAttention(2, 4, attention_axes=(1, 2))(x, x), (2, 3, 6), own=True),
    Row("GroupQueryAttention", "Attention", lambda x: layers.GroupQueryAttention(4, 4, 2)(x, x), SEQUENCE, own=True),
    Row("Attention", "Attention", lambda x: layers.Attention()([layers.Dense(4)(x), layers.Dense(4)(x)]), SEQUENCE),
    Row("AdditiveAttention", "Attention",
        lambda x: layers.AdditiveAttention()([layers.Dense(4)(x), layers.Dense(4)(x)]), SEQUENCE),
]  # fmt: skip

_NAMES = (
    "relu", "relu6", "leaky_relu", "elu", "selu", "silu", "hard_silu", "gelu", "sigmoid", "hard_sigmoid", "tanh",
    "softmax", "log_softmax", "softplus", "softsign", "mish", "exponential",
)  # fmt: skip
ACTIVATIONS = [
    *[
        Row(name, "Activations", lambda x, name=name: layers.Conv2D(4, 3, activation=name)(x))  # type: ignore[misc]
        for name in _NAMES
    ],
    *_rows("Activations", IMAGE,
        ("ReLU layer behind a max pooling", lambda: lambda x: layers.ReLU()(layers.MaxPooling2D()(x))),
        ("ReLU(6) behind a max pooling", lambda: lambda x: layers.ReLU(6.0)(layers.MaxPooling2D()(x))),
        ("LeakyReLU", layers.LeakyReLU), ("PReLU", lambda: layers.PReLU(alpha_initializer="uniform")),
        ("PReLU, shared over height and width",
            lambda: layers.PReLU(alpha_initializer="uniform", shared_axes=[1, 2])),
        ("ELU", layers.ELU), ("Softmax", layers.Softmax),
        ("ReLU, max_value 1", lambda: layers.ReLU(1.0)),
        ("gelu, approximate=False", lambda: lambda x: ops.gelu(x, approximate=False))),
]  # fmt: skip

NORMALIZATIONS = [
    Row("BatchNormalization behind Conv2D", "Normalizations",
        lambda x: layers.BatchNormalization()(layers.Conv2D(4, 3)(x)), own=False),
    Row("BatchNormalization behind an addition", "Normalizations",
        lambda x: layers.BatchNormalization()(x + layers.Conv2D(4, 3, padding="same")(x))),
    *_rows("Normalizations", SEQUENCE,
        ("LayerNormalization", layers.LayerNormalization), ("RMSNormalization", layers.RMSNormalization),
        ("UnitNormalization", layers.UnitNormalization)),
    *_rows("Normalizations", IMAGE,
        ("LayerNormalization of images", layers.LayerNormalization),
        ("GroupNormalization", lambda: layers.GroupNormalization(2)),
        ("GroupNormalization, 1 channel each", lambda: layers.GroupNormalization(-1))),
    Row("Rescaling", "Normalizations", lambda x: layers.Conv2D(4, 3)(layers.Rescaling(0.5, -0.1)(x))),
    Row("Normalization", "Normalizations", lambda x: layers.Conv2D(4, 3)(
        layers.Normalization(mean=[0.1, 0.2, 0.3, 0.4], variance=[1.0, 2.0, 0.5, 1.5])(x))),
]  # fmt: skip

POOLINGS = [
    *_rows("Poolings", SEQUENCE,
        ("MaxPooling1D", layers.MaxPooling1D), ("AveragePooling1D", lambda: layers.AveragePooling1D(2)),
        ("GlobalMaxPooling1D", layers.GlobalMaxPooling1D), ("GlobalAveragePooling1D", layers.GlobalAveragePooling1D),
        ("GlobalMaxPooling1D, keepdims", lambda: layers.GlobalMaxPooling1D(keepdims=True)),
        ("GlobalAveragePooling1D, keepdims", lambda: layers.GlobalAveragePooling1D(keepdims=True))),
    *_rows("Poolings", IMAGE,
        ("MaxPooling2D", layers.MaxPooling2D),
        ("MaxPooling2D, padding same", lambda: layers.MaxPooling2D(3, 2, padding="same")),
        ("AveragePooling2D", lambda: layers.AveragePooling2D(2)),
        ("AveragePooling2D, padding same", lambda: layers.AveragePooling2D(3, 2, padding="same")),
        ("GlobalMaxPooling2D", layers.GlobalMaxPooling2D), ("GlobalAveragePooling2D", layers.GlobalAveragePooling2D),
        ("GlobalMaxPooling2D, keepdims", lambda: layers.GlobalMaxPooling2D(keepdims=True)),
        ("GlobalAveragePooling2D, keepdims", lambda: layers.GlobalAveragePooling2D(keepdims=True))),
    *_rows("Poolings", VOLUME,
        ("MaxPooling3D", layers.MaxPooling3D), ("AveragePooling3D", lambda: layers.AveragePooling3D(2)),
        ("GlobalMaxPooling3D", layers.GlobalMaxPooling3D), ("GlobalAveragePooling3D", layers.GlobalAveragePooling3D)),
]  # fmt: skip

SHAPES = [
    *_rows("Shapes", SEQUENCE,
        ("ZeroPadding1D", layers.ZeroPadding1D), ("Cropping1D", layers.Cropping1D),
        ("UpSampling1D", layers.UpSampling1D)),
    *_rows("Shapes", IMAGE,
        ("ZeroPadding2D", layers.ZeroPadding2D), ("Cropping2D", layers.Cropping2D),
        ("UpSampling2D, nearest", layers.UpSampling2D),
        ("UpSampling2D, bilinear", lambda: layers.UpSampling2D(interpolation="bilinear")),
        ("Resizing, nearest", lambda: layers.Resizing(9, 9, interpolation="nearest")),
        ("Resizing, bilinear", lambda: layers.Resizing(9, 9)),
        ("Reshape", lambda: layers.Reshape((12, 12))), ("Permute", lambda: layers.Permute((3, 1, 2))),
        ("Flatten", layers.Flatten)),
    *_rows("Shapes", VOLUME, ("ZeroPadding3D", layers.ZeroPadding3D), ("Cropping3D", layers.Cropping3D)),
    *_rows("Shapes", VECTOR, ("RepeatVector", lambda: layers.RepeatVector(3))),
]  # fmt: skip

MERGES = [
    *[
        Row(name, "Merges", _pair(make))
        for name, make in (
            ("Concatenate", layers.Concatenate), ("Add", layers.Add), ("Multiply", layers.Multiply),
            ("Subtract", layers.Subtract), ("Maximum", layers.Maximum), ("Minimum", layers.Minimum),
            ("Average", layers.Average),
        )
    ],
    Row("Add of three", "Merges", lambda x: layers.Add()([layers.Conv2D(4, 3)(x) for _ in range(3)])),
    Row("Dot", "Merges", lambda x: layers.Dot(axes=2)([layers.Dense(4)(x), layers.Dense(4)(x)]), SEQUENCE),
    Row("Dot of vectors", "Merges", lambda x: layers.Dot(axes=1)([layers.Dense(4)(x), layers.Dense(4)(x)]), VECTOR),
]  # fmt: skip

_ARITHMETIC: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("x * 0.5 + 1", lambda x: x * 0.5 + 1.0),
    ("x / 2", lambda x: x / 2.0),
    ("x ** 2", lambda x: x**2),
    ("1 - x", lambda x: 1.0 - x),
    ("x / y", lambda x: x / (ops.relu(x) + 1.0)),
    ("ops.sqrt(ops.relu(x))", lambda x: ops.sqrt(ops.relu(x))),
    ("ops.exp", ops.exp),
    ("ops.abs", ops.abs),
    ("ops.clip(x, -1, 1)", lambda x: ops.clip(x, -1.0, 1.0)),
    ("ops.mean over features", lambda x: ops.mean(x, axis=-1, keepdims=True)),
    ("ops.sum over features", lambda x: ops.sum(x, axis=-1, keepdims=True)),
    ("ops.max over features", lambda x: ops.max(x, axis=-1, keepdims=True)),
    ("ops.where(x > 0, x, 0.1 x)", lambda x: ops.where(x > 0, x, 0.1 * x)),
    ("ops.sin", ops.sin),
    ("Lambda with keras.ops", lambda x: layers.Lambda(lambda t: ops.tanh(t) * 2.0)(x)),
]
BLOCKS = [
    Row("squeeze and excitation", "Blocks", _squeeze_and_excite, own=True),
    Row("inverted residual", "Blocks", _inverted_residual, own=True),
    Row("user's layer with weights", "Blocks", lambda x: Gated()(x), SEQUENCE, own=True),
    Row("user's layer of Keras layers", "Blocks", lambda x: Block()(x), own=True),
    *[Row(name, "Operations", _behind(lambda f=f: f), SEQUENCE) for name, f in _ARITHMETIC],  # type: ignore[misc]
]

ROWS: tuple[Row, ...] = (
    *WEIGHTED, *RECURRENT, *ATTENTION, *ACTIVATIONS, *NORMALIZATIONS, *POOLINGS, *SHAPES, *MERGES, *BLOCKS,
)  # fmt: skip
