"""Tensors whose ranges are far apart: the file on LiteRT's kernels, against the float Keras model."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_compress as kc
from keras_compress.runtime import deployed
from keras_compress.runtime.kernels import runner_of


def sqnr_db(reference, values):
    varying = np.square(reference - reference.mean(axis=0)).mean()
    return 10 * np.log10(varying / np.square(reference - values).mean())


def outputs(model, *data, kernels=("xnnpack", "builtin", "reference")):
    """What Keras gives, and the worst SQNR on some kernels, in dB."""
    fed = list(data)
    artifact = kc.convert(model, representative_dataset=fed if len(fed) > 1 else fed[0])
    expected = np.asarray(model(fed if len(fed) > 1 else fed[0]))
    found = [deployed.run(runner_of(kernel), artifact.content, fed, "model")[0] for kernel in kernels]
    kc.verify(artifact, model, fed if len(fed) > 1 else fed[0])
    return artifact, min(sqnr_db(expected, each) for each in found)


def on_8_bits(values):
    """Rounded to the 256 steps of their range."""
    step = np.ptp(np.append(values, 0.0)) / 255
    return (np.rint(values / step) * step).astype(np.float32)


def rounded_db(function, *data):
    """What is left of a function in float whose arguments are rounded to 8 bits, and nothing else."""
    exact, rounded = (np.asarray(function(*each)) for each in (data, map(on_8_bits, data)))
    return sqnr_db(exact, rounded)


def normal(shape, scale, seed=0):
    return (np.random.default_rng(seed).normal(size=(64, *shape)) * scale).astype(np.float32)


def test_a_divisor_that_is_mostly_small_and_at_times_large_divides_by_the_small_one():
    # Half of the divisors are 1, a third of a step of their own 8 bits.
    x, y = keras.Input((6,), name="x"), keras.Input((6,), name="y")
    model = keras.Model([x, y], x / (ops.relu(y) + 1.0))
    numerators, wide = normal((6,), 1.0), normal((6,), 255.0, 1)
    possible = rounded_db(lambda x, y: x / np.maximum(y, 1.0), numerators, np.maximum(wide, 0.0) + 1.0)
    # The device rounds the sum, its reciprocal and the quotient too.
    assert outputs(model, numerators, wide)[1] > possible - 4


def test_a_lower_step_of_a_minimum_is_not_wrapped_around():
    # x moves to a grid that is 400 times as fine.
    x, y = keras.Input((6,), name="x"), keras.Input((6,), name="y")
    model = keras.Model([x, y], ops.relu6(ops.minimum(x, y)))
    assert outputs(model, normal((6,), 255.0), normal((6,), 2.0, 1))[1] > 20


@pytest.mark.parametrize("join", [layers.Add, layers.Multiply])
def test_sums_and_products_of_which_little_is_read_do_not_overflow(join):
    x, y = keras.Input((6,), name="x"), keras.Input((6,), name="y")
    function = lambda x, y: ops.hard_sigmoid(join()([x, y]))  # noqa: E731
    data = normal((6,), 255.0), normal((6,), 255.0, 1)
    assert outputs(keras.Model([x, y], function(x, y)), *data)[1] > rounded_db(function, *data) - 1


def test_a_relu6_ends_at_6_whatever_the_step_in_front_of_it():
    # 6 is 23.07 steps of x; a second reader keeps its range wide.
    x = keras.Input((6,), name="x")
    model = keras.Model(x, layers.ReLU(6.0)(x) + 0.001 * x)
    data = normal((6,), 10.0) + np.float32(5.0)
    assert outputs(model, data)[1] > 33


@pytest.mark.parametrize("function", ["elu", "mish"])
def test_a_table_in_front_of_a_join_is_read_on_the_grid_behind_that(function):
    x = keras.Input((2, 6), name="x")
    parts = [layers.Activation(function)(layers.Dense(4)(x[:, n])) for n in range(2)]
    keras.utils.set_random_seed(0)
    model = keras.Model(x, ops.stack([ops.reshape(part, (-1, 2, 2)) for part in parts], axis=1))
    artifact, found = outputs(model, normal((2, 6), 2.0))
    assert not artifact.float_ops
    assert found > 30


@pytest.mark.parametrize("function", [ops.sigmoid, ops.tanh, ops.relu6])
def test_what_a_function_cuts_off_takes_no_integers(function):
    # Squares of up to 10,000, of which the function reads those up to 6, moved before that.
    x = keras.Input((6,), name="x")
    model = keras.Model(x, function(layers.Reshape((3, 2))(x * x)))
    data = normal((6,), 1.0) ** 3
    possible = rounded_db(lambda x: function(x * x), data)
    assert outputs(model, data)[1] > possible - 3


def test_what_rounding_leaves_little_of_is_said_with_its_place():
    # Steps of 8 between x and x + y, of which y is left: it is 0.5.
    x, y = keras.Input((6,), name="x"), keras.Input((6,), name="y")
    model = keras.Model([x, y], layers.Subtract(name="left")([layers.Add(name="sum")([x, y]), x]))
    artifact = kc.convert(model, representative_dataset=[normal((6,), 255.0), normal((6,), 0.5, 1)])
    (note,) = [note for note in artifact.notes if "keeps little" in note]
    assert "'left'" in note
    assert artifact.distance.outputs[0].varying_db < 10


def test_where_rounding_leaves_enough_nothing_is_said():
    x = keras.Input((6,), name="x")
    model = keras.Model(x, layers.Dense(4, name="dense")(x))
    artifact = kc.convert(model, representative_dataset=normal((6,), 1.0))
    assert not [note for note in artifact.notes if "keeps little" in note]
    assert artifact.distance.outputs[0].varying_db > 30


def test_messages_list_no_layers_of_this_library():
    model = keras.Sequential([keras.Input((4, 4, 4, 1)), layers.Conv3D(1, 2)])
    with pytest.raises(ValueError, match="Expected layers with integer kernels: (?!.*Operand)(?!.*Rows).*Conv3D"):
        kc.convert(model, representative_dataset=normal((4, 4, 4, 1), 1.0))


def test_a_constant_is_a_whole_number_of_steps_so_that_means_keep_theirs():
    # Of most values, which are 0, the sum would be off by the same third of a step.
    x = keras.Input((8, 8, 3), name="x")
    model = keras.Model(x, layers.GlobalAveragePooling2D()(ops.relu(x) - 0.3))
    assert outputs(model, normal((8, 8, 3), 1.0, 5))[1] > 30


def test_what_is_pooled_keeps_its_range_where_one_reader_takes_another():
    # Slopes of 0.2 need a fifth of the negative values' range, the products with them all of it.
    x = keras.Input((4, 4, 2), name="x")
    slopes = keras.initializers.RandomUniform(0.1, 0.3, seed=0)
    model = keras.Model(x, layers.PReLU(slopes)(layers.MaxPooling2D(1)(x)))
    assert outputs(model, normal((4, 4, 2), 1.0) - np.float32(1.0))[1] > 30


def test_what_a_maximum_never_takes_needs_no_integers():
    """A step of 3.4 / 255 is all the noise there is: 43 dB; over both signs of x it is twice that, 6 dB less."""
    x, y = keras.Input((16,), name="x"), keras.Input((16,), name="y")
    data = np.clip(normal((16,), 1.0), -3.4, 3.4), np.abs(normal((16,), 0.05, 1))
    assert outputs(keras.Model([x, y], ops.maximum(x, y)), *data)[1] > 42


def test_what_is_selected_is_not_rounded_again():
    """A magnitude in steps that are no part of its argument's loses 1 dB."""
    x = keras.Input((16,), name="x")
    data = np.clip(normal((16,), 1.0), -3.0, 3.2)
    assert outputs(keras.Model(x, ops.abs(x)), data)[1] > rounded_db(ops.abs, data) - 0.1


