"""The frozen model: folded, on the grid, biases in whole steps."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.convert import fold
from keras_compress.convert.final_grid import final_grid
from keras_compress.convert.freeze import freeze, points_in
from keras_compress.core.transform import IntegerWeight

L = keras.layers


def small_model(gamma):
    inputs = keras.Input((4, 4, 1), name="image")
    x = L.Conv2D(2, 1, use_bias=False, name="conv")(inputs)
    x = L.BatchNormalization(name="norm", epsilon=0.0)(x)
    model = keras.Model(inputs, L.ReLU(name="relu")(x))
    model.get_layer("conv").kernel.assign(np.reshape([0.5, -1.0], (1, 1, 1, 2)))
    norm = model.get_layer("norm")
    norm.gamma.assign(gamma)
    norm.beta.assign([0.1, 0.2])
    norm.moving_mean.assign([0.3, -0.4])
    norm.moving_variance.assign([4.0, 0.25])
    return model


def kernel_of(frozen, name="conv"):
    return frozen.get_layer(name).transforms["kernel"][-1].integer_weight()


def bias_of(frozen, name="conv"):
    return frozen.get_layer(name).transforms["bias"][-1].integer_weight()


def test_folding_multiplies_scales_and_changes_no_integer():
    x = np.linspace(0, 1, 32, dtype=np.float32).reshape(2, 4, 4, 1)
    frozen = kc.freeze(small_model([2.0, 3.0]), x)
    kernel = kernel_of(frozen)
    # int8 per channel: |0.5| and |-1| are both at 127; gamma / sqrt(variance) is 2/2 and 3/0.5.
    np.testing.assert_array_equal(kernel.integers.reshape(-1), [127, -127])
    np.testing.assert_allclose(kernel.scale.reshape(-1), [0.5 / 127 * 1.0, 1.0 / 127 * 6.0], rtol=1e-6)
    # beta - mean * factor = 0.1 - 0.3 and 0.2 + 0.4 * 6, in steps of input scale * weight scale.
    step = np.float32(1 / 255) * kernel.scale.reshape(-1)
    np.testing.assert_allclose(bias_of(frozen).scale, step, rtol=1e-6)
    np.testing.assert_array_equal(bias_of(frozen).integers, np.rint(np.array([-0.2, 2.6]) / step))
    assert not any(isinstance(layer, L.BatchNormalization) for layer in frozen.layers)


def test_a_negative_gamma_gives_the_same_function():
    x = np.linspace(0, 1, 32, dtype=np.float32).reshape(2, 4, 4, 1)
    model = small_model([-2.0, 3.0])
    frozen = kc.freeze(model, x)
    assert (kernel_of(frozen).scale > 0).all()
    expected = model.predict(x, verbose=0)
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(frozen.predict(x, verbose=0), expected, atol=2 * np.ptp(expected) / 255)


def test_a_gamma_of_zero_gives_zeros_and_a_positive_scale():
    weight = IntegerWeight(np.array([[3, -5]], np.int32), np.array([[0.5, 0.25]], np.float32), 8)
    folded, bias = fold.fold(
        weight, np.array([1.0, 2.0]), fold.Affine(np.array([0.0, -2.0]), np.array([7.0, 0.5])), (-1,)
    )
    np.testing.assert_array_equal(folded.integers, [[0, 5]])
    np.testing.assert_allclose(folded.scale, [[1.0, 0.5]])
    np.testing.assert_allclose(bias, [7.0, -3.5])


def test_small_integers_are_shifted_up_by_one_power_of_two_for_the_tensor():
    weight = IntegerWeight(np.array([[7, -3], [0, 1]], np.int32), np.array([[0.5, 0.25]], np.float32), 4)
    spread = fold.spread(weight)
    np.testing.assert_array_equal(spread.integers, [[112, -48], [0, 16]])
    np.testing.assert_allclose(spread.scale, [[0.03125, 0.015625]])
    np.testing.assert_array_equal(spread.floats(), weight.floats())


@pytest.mark.parametrize("value", [5.0, -5.0])
def test_a_channel_far_smaller_than_its_bias_takes_a_coarser_scale(value):
    weight = IntegerWeight(np.array([[100, 100]], np.int32), np.array([[1e-12, 0.01]], np.float32), 8)
    coarse, bias = fold.bias_grid(np.array([value, value]), 0.01, weight, (-1,))
    assert np.abs(bias.integers).max() <= 2**30 + 1
    assert coarse.scale[0, 0] > 1e-9
    np.testing.assert_array_equal(coarse.integers[0], [0, 100])
    np.testing.assert_allclose(bias.floats(), [value, value], rtol=1e-6)


def test_factors_of_a_normalization_as_a_depthwise_kernel():
    """The highest integer with the factor's sign; a factor of 0 takes the largest scale, 1 where all are 0."""
    kernel = fold.standalone(fold.Affine(np.array([-2.54, 0.0, 1.27]), np.zeros(3)))
    assert kernel.integers.reshape(-1).tolist() == [-127, 0, 127]
    np.testing.assert_allclose(kernel.scale.reshape(-1), [0.02, 0.02, 0.01], rtol=1e-6)
    zeros = fold.standalone(fold.Affine(np.zeros(2), np.zeros(2)), bits=4)
    assert zeros.integers.reshape(-1).tolist() == [0, 0]
    np.testing.assert_allclose(zeros.scale.reshape(-1), [1 / 7, 1 / 7], rtol=1e-6)


