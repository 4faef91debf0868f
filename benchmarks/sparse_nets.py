"""Networks for sparse_speed.py, with random weights and zeros where they are wanted: time depends on no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from keras import layers

from keras_compress.tflite.flatbuffer import Graph, read_model, write_model

SIZE, FILTERS = 64, 64


def dense_net(width: int) -> keras.Model:
    """Two hidden layers and ten outputs."""
    x = inputs = keras.Input((width,))
    for number in range(2):
        x = layers.Dense(width, activation="relu", name=f"hidden{number}")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x))


def transformer_mlp(tokens: int, width: int = 512) -> keras.Model:
    """What two blocks of a transformer have beside attention: normalization, four times wider, and back."""
    x = inputs = keras.Input((tokens, width))
    for number in range(2):
        y = layers.LayerNormalization()(x)
        y = layers.Dense(4 * width, activation="relu", name=f"wide{number}")(y)
        x = layers.Add()([x, layers.Dense(width, name=f"narrow{number}")(y)])
    return keras.Model(inputs, x)


def with_zeros(model: keras.Model, share: float, block: int, skip: tuple[str, ...] = ("logits",)) -> keras.Model:
    """Sets blocks of consecutive inputs of dense layers and 1x1 convolutions to zero, in place."""
    random = np.random.default_rng(0)
    for layer in model.layers:
        pointwise = isinstance(layer, layers.Conv2D) and getattr(layer, "kernel_size", ()) == (1, 1)
        if layer.name in skip or not (isinstance(layer, layers.Dense) or pointwise):
            continue
        kernel, *others = layer.get_weights()
        scores = random.random((kernel.shape[-2] // block, kernel.shape[-1]))
        # No output without weights: convert would cut it out, and leave a number of inputs that 16 does not divide.
        blocks = (scores >= share) | (scores == scores.max(axis=0))
        layer.set_weights([kernel * np.repeat(blocks, block, axis=0), *others])
    return model


def mobilenet(size: int = 224, classes: int = 1000) -> keras.Model:
    """MobileNetV1 without normalization, as folding it leaves it; padded by 1 on each side."""
    x = inputs = keras.Input((size, size, 3))
    x = layers.Conv2D(32, 3, 2, activation="relu6")(layers.ZeroPadding2D(1)(x))
    for filters, stride in (
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *[(512, 1)] * 5,
        (1024, 2),
        (1024, 1),
    ):
        x = depthwise(x, stride)
        x = layers.Conv2D(filters, 1, activation="relu6")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(layers.GlobalAveragePooling2D()(x)))


def depthwise(x: Any, stride: int = 1, size: int = 3, padding: str = "valid", dilation: int = 1) -> Any:
    """A depthwise convolution, padded by a layer of its own where its padding is "valid"."""
    padded = layers.ZeroPadding2D(dilation * (size // 2))(x) if padding == "valid" else x
    conv = layers.DepthwiseConv2D(size, stride, padding=padding, dilation_rate=dilation, activation="relu")
    return conv(padded)


def pointwise(x: Any, filters: int, activation: str | None = "relu") -> Any:
    """A 1x1 convolution."""
    return layers.Conv2D(filters, 1, activation=activation)(x)


def _squeezed(x: Any) -> Any:
    squeezed = pointwise(layers.GlobalAveragePooling2D(keepdims=True)(x), FILTERS // 2)
    return layers.Multiply()([x, pointwise(squeezed, 2 * FILTERS, "sigmoid")])


# What stands in the middle of a small net, and whether the whole net is computed sparsely, densely or not right.
VARIANTS: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda x: x,
    "residual": lambda x: layers.Add()([x, pointwise(depthwise(x), 2 * FILTERS, None)]),
    "squeeze and excite": _squeezed,
    "hard_swish": lambda x: layers.Activation("hard_swish")(x),
    "5x5 depthwise": lambda x: pointwise(depthwise(x, 2, 5), 2 * FILTERS),
    "bilinear upsampling": lambda x: layers.UpSampling2D(interpolation="bilinear")(x),
    "depthwise, stride 2, same": lambda x: pointwise(depthwise(x, 2, padding="same"), 2 * FILTERS),
    "times a constant": lambda x: x * np.linspace(0.5, 2.0, 2 * FILTERS).astype(np.float32),
    "concatenation": lambda x: layers.Concatenate()([x, pointwise(depthwise(x), FILTERS)]),
    "maximum": lambda x: layers.Maximum()([x, pointwise(depthwise(x), 2 * FILTERS)]),
    "max pooling": lambda x: layers.MaxPooling2D()(x),
    "PReLU": lambda x: layers.PReLU(shared_axes=[1, 2])(x),
    "dilated depthwise": lambda x: pointwise(depthwise(x, dilation=2), 2 * FILTERS),
    "3x3 convolution": lambda x: layers.Conv2D(2 * FILTERS, 3, padding="same")(x),
    "mean over rows": lambda x: x * keras.ops.sigmoid(keras.ops.mean(x, axis=1, keepdims=True)),
}


def variant(name: str) -> keras.Model:
    """A small MobileNet with something in its middle, or with another end."""
    inputs = keras.Input((SIZE, SIZE, 3))
    first = "same" if name == "first convolution: same" else "valid"
    x = layers.Conv2D(FILTERS, 3, 2, padding=first, activation="relu")(
        layers.ZeroPadding2D(1)(inputs) if first == "valid" else inputs
    )
    x = pointwise(depthwise(x), 2 * FILTERS)
    x = middle = VARIANTS.get(name, VARIANTS["nothing"])(x)
    x = pointwise(depthwise(x, 2), 4 * FILTERS)
    y = layers.Dense(10, name="logits")(layers.GlobalAveragePooling2D()(x))
    if name == "an output in the middle":
        y = [y, middle]
    if name == "mean with its axes, activated, as output":
        y = layers.Activation("tanh")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    if name == "no pooling at the end":
        y = layers.Dense(10, name="logits")(layers.Flatten()(x))
    return keras.Model(inputs, y)


ENDS = (
    "first convolution: same",
    "no pooling at the end",
    "an output in the middle",
    "mean with its axes, activated, as output",
)


def forced(content: bytes) -> bytes:
    """Sparse weights for all 1x1 convolutions of a file, whatever comes of it."""
    graph, first = Graph(read_model(content)), []
    for op in graph.operators:
        weight = op.inputs[1] if graph.kind(op) == "CONV_2D" else -1
        if weight < 0 or graph.shape(weight)[1:3] != (1, 1):
            continue
        dense = graph.add_tensor(f"{graph.name(weight)}/dense", graph.shape(weight), "float32")
        graph.store_sparse(weight, 1)
        first.append(graph.make_operator("DENSIFY", [weight], [dense], schema.DensifyOptionsT()))
        op.inputs[1] = dense
    graph.operators = [*first, *graph.operators]
    return write_model(graph.model)
