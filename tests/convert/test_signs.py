"""Sign activations: exactly +1 and -1 on the device, from the layer before them where it can give them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.convert import fold
from keras_compress.core.transform import IntegerWeight
from keras_compress.tflite.flatbuffer import Graph, read_model

SHAPE = (8, 8, 3)
DATA = np.random.default_rng(0).normal(size=(60, *SHAPE)).astype(np.float32)


def randomised(model: keras.Model) -> keras.Model:
    """Statistics and factors that are not those of a new BatchNormalization, negative factors among them."""
    rng = np.random.default_rng(4)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(rng.normal(size=layer.gamma.shape) + 0.1)
            layer.beta.assign(rng.normal(size=layer.beta.shape) * 0.3)
            layer.moving_mean.assign(rng.normal(size=layer.beta.shape) * 0.2)
            layer.moving_variance.assign(rng.uniform(0.3, 2.0, layer.beta.shape))
    return model


def conv_norm(x, filters: int, name: str, **kwargs):
    x = layers.Conv2D(filters, 3, padding="same", name=name, **kwargs)(x)
    return layers.BatchNormalization(name=f"{name}_norm")(x)


def replaced() -> keras.Model:
    """Signs in place of ReLUs: of 8-bit weights, of binary ones, of a sum, inside a layer."""
    x = inputs = keras.Input(SHAPE, name="image")
    x = first = layers.ReLU(name="relu1")(conv_norm(x, 8, "conv1"))
    x = layers.ReLU(name="relu2")(conv_norm(x, 8, "conv2"))
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv3")(x)
    x = layers.ReLU(name="relu4")(layers.Add(name="add")([x, layers.MaxPooling2D(name="pool1")(first)]))
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(10, activation="relu", name="dense1")(x)
    return randomised(keras.Model(inputs, layers.Dense(5, name="dense2")(x)))


def xnor_blocks() -> keras.Model:
    """BatchNormalization, sign, convolution, pooling: the order of XNOR-Net."""
    x = inputs = keras.Input(SHAPE, name="image")
    x = kc.QuantConv2D(8, 3, padding="same", name="conv0")(x)
    for block in (1, 2):
        x = layers.BatchNormalization(name=f"norm{block}")(x)
        signs = kc.QuantizeActivation(kc.SteSignActivation(), name=f"sign{block}")(x)
        y = kc.BinaryConv2D(8, 3, padding="same", use_bias=False, name=f"conv{block}")(signs)
        y = kc.XnorScale(3, padding="same", constant=True, name=f"scale{block}")([y, x])
        x = layers.MaxPooling2D(name=f"pool{block}")(y)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return randomised(keras.Model(inputs, layers.Dense(5, name="dense")(x)))


def larq_like() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            kc.QuantConv2D(8, 3, name="conv1"),
            layers.BatchNormalization(name="norm1"),
            kc.QuantConv2D(8, 3, input_quantizer="ste_sign", kernel_quantizer="ste_sign", name="conv2"),
            layers.BatchNormalization(name="norm2"),
            layers.Flatten(name="flat"),
            kc.QuantDense(6, input_quantizer="approx_sign", kernel_quantizer="ste_tern", name="dense"),
        ]
    )
    return randomised(model)


def converted(model: keras.Model, target: str = "litert") -> kc.Artifact:
    return kc.convert(model, target, representative_dataset=DATA)


def quantized(build) -> keras.Model:
    model = build()
    if build is replaced:
        rules = [{"layers": "first", "weights": "int8"}, {"layers": "last", "weights": "int8"}]
        model = kc.quantize_model(model, "bwn", "ste_sign", rules=rules)
    elif build is xnor_blocks:
        model = kc.quantize_model(model, rules=None)
    for _ in range(2):
        model(DATA, training=True)
    return randomised(model)


@pytest.mark.parametrize("target", ["litert", "tflm"])
@pytest.mark.parametrize("build", [replaced, xnor_blocks, larq_like])
def test_every_operator_is_exact_where_signs_are(build, target: str) -> None:
    artifact = converted(quantized(build), target)
    assert not artifact.float_ops
    result = kc.verify(artifact, None, DATA, strict=False)
    signs = signs_of(artifact.frozen)
    assert len(signs) >= 2
    for row in result.rows:
        assert row.ok, row
        if row.name in signs:
            assert row.fraction_differing == 0.0, row
    values = keras.Model(artifact.frozen.input, [artifact.frozen.get_layer(name).output for name in signs])
    for outputs in values(DATA):
        assert set(np.unique(np.array(outputs))) == {-1.0, 1.0}


def signs_of(frozen: keras.Model) -> list[str]:
    """Names of the points behind a clip to -1 and 1."""
    clips = {op.name.split(".clip")[0] for op in frozen.operations if type(op).__name__ == "Clip"}
    return sorted(clips)


def test_binary_weights_give_signs_without_another_operator() -> None:
    artifact = converted(quantized(replaced))
    graph = Graph(read_model(artifact.content))
    kinds = [graph.kind(op) for op in graph.operators]
    # Signs of 8-bit weights (conv1) and of the sum take one more.
    assert kinds.count("DEPTHWISE_CONV_2D") == 2
    assert kinds.count("CONV_2D") == 3
    assert "RELU_N1_TO_1" not in kinds  # fused


def test_signs_are_those_of_the_training_model() -> None:
    """But where a value is within rounding of 0."""
    model = quantized(replaced)
    frozen = kc.freeze(model)
    name = "relu2_quantized"
    trained = keras.Model(model.input, model.get_layer(name).output)(DATA)
    deployed = keras.Model(frozen.input, frozen.get_layer(name).output)(DATA)
    differing = np.mean(np.array(trained) != np.array(deployed))
    assert differing < 0.01
    assert 0.2 < np.mean(np.array(deployed) > 0) < 0.8


def test_the_threshold_is_exact_and_zero_counts_as_plus() -> None:
    weight = IntegerWeight(np.array([[1, -1], [1, 1]], np.int8), np.array([[0.5, 0.25]], np.float32), 2)
    bias = np.array([-1.0, 0.125])
    form, integers = fold.sign_form(weight, bias, 0.5, (-1,))
    # 0.5 * 0.5 * A - 1 >= 0 is A >= 4; 0.5 * 0.25 * A + 0.125 >= 0 is A >= -1.
    assert form.integers.tolist() == [[2, -2], [2, 2]]
    assert integers.integers.tolist() == [1 - 2 * 4, 1 + 2 * 1]
    assert float(form.scale.reshape(-1)[0]) * 0.5 == 4.0
    for sums, signs in (((4, -1), (1, 1)), ((3, -2), (-1, -1))):
        assert np.sign(2 * np.array(sums) + integers.integers).tolist() == list(signs)


def test_wide_weights_are_not_doubled() -> None:
    weight = IntegerWeight(np.array([[100], [-127]], np.int8), np.array([[0.01]], np.float32), 8)
    form, integers = fold.sign_form(weight, np.array([0.5]), 0.1, (-1,))
    assert form.integers.tolist() == weight.integers.tolist()
    assert integers.integers.tolist() == [500]
    np.testing.assert_allclose(form.scale.item() * 0.1, 1.0, rtol=1e-6)


def test_a_dead_channel_gives_its_offsets_sign() -> None:
    weight = IntegerWeight(np.zeros((3, 2), np.int8), np.full((1, 2), 1e-30, np.float32), 2)
    _, integers = fold.sign_form(weight, np.array([1.0, -1.0]), 1.0, (-1,))
    assert np.sign(integers.integers).tolist() == [1, -1]
    assert np.abs(integers.integers).max() <= 2**30


def test_16_bit_activations_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected mode='int8' for a model with sign activations"):
        kc.convert(quantized(replaced), mode="16x8")


def test_a_sign_of_what_has_no_integers_is_refused() -> None:
    x = keras.Input((8,))
    point = kc.QuantizeActivation(kc.MovingAverageRange(), name="point")(x)
    y = kc.QuantizeActivation(kc.SteSignActivation(), name="sign")(layers.Softmax(name="softmax")(point))
    with pytest.raises(ValueError, match=r"in front of a sign. Received: neither at 'sign'"):
        kc.freeze(keras.Model(x, layers.Dense(2)(y)), np.eye(3, 8, dtype=np.float32))


@pytest.mark.parametrize("activations", ["ste_sign", kc.DoReFaActivation(2)])
@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_sums_of_few_levels_are_exact(activations, target: str) -> None:
    """On the range that training saw, -2 to 2, a step of 4 / 255 puts 2 on a tie."""
    x = inputs = keras.Input(SHAPE)
    x = layers.Conv2D(6, 3, padding="same", activation="relu")(x)
    y = layers.Conv2D(6, 3, padding="same", activation="relu")(x)
    x = layers.Add(name="add")([x, y])
    x = layers.Conv2D(4, 3, name="conv3")(x)
    model = kc.quantize_model(keras.Model(inputs, layers.Flatten()(x)), activations=activations)
    for _ in range(2):
        model(DATA, training=True)
    artifact = kc.convert(model, target)
    frozen = artifact.frozen
    sums = np.array(keras.Model(frozen.input, frozen.get_layer("add_quantized").output)(DATA))
    levels = np.unique(sums) if activations == "ste_sign" else np.unique(np.round(sums * 3.0))
    assert set(levels) <= ({-2.0, 0.0, 2.0} if activations == "ste_sign" else set(range(7)))
    assert len(levels) >= 3
    rows = [row for row in kc.verify(artifact, None, DATA, strict=False).rows if row.name == "add_quantized"]
    assert rows
    assert all(row.fraction_differing == 0.0 for row in rows)


@pytest.mark.parametrize("explicit", [False, True])
def test_a_sign_of_the_inputs_takes_it_from_integers(explicit: bool) -> None:
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input(SHAPE)
    if explicit:
        x = kc.BinaryConv2D(4, 3)(kc.QuantizeActivation(kc.SteSignActivation())(x))
    else:
        x = kc.BinaryConv2D(4, 3, input_quantizer="ste_sign")(x)
    artifact = converted(keras.Model(inputs, layers.Flatten()(x)))
    assert not artifact.float_ops
    kc.verify(artifact, None, DATA)


def off_ties(model: keras.Model) -> keras.Model:
    """Biases of one step behind signs: an even number of signs, whose sum may be 0, becomes an odd number.

    The kernels of dynamic range put +1 and -1 on an asymmetric grid, where they are not each other's negatives: what
    should be 0 has any sign there. Of 72 signs a tenth of the sums are 0.
    """
    for name in ("conv3", "dense1"):
        layer = model.get_layer(name).layer
        magnitudes = np.abs(np.array(layer.kernel))
        layer.bias.assign(magnitudes.mean(axis=tuple(range(magnitudes.ndim - 1))))
    return model


@pytest.mark.parametrize("mode", ["float32", "dynamic"])
def test_float_modes_keep_the_sign(mode: str) -> None:
    """But for signs near 0, which the model takes from inputs of 8 bits: 75 to 98 % agree, whatever the weights."""
    model = off_ties(quantized(replaced))
    artifact = kc.convert(model, mode=mode)
    measured = kc.measure(artifact, DATA, np.array(model(DATA)).argmax(-1))
    assert measured.accuracy >= 0.7  # without the signs: 0.2


def test_a_scale_from_the_inputs_is_refused_in_integers_and_runs_in_floats() -> None:
    x = keras.Input(SHAPE)
    y = kc.BinaryConv2D(4, 3, input_quantizer="ste_sign", name="conv")(x)
    model = keras.Model(x, layers.Flatten()(kc.XnorScale(3, name="scale")([y, x])))
    with pytest.raises(ValueError, match=r"XnorScale\(constant=True\).* Received: constant=False at 'scale'"):
        kc.convert(model, representative_dataset=DATA)
    assert kc.convert(model, mode="float32").stats.raw_bytes > 0