def test_a_hard_sigmoid_in_its_straight_part_is_rounded_once():
    """The layer's integers are the result's: 37.2 dB. Arguments that are rounded before that cost 1.5 dB."""
    x = keras.Input((6,), name="x")
    keras.utils.set_random_seed(0)
    model = keras.Model(x, layers.Dense(8, activation="hard_sigmoid")(x))
    assert outputs(model, normal((6,), 0.5))[1] > 36.8


@pytest.mark.parametrize("mode", ["int8", "16x8"])
def test_values_that_are_nearly_nothing_make_a_file_that_runs(mode):
    """An untrained network may shrink its values layer by layer; its kernels want 6 within int32."""
    conv = layers.Conv2D(4, 3, activation="relu6", name="conv")
    model = keras.Sequential([keras.Input((6, 6, 2)), conv, layers.DepthwiseConv2D(3, activation="relu6")])
    conv.kernel.assign(np.array(conv.kernel) * 1e-9)
    x = normal((6, 6, 2), 1.0)
    artifact = kc.convert(model, representative_dataset=x, mode=mode)
    for kernel in ("xnnpack", "builtin", "reference"):
        found = deployed.run(runner_of(kernel), artifact.content, [x], "model")[0]
        assert np.abs(found - np.asarray(model(x))).max() < 1e-6


def test_logits_that_are_nearly_nothing_make_a_softmax_that_runs():
    dense = layers.Dense(5, activation="softmax")
    model = keras.Sequential([keras.Input((6,)), dense])
    dense.kernel.assign(np.array(dense.kernel) * 1e-8)
    x = normal((6,), 1.0)
    artifact = kc.convert(model, representative_dataset=x)
    for kernel in ("xnnpack", "builtin", "reference"):
        found = deployed.run(runner_of(kernel), artifact.content, [x], "model")[0]
        assert np.abs(found - 0.2).max() < 1 / 256


def test_a_hard_swish_that_is_nearly_closed_has_steps_that_its_kernel_takes():
    """Of arguments down to -60 it leaves 0.1: steps 1/150 of the input's, where 1/128 is the finest."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Activation("hard_silu")(inputs))
    x = np.random.default_rng(0).uniform(-60, 0.1, (64, 4)).astype(np.float32)
    x[np.abs(x + 1.5) < 1.45] = -4.0
    artifact = kc.convert(model, representative_dataset=x)
    assert kc.verify(artifact, model, x, kernels=("xnnpack", "reference", "tflm")).ok
