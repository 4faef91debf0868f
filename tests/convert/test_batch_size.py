"""Files for any number of samples, or for a given one, beside the file for one sample and Keras."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from keras import layers, ops

import keras_compress as kc

KERNELS = {"xnnpack": OpResolverType.BUILTIN, "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
SAMPLES = 24
MODES = ("float32", "float16", "dynamic", "int8", "16x8")


def images():
    x = keras.Input((8, 8, 2))
    y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(x)))
    y = layers.Add()([y, layers.DepthwiseConv2D(3, padding="same")(y)])
    y = layers.ZeroPadding2D(1)(layers.MaxPooling2D(2)(y))[:, ::2, 1:]
    return keras.Model(x, layers.Dense(3, activation="softmax")(layers.Flatten()(y)))


def averages():
    x = keras.Input((6, 6, 4))
    y = layers.SeparableConv2D(5, 3)(x)
    scale = layers.Dense(5, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(y))
    return keras.Model(x, layers.Permute((3, 1, 2))(layers.UpSampling2D()(layers.Multiply()([y, scale]))))


def attention():
    x = keras.Input((6, 8))
    y = layers.LayerNormalization()(layers.Add()([layers.MultiHeadAttention(2, 4)(x, x), x]))
    return keras.Model(x, layers.Dense(3)(layers.GlobalAveragePooling1D()(layers.Dense(8, activation="gelu")(y))))


def steps():
    x = keras.Input((12, 4))
    y = layers.MaxPooling1D(2)(layers.Conv1D(6, 3, padding="causal", activation="relu")(x))
    return keras.Model(x, layers.Dense(3)(layers.Reshape((9, 4))(layers.Conv1D(6, 1)(y))))


def words_and_numbers():
    words, numbers = keras.Input((5,), dtype="int32"), keras.Input((4,))
    y = layers.Flatten()(layers.Embedding(11, 4)(words))
    y = layers.Concatenate()([y, layers.Dense(4, activation="tanh")(numbers)])
    return keras.Model([words, numbers], [layers.Dense(2)(y), layers.Dense(3)(y)])


def rolled():
    """TensorFlow's converter makes SLICE of it."""
    inputs = keras.Input((4, 3), name="x")
    return keras.Model(inputs, layers.Dense(2)(keras.ops.roll(inputs, 1, axis=1)))


NETS = {net.__name__: net for net in (images, averages, attention, steps, words_and_numbers, rolled)}


def data_of(model, count=SAMPLES):
    generator = np.random.default_rng(0)
    return [
        generator.integers(0, 11, (count, *tensor.shape[1:])).astype(np.int32)
        if tensor.dtype == "int32"
        else generator.normal(size=(count, *tensor.shape[1:])).astype(np.float32)
        for tensor in model.inputs
    ]


def resized(content, x, batch, kernels):
    """Outputs on all of `x`, `batch` samples at a time; None leaves the file as it is."""
    runtime = Interpreter(model_content=content, experimental_op_resolver_type=KERNELS[kernels])
    inputs = runtime.get_input_details()
    for details, array in zip(inputs, x, strict=True):
        if batch is not None:
            runtime.resize_tensor_input(details["index"], [batch, *array.shape[1:]], strict=True)
    runtime.allocate_tensors()
    size, found = batch or 1, []
    for start in range(0, SAMPLES, size):
        for details, array in zip(inputs, x, strict=True):
            runtime.set_tensor(details["index"], array[start : start + size])
        runtime.invoke()
        found.append([runtime.get_tensor(details["index"]).copy() for details in runtime.get_output_details()])
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


