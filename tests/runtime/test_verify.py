"""`verify`: every net, operator by operator, on three kernels; and that it can fail."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from tests_zoo import NETS, build, data

import keras_compress as kc
from keras_compress.runtime.operators import _counts, _different
from keras_compress.runtime.rounding import _odd_share, expected_share
from keras_compress.runtime.verify import _compare_outputs, verify
from keras_compress.tflite.flatbuffer import Graph, read_model

KERNELS = ("xnnpack", "reference", "tflm")


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", sorted(NETS))
def test_deployed_equals_frozen(name, bits):
    model = build(name)
    x = data(model, 100)
    if bits == 4:
        model = kc.quantize_model(model, weights="int4", activations="int4")
    # Packed weights of LiteRT's dense layers would not load on TFLite-Micro.
    artifact = kc.convert(model, representative_dataset=x, weights_storage="int8")
    result = kc.verify(artifact, model, x, kernels=KERNELS)
    assert artifact.float_ops == ()
    assert {row.kernel for row in result.rows} == set(KERNELS)
    points = {row.name for row in result.rows}
    assert len(points) >= 3
    assert all(row.max_lsb <= 1 for row in result.rows)
    for row in result.outputs if bits == 8 else ():
        assert row.argmax_agreement is None or row.argmax_agreement >= 0.97


@pytest.fixture(scope="module")
def converted():
    model = build("conv_bn_relu")
    x = data(model, 100)
    return model, x, kc.convert(model, representative_dataset=x)


def test_swapped_channels_are_caught_and_named(converted):
    model, x, artifact = converted
    frozen = artifact.frozen
    integers, _ = frozen.get_layer("depthwise").transforms["kernel"][-1].variables
    kept = np.array(integers)
    integers.assign(kept[:, :, ::-1])
    try:
        with pytest.raises(kc.VerificationError, match="first at 'relu6_quantized' on xnnpack"):
            verify(artifact, frozen, x)
        result = verify(artifact, frozen, x, strict=False)
    finally:
        integers.assign(kept)
    assert not result.ok
    assert result.first_failure.name == "relu6_quantized"
    assert [row.ok for row in result.rows if row.name == "relu_quantized"] == [True, True]


def test_one_wrong_bias_is_caught(converted):
    model, x, artifact = converted
    integers, _ = artifact.frozen.get_layer("logits").transforms["bias"][-1].variables
    kept = np.array(integers)
    integers.assign(kept + 4000)
    try:
        assert verify(artifact, artifact.frozen, x, strict=False).first_failure.name == "logits_quantized"
    finally:
        integers.assign(kept)


def test_data_on_which_nothing_varies_prove_nothing(converted):
    model, x, artifact = converted
    with pytest.raises(ValueError, match="Expected data on which the outputs vary"):
        verify(artifact, model, np.zeros_like(x[:1]).repeat(4, 0))


def test_what_no_file_can_be_compared_on_is_refused_by_name(converted):
    model, x, artifact = converted
    with pytest.raises(ValueError, match=f"Expected finite data. .* input {model.inputs[0].name!r}"):
        verify(artifact, model, np.where(x > x.mean(), np.nan, x))
    other = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)], name="other")
    with pytest.raises(ValueError, match=r"Expected the model that was converted, .*Received: 'other' with \[\(5,\)\]"):
        verify(artifact, other, x)


# The scale that TensorFlow Lite's int8 kernel of each writes on, and its zero point.
FIXED = {
    "softmax": (lambda t: tf.nn.softmax(t), 1 / 256, -128),
    "of_keras": (lambda t: keras.ops.softmax(t), 1 / 256, -128),
    "by_hand": (lambda t: tf.exp(t) / tf.reduce_sum(tf.exp(t), -1, keepdims=True), 1 / 256, -128),
    "sliced": (lambda t: tf.nn.softmax(t)[:, :3], 1 / 256, -128),
    "sigmoid": (lambda t: tf.math.sigmoid(t), 1 / 256, -128),
    "tanh": (lambda t: tf.tanh(t), 1 / 128, 0),
    "log_softmax": (lambda t: tf.nn.log_softmax(t), 1 / 16, 127),
    "l2_normalize": (lambda t: tf.math.l2_normalize(t, axis=1), 1 / 128, 0),
}


@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_scale_is_known_in_a_function_too(name):
    function, scale, zero_point = FIXED[name]
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), keras.layers.Lambda(function)])
    x = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)
    artifact = kc.convert(model, representative_dataset=x)
    last = artifact.frozen.layers[-1].quantizer
    assert (last.scale, last.zero_point) == (scale, zero_point)
    assert all(row.unexplained_lsb == 0 for row in kc.verify(artifact, model, x, kernels=KERNELS).rows)


@pytest.mark.parametrize("name", ["softmax", "sliced", "tanh"])
def test_so_it_is_with_16_bits(name):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), keras.layers.Lambda(FIXED[name][0])])
    x = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)
    artifact = kc.convert(model, mode="16x8", representative_dataset=x)
    assert artifact.frozen.layers[-1].quantizer.scale == 2.0**-15
    assert all(row.unexplained_lsb == 0 for row in kc.verify(artifact, model, x).rows)


def test_a_function_that_only_moves_values_keeps_their_grid():
    keras.utils.set_random_seed(0)
    moved = keras.layers.Lambda(lambda t: tf.transpose(tf.reshape(t, (-1, 4, 4)), (0, 2, 1))[:, :2])
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), moved])
    x = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)
    frozen = kc.convert(model, representative_dataset=x).frozen
    dense, last = frozen.get_layer("dense_quantized").quantizer, frozen.layers[-1].quantizer
    assert (last.scale, last.zero_point) == (dense.scale, dense.zero_point)


def test_a_fixed_scale_within_a_function_rounds_twice():
    # What multiplies it stands between it and the point.
    keras.utils.set_random_seed(0)
    twice = keras.layers.Lambda(lambda t: 1.7 * tf.tanh(t))
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), twice])
    x = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)
    artifact = kc.convert(model, representative_dataset=x)
    result = kc.verify(artifact, model, x, kernels=["xnnpack"])
    assert max(row.fraction_differing for row in result.rows) > 0.1
    assert max(row.max_lsb for row in result.rows) == 1


def test_float_artifacts_have_nothing_to_verify(converted):
    model, x, artifact = converted
    with pytest.raises(ValueError, match="mode 'int8' or '16x8'"):
        verify(dataclasses.replace(artifact, mode="float32"), model, x)


def test_sixteen_by_eight():
    model = build("residual_pooling")
    x = data(model, 50)
    artifact = kc.convert(model, mode="16x8", representative_dataset=x)
    result = kc.verify(artifact, model, x, kernels=KERNELS, strict=False)
    convolution = [row for row in result.rows if row.name == "conv_quantized"]
    assert len(convolution) == 3
    assert all(row.max_lsb <= 1 for row in convolution)


@pytest.mark.parametrize("io", ["int8", "uint8"])
def test_integer_inputs(converted, io):
    model, x, _ = converted
    result = verify(kc.convert(model, representative_dataset=x, io=io), model, x, kernels=KERNELS)
    assert result.ok
    assert {row.argmax_agreement for row in result.outputs} <= {0.99, 1.0}


def test_share_that_double_rounding_costs(converted):
    # The worst operator of the net; M = 2^-n * q costs 2^-(n + 1).
    share = expected_share(Graph(read_model(converted[2].content)), "tflm") / 2
    assert 2**-12 < share < 0.25


def test_two_float_inputs_each_get_their_own_data():
    one, two = keras.Input((3,), name="one"), keras.Input((5,), name="two")
    model = keras.Model(
        [one, two], keras.layers.Concatenate()([keras.layers.Dense(2)(one), keras.layers.Dense(2)(two)])
    )
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(16, n)).astype(np.float32) for n in (3, 5)]
    found = kc.verify(kc.convert(model, representative_dataset=x), model, x, kernels=["reference"])
    assert {"one_quantized", "two_quantized"} <= {row.name for row in found.rows}


def test_half_steps_lie_on_ties_when_they_are_odd():
    assert _odd_share(np.array([[0.5, 0.5]])) == _odd_share(np.array([[1.0, 0.5]])) == 0.5
    assert _odd_share(np.array([[0.25, 0.75]])) == 0.25
    assert _odd_share(np.array([[1.0, 2.0]])) == _odd_share(np.array([[0.53, 0.57]])) == 0.0
    assert _odd_share(np.array([[0.5], [1.0]])) == 0.25


def test_the_variance_of_two_features_is_the_mean_of_two_integers():
    """Both have the same distance from their mean: its square's scale serves the variance too."""
    inputs = keras.Input((4, 2))
    model = keras.Model(inputs, keras.layers.LayerNormalization(name="norm")(inputs))
    x = np.random.default_rng(0).normal(size=(64, 4, 2)).astype(np.float32)
    artifact = kc.convert(model, representative_dataset=x)
    assert verify(artifact, None, x, kernels=["reference"]).ok


