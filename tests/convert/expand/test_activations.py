"""Activations leave their layers, or are read from a table."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_compress as kc
from keras_compress.convert.expand.activations import PointwiseFunction
from keras_compress.ir.read.lookups import table_of
from keras_compress.runtime.verify import verify

X = np.float32([[-3.0, -0.5, 0.25, 2.0]])


def function_of(bench, name, shape=(4,)):
    model = bench.model(lambda x: layers.Activation(name)(x), shape)
    return bench.same(model, X)


def test_silu_is_a_sigmoid_and_a_product(bench):
    assert bench.kinds(function_of(bench, "silu")) == ["Activation", "Multiply"]


@pytest.mark.parametrize(
    "name", ["gelu", "elu", "selu", "hard_sigmoid", "softplus", "mish", "exponential", "leaky_relu"]
)
def test_functions_become_tables(bench, name):
    flat = function_of(bench, name)
    assert bench.kinds(flat) == ["PointwiseFunction"]


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "softmax", "relu", "relu6"])
def test_kernels_stay(bench, name):
    assert bench.kinds(function_of(bench, name)) == ["Activation"]


def test_an_activation_leaves_its_layer_and_the_name_says_whose_it_is(bench):
    model = bench.model(lambda x: layers.Dense(3, activation="gelu", name="wide")(x), (4,))
    flat = bench.same(model)
    assert [layer.name for layer in flat.layers[1:]] == ["wide.linear", "wide.gelu.gelu"]


def test_a_weighted_layer_takes_in_most_of_a_hard_sigmoid(bench):
    model = bench.model(lambda x: layers.Dense(3, activation="hard_sigmoid")(x), (4,))
    assert bench.kinds(bench.same(model)) == ["Dense", "BatchNormalization", "PointwiseFunction"]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (lambda: layers.ReLU(1.0), [[0.0, 0.0, 0.25, 1.0]]),
        (lambda: layers.ReLU(negative_slope=0.5), [[-1.5, -0.25, 0.25, 2.0]]),
        (lambda: layers.ReLU(threshold=0.5), [[0.0, 0.0, 0.0, 2.0]]),
        (lambda: layers.LeakyReLU(0.25), [[-0.75, -0.125, 0.25, 2.0]]),
        (lambda: layers.ELU(2.0), [[2 * (np.exp(-3) - 1), 2 * (np.exp(-0.5) - 1), 0.25, 2.0]]),
    ],
)
def test_layers_with_settings(bench, layer, expected):
    flat = bench.same(bench.model(lambda x: layer()(x), (4,)), X)
    assert bench.kinds(flat) == ["PointwiseFunction"]
    np.testing.assert_allclose(flat(X), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: ops.clip(x, -1.0, 1.0), [[-1.0, -0.5, 0.25, 1.0]]),
        (lambda x: ops.leaky_relu(x, 0.5), [[-1.5, -0.25, 0.25, 2.0]]),
        (lambda x: ops.elu(x, 3.0), [[3 * (np.exp(-3) - 1), 3 * (np.exp(-0.5) - 1), 0.25, 2.0]]),
        (ops.sin, np.sin(X)),
    ],
)
def test_operations_keep_their_arguments(bench, function, expected):
    flat = bench.same(bench.model(function, (4,)), X)
    np.testing.assert_allclose(flat(X), expected, rtol=1e-5)


def test_the_table_holds_the_function_of_every_int8_number():
    table = table_of(PointwiseFunction("relu", {"negative_slope": 0.5}), 0.25, -28)
    # -128 stands for (-128 + 28) / 4 = -25, -28 for 0, 127 for 38.75.
    assert table.shape == (256,)
    assert [table[0], table[100], table[104], table[255]] == [-12.5, 0.0, 1.0, 38.75]


def test_an_unknown_function_is_refused():
    with pytest.raises(ValueError, match="Received: function='cube'"):
        PointwiseFunction("cube")


def test_saved_and_loaded_with_its_arguments(tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, PointwiseFunction("leaky_relu", {"negative_slope": 0.25})(inputs))
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "model.keras")(X), [[-0.75, -0.125, 0.25, 2.0]])


@pytest.mark.parametrize("function", ["sigmoid", "tanh"])
def test_tflm_reads_functions_of_coarse_integers_from_a_table(function):
    # With 4 and more a step TFLM's own kernels give the ends of the range for nearly every input. The sum needs the
    # whole range.
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Activation(function)(inputs) + inputs)
    x = np.random.default_rng(0).uniform(-1500, 1500, (64, 6)).astype(np.float32)
    x[:, 0] = np.linspace(-20, 20, 64)
    artifact = kc.convert(model, "tflm", representative_dataset=x)
    assert verify(artifact, model, x).ok
    assert "GATHER" in kc.inspect_tflite(artifact.content).operators


@pytest.mark.parametrize(
    ("function", "used"),
    [
        (layers.Activation("hard_tanh"), (-1.0, 1.0)),
        (layers.ReLU(1.0), (0.0, 1.0)),
        (lambda x: ops.clip(x, -0.5, 2.0), (-0.5, 2.0)),
        (layers.Activation("hard_silu"), (-3.0, 60.0)),
        # A sixteenth of a step of 60.2 / 255, which their results are rounded to: gelu(-2.52) = -0.0148.
        (layers.Activation("gelu"), (-2.52, 60.0)),
        # Its factor, a sigmoid, is told from 0 up to there.
        (layers.Activation("silu"), (-6.5, 60.0)),
        # selu(-4.7) is as near to its lowest value, -1.758, with a step of 64.8 / 255.
        (layers.Activation("selu"), (-4.7, 60.0)),
        (lambda x: ops.maximum(x, -20.0), (-20.0, 60.0)),
        (lambda x: ops.minimum(-10.0, x), (-60.0, 0.0)),
        (lambda x: ops.relu6(ops.minimum(x, 30.0)), (0.0, 6.0)),
        (lambda x: layers.Add()([ops.clip(x, -0.5, 2.0), x]), (-60.0, 60.0)),
    ],
)
def test_the_range_in_front_of_a_function_ends_where_the_function_becomes_constant(function, used):
    inputs = keras.Input((2,))
    linear = layers.Dense(1, name="linear")
    model = keras.Model(inputs, function(linear(inputs)))
    linear.kernel.assign([[2.0], [1.0]])
    x = np.float32([[30.0, 0.0], [-30.0, 0.0], [1.0, 0.25], [0.0, 1.0]])
    grid = kc.freeze(model, x).get_layer("linear_quantized").quantizer
    ends = [(integer - grid.zero_point) * grid.scale for integer in (-128, 127)]
    np.testing.assert_allclose(ends, used, atol=grid.scale)


def test_a_factor_and_an_offset_in_front_of_a_function_bring_its_ends_to_their_own_argument():
    x = keras.Input((2,), name="x")
    model = keras.Model(x, ops.clip(layers.Rescaling(0.5, 1.0)(x), -0.5, 2.0))
    data = np.linspace(-60, 60, 128, dtype=np.float32).reshape(64, 2)
    grid = kc.freeze(model, data).get_layer("x_quantized").quantizer
    ends = [(integer - grid.zero_point) * grid.scale for integer in (-128, 127)]
    np.testing.assert_allclose(ends, (-3.0, 2.0), atol=0.05)


@pytest.mark.parametrize("inside", [True, False])
def test_a_hard_sigmoid_is_taken_in_by_the_layer_before_it(inside):
    """One operator that rounds once: as near to Keras's model as its outputs rounded to 8 bits are."""
    inputs = keras.Input((8,))
    linear = layers.Dense(6, activation="hard_sigmoid" if inside else None, name="linear")
    outputs = linear(inputs)
    model = keras.Model(inputs, outputs if inside else layers.Activation("hard_sigmoid")(outputs))
    rng = np.random.default_rng(0)
    linear.set_weights([rng.normal(size=(8, 6)) / 2, rng.normal(size=6)])
    x = rng.normal(size=(256, 8)).astype(np.float32)
    artifact = kc.convert(model, representative_dataset=x)
    assert verify(artifact, model, x).ok
    assert kc.inspect_tflite(artifact.content).operators == {"QUANTIZE": 1, "FULLY_CONNECTED": 1, "DEQUANTIZE": 1}
    # Of the input, weights and outputs. With a table behind the layer it was 0.0028.
    difference = np.asarray(model(x)) - np.asarray(artifact.frozen(x))
    assert np.sqrt(np.square(difference).mean()) < 0.0024


def test_a_hard_sigmoid_behind_a_trained_range_stays_a_table():
    inputs = keras.Input((4,))
    model = kc.quantize_model(keras.Model(inputs, layers.Dense(3, activation="hard_sigmoid")(inputs)))
    model(np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32), training=True)
    assert kc.inspect_tflite(kc.convert(model).content).operators["GATHER"] == 1


@pytest.mark.parametrize("function", [ops.round, lambda x: ops.round(x, 1), ops.floor, ops.ceil, ops.trunc])
def test_whole_numbers_are_read_from_a_table_on_every_kernel(function):
    """LiteRT's reference kernels and TFLite-Micro lack some of the operators."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, function(inputs))
    # Steps of an eighth: each is a number of the input's grid, and so is each result of its own.
    x = np.random.default_rng(0).integers(-128, 128, (64, 4)).astype(np.float32) / 8
    x[0] = [-16, 15.875, 0, 1]
    artifact = kc.convert(model, representative_dataset=x)
    assert verify(artifact, model, x, kernels=("xnnpack", "reference", "tflm")).ok
    assert np.abs(np.asarray(model(x)) - np.asarray(artifact.frozen(x))).max() <= 32 / 255 / 2 + 1e-5