# Each net as floats and as integers, and each mode with one net.
@pytest.mark.parametrize(
    ("net", "mode"),
    [(net, mode) for net in NETS for mode in MODES if mode in ("float32", "int8") or net == "attention"],
)
def test_each_row_is_what_the_file_gives_for_that_sample(net, mode):
    keras.utils.set_random_seed(1)
    model = NETS[net]()
    x = data_of(model)
    calibrated = {"representative_dataset": x} if mode in ("int8", "16x8") else {}
    artifact = kc.convert(model, mode=mode, batch_size=None, **calibrated)
    for kernels in KERNELS:
        alone = resized(artifact.content, x, None, kernels)
        for batch in (1, 3, 8):
            for got, wanted in zip(resized(artifact.content, x, batch, kernels), alone, strict=True):
                np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-7 * max(1.0, np.abs(wanted).max()))
    if mode == "float32":
        outputs = keras.tree.flatten(model.predict(x if len(x) > 1 else x[0], verbose=0))
        for got, wanted in zip(alone, outputs, strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_without_dead_units_too():
    """Files that become smaller are written anew, with slices of the channels that are left."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6, 6, 8)), layers.Conv2D(8, 3, activation="relu"), layers.Flatten(),
                              layers.Dense(6, activation="relu"), layers.Dense(3)])  # fmt: skip
    kernel, bias = model.layers[0].get_weights()
    kernel[..., :3], bias[:3] = 0.0, 0.0
    model.layers[0].set_weights([kernel, bias])
    x = data_of(model)
    artifact = kc.convert(model, representative_dataset=x, batch_size=None)
    assert artifact.lowered is not None
    assert len(artifact.content) < len(artifact.lowered)
    for content in (artifact.content, artifact.lowered):
        (alone,) = resized(content, x, None, "xnnpack")
        np.testing.assert_allclose(resized(content, x, 8, "xnnpack")[0], alone, atol=1e-6)
    assert kc.verify(artifact, model, x[0]).ok


def test_integers_are_equal():
    keras.utils.set_random_seed(1)
    model = images()
    x = data_of(model)
    content = kc.convert(model, representative_dataset=x, io="int8", batch_size=None).content
    integers = [np.clip(np.rint(x[0] * 30), -128, 127).astype(np.int8)]
    for kernels in KERNELS:
        (alone,) = resized(content, integers, None, kernels)
        for batch in (3, 8):
            assert np.array_equal(resized(content, integers, batch, kernels)[0], alone)


def shapes_of(content):
    details = Interpreter(model_content=content).get_input_details()[0]
    return list(details["shape"][:1]), list(details["shape_signature"][:1])


@pytest.mark.parametrize(
    ("own", "target", "batch_size", "shape", "signature"),
    [
        (None, "litert", "auto", 1, -1),
        (None, "litert", None, 1, -1),
        (None, "litert", 1, 1, 1),
        (None, "litert", 8, 8, 8),
        (4, "litert", "auto", 4, 4),
        (4, "litert", None, 1, -1),
        (None, "tflm", "auto", 1, 1),
        (None, "tflm", 8, 8, 8),
        (4, "tflm", 1, 1, 1),
    ],
)
def test_the_files_own_number(own, target, batch_size, shape, signature):
    model = keras.Sequential([keras.Input((6, 6, 2), batch_size=own), layers.Conv2D(3, 3), layers.Flatten(),
                              layers.Dense(2)])  # fmt: skip
    x = np.random.default_rng(0).normal(size=(50, 6, 6, 2)).astype(np.float32)
    for mode in ("int8", "float32"):
        artifact = kc.convert(model, target, mode=mode, representative_dataset=x[:32], batch_size=batch_size)
        assert artifact.notes == ()
        assert shapes_of(artifact.content) == ([shape], [signature])
        if mode == "float32":
            accuracy = kc.measure(artifact, x, model.predict(x[:48], batch_size=4, verbose=0).argmax(-1).tolist()
                                  + [0, 0], target=target).accuracy  # fmt: skip
            assert accuracy >= 48 / 50
        else:
            kernels = ("tflm",) if target == "tflm" else None
            for file in (artifact, artifact.content):
                assert kc.verify(file, model, x, kernels=kernels).ok


class Token(keras.layers.Layer):
    """A constant in front of each sample's steps."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]))

    def call(self, x):
        return ops.concatenate([ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1])), x], axis=1)


def of(*inner, shape=(4, 4, 3)):
    return keras.Sequential([keras.Input(shape), *inner])


FIXED = {
    "TRANSPOSE_CONV at 'up_quantized'": lambda: of(layers.Conv2DTranspose(3, 3, strides=2, name="up")),
    "UNIDIRECTIONAL_SEQUENCE_LSTM at 'lstm": lambda: of(layers.LSTM(5, name="lstm"), shape=(70, 4)),
    "CONCATENATION at 'token": lambda: of(Token(name="token"), layers.Dense(3), shape=(6, 4)),
}


@pytest.mark.parametrize("said", FIXED)
def test_what_fixes_the_number_is_named(said):
    keras.utils.set_random_seed(1)
    model = FIXED[said]()
    x = data_of(model)
    with pytest.raises(ValueError, match="Expected operators that take any number of samples") as error:
        kc.convert(model, representative_dataset=x, batch_size=None)
    assert said in str(error.value)
    notes = kc.convert(model, representative_dataset=x).notes
    assert any(said in note and "one sample at a time" in note for note in notes)
    four = kc.convert(model, representative_dataset=x, batch_size=4)
    assert shapes_of(four.content) == ([4], [4])
    assert kc.verify(four, model, x[0]).ok


def test_an_unrolled_lstm_takes_any_number():
    keras.utils.set_random_seed(1)
    model = of(layers.LSTM(5), shape=(4, 3))
    x = data_of(model)
    content = kc.convert(model, representative_dataset=x, recurrent="unrolled", batch_size=None).content
    np.testing.assert_allclose(resized(content, x, 8, "xnnpack")[0], resized(content, x, None, "xnnpack")[0], atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 0}, "number from 1 on, None for any, or 'auto'"),
        ({"batch_size": True}, "number from 1 on"),
        ({"batch_size": "any"}, "number from 1 on"),
        ({"batch_size": None, "target": "tflm"}, "such as batch_size=1"),
        ({"batch_size": None, "target": "ethos_u"}, "such as batch_size=1"),
    ],
)
def test_refusals(given, message):
    model = of(layers.Flatten(), layers.Dense(2))
    with pytest.raises(ValueError, match=message):
        kc.convert(model, mode="int8", representative_dataset=data_of(model), **given)


def test_a_frozen_model_keeps_its_own():
    model = of(layers.Flatten(), layers.Dense(2))
    frozen = kc.freeze(model, data_of(model))
    assert shapes_of(kc.convert(frozen, batch_size=None).content) == ([1], [-1])
    with pytest.raises(ValueError, match="the model that it was made from"):
        kc.convert(frozen, batch_size=8)


def test_samples_that_are_mixed():
    x = keras.Input((6, 4), batch_size=2)
    mixed = keras.Model(x, layers.Dense(3)(ops.flip(layers.Dense(4)(x), axis=0)))
    with pytest.raises(ValueError, match="REVERSE_V2 at .*which fixes the number of samples"):
        kc.convert(mixed, mode="dynamic", batch_size=None)
