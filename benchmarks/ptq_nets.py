"""Five small nets for Fashion-MNIST in the style of what is quantized in practice; trained a little, and kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from common import fashion_mnist
from keras import layers

# The last images of the training set are for choices, so they are not trained on.
TRAINED, VALIDATED, EPOCHS, BATCH, SETTLED = 12_000, 4_000, 3, 64, 40
KEEP = "/tmp/keras_compress_ptq"
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def resnet() -> keras.Model:
    """Three residual blocks."""
    x = image = keras.Input((28, 28, 1), name="image")
    x = _normed(layers.Conv2D(12, 3, strides=2, padding="same", use_bias=False)(x))
    for filters in (12, 24, 48):
        side = layers.Conv2D(filters, 1, strides=2, padding="same", use_bias=False)(x)
        x = _normed(layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x))
        x = _normed(layers.Conv2D(filters, 3, padding="same", use_bias=False)(x), relu=False)
        x = layers.ReLU()(layers.Add()([x, _normed(side, relu=False)]))
    return _headed(image, x, "resnet")


def mobilenet() -> keras.Model:
    """Inverted residual blocks: expanded, depthwise, projected."""
    x = image = keras.Input((28, 28, 1), name="image")
    x = _normed(layers.Conv2D(12, 3, strides=2, padding="same", use_bias=False)(x), ceiling=6.0)
    for filters, strides in ((16, 1), (24, 2), (24, 1), (40, 2), (40, 1)):
        before = x
        x = _normed(layers.Conv2D(4 * x.shape[-1], 1, use_bias=False)(x), ceiling=6.0)
        x = _normed(layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(x), ceiling=6.0)
        x = _normed(layers.Conv2D(filters, 1, use_bias=False)(x), relu=False)
        x = layers.Add()([x, before]) if x.shape == before.shape else x
    return _headed(image, x, "mobilenet")


def mobilenet_v1() -> keras.Model:
    """Depthwise and pointwise convolutions in turn, no sums."""
    x = image = keras.Input((28, 28, 1), name="image")
    x = _normed(layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(x))
    for filters, strides in ((24, 1), (32, 2), (32, 1), (64, 2), (64, 1), (64, 1), (64, 1), (128, 1)):
        x = _normed(layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(x))
        x = _normed(layers.Conv2D(filters, 1, use_bias=False)(x))
    return _headed(image, x, "mobilenet_v1")


def densenet() -> keras.Model:
    """Three dense blocks of normalization, ReLU and convolution, each layer reading all before it."""
    x = image = keras.Input((28, 28, 1), name="image")
    x = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(x)
    for block in range(3):
        for _ in range(3):
            made = layers.Conv2D(24, 1, use_bias=False)(_normed(x))
            made = layers.Conv2D(12, 3, padding="same", use_bias=False)(_normed(made))
            x = layers.Concatenate()([x, made])
        if block < 2:
            x = layers.Conv2D(x.shape[-1] // 2, 1, use_bias=False)(_normed(x))
            x = layers.AveragePooling2D(2)(x)
    return _headed(image, _normed(x), "densenet")


def xception() -> keras.Model:
    """Separable convolutions and pooled residual sums."""
    x = image = keras.Input((28, 28, 1), name="image")
    x = _normed(layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(x))
    for filters in (32, 48, 64):
        side = _normed(layers.Conv2D(filters, 1, strides=2, padding="same", use_bias=False)(x), relu=False)
        x = _normed(layers.SeparableConv2D(filters, 3, padding="same", use_bias=False)(x))
        x = _normed(layers.SeparableConv2D(filters, 3, padding="same", use_bias=False)(x), relu=False)
        x = layers.Add()([layers.MaxPooling2D(3, strides=2, padding="same")(x), side])
    return _headed(image, x, "xception")


def vit() -> keras.Model:
    """Patches of 4x4 that know their places by a convolution (CPVT), three blocks of attention and a gelu."""
    image = keras.Input((28, 28, 1), name="image")
    x = layers.Conv2D(48, 4, strides=4)(image)
    x = layers.Add()([x, layers.DepthwiseConv2D(3, padding="same")(x)])
    x = layers.Reshape((49, 48))(x)
    for _ in range(3):
        read = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(3, 16)(read, read)])
        made = layers.Dense(96, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(48)(made)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(image, layers.Dense(10, name="logits")(x), name="vit")


def _normed(x: Any, relu: bool = True, ceiling: float | None = None) -> Any:
    x = layers.BatchNormalization()(x)
    return layers.ReLU(ceiling)(x) if relu else x


def _headed(image: Any, x: Any, name: str) -> keras.Model:
    return keras.Model(image, layers.Dense(10, name="logits")(layers.GlobalAveragePooling2D()(x)), name=name)


NETS: dict[str, Callable[[], keras.Model]] = {
    "resnet": resnet,
    "mobilenet": mobilenet,
    "densenet": densenet,
    "xception": xception,
    "vit": vit,
}
# Taken by name alone: what few bits cost most.
OTHERS: dict[str, Callable[[], keras.Model]] = {"mobilenet_v1": mobilenet_v1}


def trained(name: str, seed: int, data: Any, keep: str = KEEP) -> keras.Model:
    """A net after a little training; kept in a folder, as several benchmarks take it."""
    x, y = data.x_train[:TRAINED], data.y_train[:TRAINED]
    path = Path(keep) / f"{name}_{seed}_{len(x)}.keras"
    if not path.is_file():
        keras.utils.set_random_seed(seed)
        model = {**NETS, **OTHERS}[name]()
        rate = keras.optimizers.schedules.CosineDecay(3e-3, EPOCHS * -(-len(x) // BATCH))
        model.compile(keras.optimizers.Adam(rate), LOSS, jit_compile=False)
        model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0)
        settle(model, x)
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
    return keras.models.load_model(path)


def settle(model: keras.Model, x: Any) -> None:
    """Statistics of BatchNormalizations as the weights have them now: so few steps leave them behind."""
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9
    for start in range(0, SETTLED * BATCH, BATCH):
        model(x[start : start + BATCH], training=True)


if __name__ == "__main__":
    images = fashion_mnist(False)
    for number in range(3):
        for each in (*NETS, *OTHERS):
            net = trained(each, number, images)
            found = net.predict(images.x_test, verbose=0, batch_size=500).argmax(-1)
            print(each, number, net.count_params(), float((found == images.y_test).mean()), flush=True)