def test_few_different_values_are_few_throws_of_the_dice():
    """What is at either end is cut off there: no rounding moves it."""
    few = _counts(np.array([[-128], [0], [0], [64], [64], [127]], np.int8))
    assert _different(few) == 6**2 / (2**2 + 2**2)
    two_channels = _counts(np.array([[-128, 3], [5, 4], [6, 127]], np.int8))
    assert _different(two_channels) == 6**2 / 4
    assert _different(0) == np.inf


def test_16_bit_activations_are_held_to_what_their_kernels_can():
    """15 bits of the multiplier, and functions from tables: all that is far from the frozen model is explained."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = 4 * np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype(np.float32)
    inputs = keras.Input((8, 8, 3))
    hidden = layers.DepthwiseConv2D(3)(layers.Conv2D(4, 3)(inputs))
    outputs = [layers.Softmax()(hidden), layers.Activation("sigmoid")(hidden), layers.Activation("tanh")(hidden)]
    model = keras.Model(inputs, [*outputs, layers.LeakyReLU(0.3)(hidden)])
    result = kc.verify(kc.convert(model, mode="16x8", representative_dataset=x), None, x, kernels=["reference"])
    assert max(row.fraction_differing for row in result.rows) > 0.1
    assert {row.fraction_unexplained for row in result.rows} == {0.0}
    assert max(row.bound for row in result.rows) < 0.02


def test_ranges_inside_a_layer_come_with_the_artifact() -> None:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = np.random.default_rng(0).normal(size=(20, 6, 6, 2)).astype(np.float32)
    model = keras.Sequential([keras.Input((6, 6, 2)), layers.SeparableConv2D(3, 3, name="separable")])
    model = kc.quantize_model(model)
    model(x, training=True)
    artifact = kc.convert(model, representative_dataset=x)
    assert kc.verify(artifact, model, x).ok


def test_float_outputs_differ_beyond_rounding_of_float32_only():
    """1e-5 of the value, whatever its sign, and 1e-8 near 0."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Identity(name="y")(inputs))
    expected = np.array([[-4.0, 4.0, -4.0, 0.0]], np.float32)
    got = expected + np.array([[3e-5, -3e-5, 8e-5, 2e-8]], np.float32)
    (row,) = _compare_outputs([got], model, [expected], "tflm")
    assert (row.name, row.kernel, row.argmax_agreement) == ("y", "tflm", 1.0)
    assert row.fraction_differing == 0.5
    assert row.max_difference == pytest.approx(8e-5, rel=0.01)


@pytest.mark.parametrize("batch_size", ["auto", 2])
@pytest.mark.parametrize(
    ("shape", "rows", "layer", "given"),
    [
        ((4, 8), (-1, 8), lambda: keras.layers.Dense(5), (-1, 4, 5)),
        ((4, 8), (-1, 8), lambda: keras.layers.Dense(5), (-1, 5)),
        ((2, 4, 8), (-1, 4, 8), lambda: keras.layers.Conv1D(5, 3, padding="same"), (-1, 2, 4, 5)),
    ],
)
def test_rows_that_the_batch_was_folded_into(shape, rows, layer, given, batch_size):
    inputs = keras.Input(shape)
    made = layer()(keras.ops.reshape(inputs, rows))
    model = keras.Model(inputs, keras.ops.reshape(made, given))
    x = np.random.default_rng(0).normal(size=(31, *shape)).astype(np.float32)
    artifact = kc.convert(model, representative_dataset=x, batch_size=batch_size)
    result = kc.verify(artifact, model, x, kernels=KERNELS, op_samples=7)
    assert result.ok
    assert all(row.max_difference < 0.1 for row in result.outputs)
