"""Float32 and float16 files of our own table: beside Keras, and beside TensorFlow's converter."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_compress as kc
from keras_compress.convert.float_flatbuffer import ConversionError, float_flatbuffer
from keras_compress.runtime import deployed
from keras_compress.runtime.target import target
from keras_compress.tflite.inspection import inspect_tflite

IMAGE, SEQUENCE, FLAT = (8, 8, 4), (10, 4), (6,)


def behind(shape, *inner):
    return keras.Sequential([keras.Input(shape), *inner])


def residual():
    x = keras.Input(IMAGE)
    y = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", use_bias=False)(x))
    y = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(layers.ReLU()(y)))
    y = layers.Add()([x, layers.ReLU(max_value=6)(y), y])
    return keras.Model(x, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(y)))


def shared():
    x = keras.Input(FLAT)
    dense, norm = layers.Dense(6, activation="relu"), layers.BatchNormalization()
    y = norm(dense(norm(dense(x))))
    return keras.Model(x, [layers.Dense(2)(y), y])


def preactivation():
    x = keras.Input(IMAGE)
    y = layers.Conv2D(5, 3)(layers.ReLU()(layers.BatchNormalization()(x)))
    y = layers.Conv2D(5, 3)(layers.BatchNormalization()(layers.MaxPooling2D(2)(y)))
    return keras.Model(x, layers.Dense(3)(layers.BatchNormalization()(layers.Flatten()(y))))


def before_padding():
    """An offset is not to be folded into a convolution that pads with zeros; a factor may be."""
    x = keras.Input(IMAGE)
    return keras.Model(x, layers.Conv2D(3, 3, padding="same")(layers.BatchNormalization()(x)))


def read_twice():
    """What something else reads must stay as it is."""
    x = keras.Input(IMAGE)
    y = layers.Conv2D(4, 3, padding="same")(x)
    return keras.Model(x, [layers.BatchNormalization()(y), layers.Add()([x, y])])


def words():
    x = keras.Input((5,), dtype="int32")
    return keras.Model(x, layers.Dense(3)(layers.Flatten()(layers.Embedding(9, 4)(x))))


def two_inputs():
    a, b = keras.Input(FLAT, name="b"), keras.Input((4,), name="a")
    y = layers.Concatenate()([layers.Dense(4)(a), b / 2.0 - 0.25])
    return keras.Model({"b": a, "a": b}, {"second": layers.Dense(2, name="p")(y), "first": layers.Dense(3)(y)})


NETS = {
    "residual": residual,
    "shared": shared,
    "preactivation": preactivation,
    "before padding": before_padding,
    "read twice": read_twice,
    "words": words,
    "two inputs": two_inputs,
    "sequence": lambda: behind(SEQUENCE, layers.Conv1D(6, 3, padding="causal"), layers.BatchNormalization(),
                               layers.ReLU(), layers.MaxPooling1D(2), layers.Flatten(), layers.Dense(3)),
    "transposed": lambda: behind(IMAGE, layers.Conv2DTranspose(3, 3, strides=2), layers.BatchNormalization()),
    "groups": lambda: behind(IMAGE, layers.BatchNormalization(), layers.Conv2D(6, 3, groups=2)),
    "rescaled": lambda: behind(IMAGE, layers.Rescaling(1 / 3, -0.5), layers.Conv2D(3, 3)),
    "slopes": lambda: behind(IMAGE, layers.Conv2D(4, 3), layers.LeakyReLU(0.3), layers.PReLU(), layers.ELU()),
    "ReLU, bounded": lambda: behind(IMAGE, layers.Conv2D(3, 3), layers.ReLU(max_value=1.0)),
    "ReLU, sloped": lambda: behind(IMAGE, layers.Conv2D(3, 3), layers.ReLU(negative_slope=0.1)),
    **{
        name: lambda name=name: behind(FLAT, layers.Dense(5, activation=name))
        for name in ("relu6", "sigmoid", "tanh", "softmax", "log_softmax", "silu", "elu", "leaky_relu", "exponential",
                     "hard_silu")
    },
}  # fmt: skip


def varied(model):
    """Weights as after training: means, variances, factors and biases that are not 0 or 1."""
    generator = np.random.default_rng(3)
    for weight in model.weights:
        low = 0.5 if "variance" in weight.name or "gamma" in weight.name else -0.7
        weight.assign(generator.uniform(low, 1.2, weight.shape))
    return model


def data_of(model, count=8):
    generator = np.random.default_rng(0)
    made = {
        t.name: generator.integers(0, 9, (count, *t.shape[1:])).astype(np.int32)
        if t.dtype == "int32"
        else generator.normal(size=(count, *t.shape[1:])).astype(np.float32)
        for t in model.inputs
    }
    return made if len(made) > 1 else next(iter(made.values()))


# Weights in float16 are stored and read in one way whatever computes with them.
HALF = ("residual", "shared", "words", "two inputs", "sequence", "transposed", "slopes")


@pytest.mark.parametrize(("net", "mode"), [*((net, "float32") for net in NETS), *((net, "float16") for net in HALF)])
def test_outputs_are_keras_s_and_the_file_no_larger_than_tensorflow_s(net, mode):
    keras.utils.set_random_seed(1)
    model = varied(NETS[net]())
    x = data_of(model)
    artifact = kc.convert(model, mode=mode, batch_size=1)
    assert artifact.notes == ()
    wanted = [np.asarray(t) for t in keras.tree.flatten(model(x, training=False))]
    runtimes = [target("litert"), target("litert", kernels="builtin")]
    runtimes += [target("tflm")] if mode == "float32" else []
    for runtime in runtimes:
        if runtime.available() is not None:
            continue
        for got, value in zip(deployed.run(runtime, artifact.content, x), wanted, strict=True):
            error = np.abs(got - value).max() / np.abs(value).max()
            assert error < (2e-6 if mode == "float32" else 4e-3)
    if mode == "float32":
        ours, theirs = inspect_tflite(artifact.content), inspect_tflite(float_flatbuffer(model))
        assert sum(ours.operators.values()) <= sum(theirs.operators.values())
        # Each is padded to 16 bytes, and RESHAPE says its shape twice.
        assert ours.raw_bytes <= theirs.raw_bytes + 32 * (1 + ours.operators.get("RESHAPE", 0))


class Doubled(layers.Layer):
    def call(self, x):
        return ops.cumsum(x, axis=-1)


UNKNOWN = {
    "LSTM at 'lstm'": lambda: behind(SEQUENCE, layers.LSTM(3, name="lstm")),
    "LayerNormalization at 'norm'": lambda: behind(FLAT, layers.LayerNormalization(name="norm"), layers.Dense(2)),
    "Doubled at 'own'": lambda: behind(FLAT, Doubled(name="own"), layers.Dense(2)),
    "BatchNormalization at 'first'": lambda: behind(IMAGE, layers.BatchNormalization(axis=1, name="first")),
    "ReLU at 'r'": lambda: behind(FLAT, layers.Dense(2), layers.ReLU(threshold=0.5, name="r")),
    "Embedding at 'e'": lambda: behind(
        (5,), layers.Embedding(9, 4, mask_zero=True, name="e"), layers.GlobalAveragePooling1D()
    ),
}


@pytest.mark.parametrize("said", UNKNOWN)
def test_tensorflow_s_converter_makes_the_others_and_a_note_tells(said):
    keras.utils.set_random_seed(1)
    model = varied(UNKNOWN[said]())
    artifact = kc.convert(model, mode="float32")
    assert any("TensorFlow's converter made the file" in note and said in note for note in artifact.notes)
    x = np.random.default_rng(0).integers(0, 3, (4, *model.inputs[0].shape[1:])).astype(np.float32)
    (got,) = deployed.run(target("litert"), artifact.content, x)
    np.testing.assert_allclose(got, np.asarray(model(x)), atol=1e-5)


def test_without_a_kernel_on_tflm():
    model = behind(FLAT, layers.Dense(5, activation="gelu", name="g"))
    assert kc.convert(model, mode="float32").notes == ()
    # TensorFlow's converter, which is tried, writes the same operator.
    with pytest.raises(ValueError, match=r"Expected operators that TFLite-Micro has. Received: GELU at 'g/gelu'"):
        kc.convert(model, "tflm", mode="float32")


def test_names_and_order_of_the_signature():
    model = two_inputs()
    artifact = kc.convert(model, mode="float32")
    signature = target("litert").describe(artifact.content)
    assert [spec.signature_name for spec in signature.inputs] == ["a", "b"]
    assert [spec.signature_name for spec in signature.outputs] == ["first", "second"]


def test_another_precision_is_left_to_tensorflow():
    x = keras.Input(FLAT)
    model = keras.Model(x, layers.Dense(2, dtype="mixed_float16", name="half")(x))
    with pytest.raises(ConversionError, match="layer 'half'"):
        kc.convert(model, mode="float32")


def test_same_bytes():
    model = varied(residual())
    first, second = (kc.convert(model, mode="float16").content for _ in range(2))
    assert first == second