@pytest.mark.parametrize(
    ("bits", "scale", "zero_point", "lowest"), [(8, 6 / 255, -128, -128), (4, 6 / 15, 112, 112), (2, 2.0, 124, 124)]
)
def test_unsigned_points_of_few_bits_sit_at_the_top_of_int8(bits, scale, zero_point, lowest):
    quantizer = kc.MovingAverageRange(bits)
    quantizer.set_range(0.0, 6.0)
    grid = final_grid(quantizer, 8)
    assert grid.scale == pytest.approx(scale, rel=1e-6)
    assert (grid.zero_point, grid.lowest, grid.bits) == (zero_point, lowest, 8)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 4.0), (-4.0, 1.0)])
@pytest.mark.parametrize("bits", [8, 16])
def test_sixteen_bits_are_symmetric(low, high, bits):
    quantizer = kc.MovingAverageRange(bits)
    quantizer.set_range(low, high)
    grid = final_grid(quantizer, 16)
    assert (grid.zero_point, grid.bits) == (0, 16)
    assert grid.scale == pytest.approx(4.0 / 32767, rel=1e-6)


def test_average_pooling_rounds_integers_half_away_from_zero():
    q = kc.quantize_model(keras.Sequential([keras.Input((2, 4, 1), name="image"), L.AveragePooling2D(2), L.Dense(1)]))
    x = np.array([[-1.28, 1.27, 0.0, 0.0], [0.0, 0.01, 0.0, 0.0]], np.float32).reshape(1, 2, 4, 1)
    frozen = kc.freeze(q, x)
    point = next(layer for layer in frozen.layers if layer.name.endswith(".average"))
    value = keras.Model(frozen.inputs, point.output).predict(x, verbose=0)[0, 0, 0]
    # Integers -128, 127, 0, 1 at scale 0.01: their mean 0 stays; with one step more it is 0.25, with two 0.5 -> 1.
    assert value.item() == pytest.approx(0.0, abs=1e-9)
    y = np.array([[-1.28, 1.27, 0.0, 0.0], [0.01, 0.02, 0.0, 0.0]], np.float32).reshape(1, 2, 4, 1)
    assert keras.Model(frozen.inputs, point.output).predict(y, verbose=0)[0, 0, 0] == pytest.approx(0.01, rel=1e-4)


def test_ranges_never_trained_are_named():
    inputs = keras.Input((4,), name="features")
    model = kc.quantize_model(keras.Model(inputs, L.Dense(2, name="out")(inputs)))
    with pytest.raises(ValueError, match=r"Expected.*ranges.*Received: ranges never trained at \['features_quantized'"):
        kc.freeze(model)


def test_freezing_leaves_the_model_alone_and_round_trips(tmp_path):
    x = np.linspace(0, 1, 32, dtype=np.float32).reshape(2, 4, 4, 1)
    model = kc.quantize_model(small_model([2.0, 3.0]))
    before = [np.array(v) for v in model.variables]
    frozen = kc.freeze(model, x)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, np.array(variable))
    frozen.save(tmp_path / "frozen.keras")
    again = keras.models.load_model(tmp_path / "frozen.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), frozen.predict(x, verbose=0))


def test_outputs_are_no_finer_than_the_sums_behind_them():
    # A range of 1e-7 behind sums in far larger steps holds noise only, and no kernel takes such a factor.
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False, name="tiny")(inputs))
    model.layers[-1].kernel.assign([[0.5], [0.5], [-0.5], [-0.5]])
    x = np.random.default_rng(0).uniform(0, 1, (32, 1)).astype(np.float32).repeat(4, axis=1)
    x[:, 0] += np.float32(1e-7)
    frozen = freeze(model, x)
    first, last = (point.quantizer for point in points_in(frozen))
    weight = frozen.get_layer("tiny").transforms["kernel"][-1].integer_weight(None)
    assert last.scale == pytest.approx(first.scale * weight.scale.max(), rel=1e-6)


def test_grids_are_configuration_and_weights_move_alone():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, activation="relu", name="a"), L.Dense(2)])
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    one, three = kc.freeze(model, x), kc.freeze(model, 3 * x)
    before = [layer.get_config() for layer in one.layers]
    expected = three(x).numpy()
    whole = keras.models.clone_model(three)
    whole.set_weights(three.get_weights())
    np.testing.assert_array_equal(whole(x), expected)
    one.set_weights(three.get_weights())
    assert [layer.get_config() for layer in one.layers] == before
    assert np.abs(one(x) - expected).max() > 0


def test_layers_that_training_saw_as_a_whole_are_named():
    inputs = keras.Input((6, 6, 2))
    x = L.SeparableConv2D(3, 3, name="separable")(L.Conv2D(2, 1, name="conv")(inputs))
    x = L.Reshape((16, 3))(x)
    x = L.MultiHeadAttention(2, 2, name="attention")(x, x)
    model = kc.quantize_model(keras.Model(inputs, L.Dense(2)(L.Flatten()(x))))
    x = np.random.default_rng(0).normal(size=(8, 6, 6, 2)).astype("float32")
    model(x, training=True)
    with pytest.raises(ValueError, match=r"know as several.*'separable' \(SeparableConv2D\), 'attention'"):
        kc.freeze(model)
    assert kc.freeze(model, x).calibration_samples == 8
