"""Small nets that hold, between them, every structure the converter has to get right."""

import keras
import numpy as np

L = keras.layers


def conv_bn_relu():
    inputs = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(inputs)
    x = L.BatchNormalization(name="norm")(x)
    x = L.ReLU(name="relu")(x)
    x = L.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = L.BatchNormalization(name="norm2")(x)
    x = L.ReLU(max_value=6.0, name="relu6")(x)
    x = L.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(inputs, L.Dense(4, name="logits")(x), name="conv_bn_relu")


def residual_pooling():
    inputs = keras.Input((8, 8, 8), name="image")
    x = L.Conv2D(8, 3, padding="same", name="conv")(inputs)
    x = L.ReLU(name="relu")(L.Add(name="add")([x, inputs]))
    x = L.MaxPooling2D(2, name="max")(x)
    x = L.AveragePooling2D(2, name="average")(x)
    return keras.Model(inputs, L.Dense(5, activation="softmax", name="probabilities")(L.Flatten(name="flat")(x)))


def concatenation():
    inputs = keras.Input((8, 8, 4), name="image")
    a = L.MaxPooling2D(2, name="pool")(L.Conv2D(8, 3, padding="same", activation="relu", name="left")(inputs))
    b = L.Conv2D(8, 1, strides=2, name="right")(inputs)
    x = L.Concatenate(name="joined")([a, b])
    return keras.Model(inputs, L.Conv2D(6, 3, name="head")(x))


def shared_dense():
    inputs = keras.Input((24,), name="features")
    dense = L.Dense(24, activation="relu", name="shared")
    return keras.Model(inputs, L.Dense(6, name="logits")(dense(dense(inputs))))


def nested_twice():
    block = keras.Sequential(
        [keras.Input((8, 8, 8)), L.Conv2D(8, 3, padding="same", name="conv"), L.BatchNormalization(), L.ReLU()],
        name="block",
    )
    inputs = keras.Input((8, 8, 8), name="image")
    x = L.Add(name="add")([block(block(inputs)), inputs])
    return keras.Model(inputs, L.Dense(4, name="logits")(L.GlobalAveragePooling2D(name="gap")(x)))


def three_outputs():
    inputs = keras.Input((16,), name="features")
    x = L.Dense(32, activation="relu", name="body")(inputs)
    return keras.Model(inputs, [L.Dense(4, name=name)(x) for name in ("zeta", "alpha", "mid")])


def preactivation():
    inputs = keras.Input((8, 8, 8), name="image")
    x = L.ReLU()(L.BatchNormalization(name="first_norm")(inputs))
    x = L.MaxPooling2D(2)(L.Conv2D(8, 3, padding="same", name="conv")(x))
    x = L.ReLU()(L.BatchNormalization(name="after_pool")(x))
    x = L.Dense(16, activation="relu", name="dense")(L.Flatten()(x))
    return keras.Model(inputs, L.Dense(4, name="logits")(L.BatchNormalization(name="flat_norm")(x)))


def splat_bias():
    inputs = keras.Input((8, 8, 4), name="image")
    bias = keras.initializers.Constant(0.25)
    x = L.Conv2D(8, 3, activation="relu", bias_initializer=bias, name="conv")(inputs)
    return keras.Model(inputs, L.Dense(4, bias_initializer=bias, name="logits")(L.Flatten()(x)))


NETS = {
    net.__name__: net
    for net in (
        conv_bn_relu,
        residual_pooling,
        concatenation,
        shared_dense,
        nested_twice,
        three_outputs,
        preactivation,
        splat_bias,
    )
}


def build(name, seed=0):
    """A net with weights and statistics as after training: negative gammas, means and variances of their own."""
    keras.utils.set_random_seed(seed)
    model = NETS[name]()
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        kind = variable.path.split("/")[-1]
        if kind in ("moving_mean", "beta"):
            variable.assign(generator.normal(0, 0.3, variable.shape))
        elif kind == "moving_variance":
            variable.assign(generator.uniform(0.3, 2.0, variable.shape))
        elif kind == "gamma":
            variable.assign(generator.normal(0.3, 1.0, variable.shape))
        elif kind == "bias" and name != "splat_bias":
            variable.assign(generator.normal(0, 0.3, variable.shape))
    return model


def data(model, samples=64, seed=1):
    return np.random.default_rng(seed).normal(0, 1, (samples, *model.inputs[0].shape[1:])).astype(np.float32)
