"""Merging by hand: widths and weights after it are known; whatever is equal merges exactly, in every kind of graph."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.structured import surgery
from keras_compress.structured.hashing import hashed, hashed_with
from keras_compress.structured.merging import distances
from keras_compress.structured.unit_places import UnitPlaces, is_reader


def dense_net() -> keras.Model:
    """Neurons 0 and 2 are equal, 3 is nearly them, 1 has the same kernel and another bias."""
    inputs = keras.Input((2,), name="x")
    x = layers.Dense(4, activation="tanh", name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="logits")(x))
    model.get_layer("hidden").set_weights([np.float32([[3, 3, 3, 3], [4, 4, 4, 4.1]]), np.float32([1, -1, 1, 1])])
    model.get_layer("logits").set_weights([np.float32([[1, 2], [10, 20], [300, 400], [5, 6]]), np.float32([0.5, -0.5])])
    return model


def test_equal_neurons_become_one_and_its_readers_get_the_sum() -> None:
    model = dense_net()
    merged = kc.merge_channels(model, tolerance=0.0)
    kernel, bias = merged.get_layer("hidden").get_weights()
    np.testing.assert_array_equal(kernel, np.float32([[3, 3, 3], [4, 4, 4.1]]))
    np.testing.assert_array_equal(bias, np.float32([-1, 1, 1]))
    np.testing.assert_array_equal(
        merged.get_layer("logits").get_weights()[0], np.float32([[10, 20], [301, 402], [5, 6]])
    )
    x = np.random.default_rng(0).normal(size=(64, 2)).astype("float32")
    assert surgery.largest_difference(model, merged, x) <= 1e-6


def test_the_tolerance_is_a_distance_relative_to_the_layer() -> None:
    # ||w_3 - w_0|| = 0.1; mean of the squared norms: 9 + 1 + (3 * 16 + 4.1^2) / 4 = 26.2025.
    distance = 0.1 / np.sqrt(26.2025)
    model = dense_net()
    assert kc.merge_channels(model, tolerance=distance * 0.999).get_layer("hidden").units == 3
    merged = kc.merge_channels(model, tolerance=distance * 1.001)
    np.testing.assert_array_equal(merged.get_layer("logits").get_weights()[0], np.float32([[10, 20], [306, 408]]))
    np.testing.assert_array_equal(merged.get_layer("hidden").get_weights()[0], np.float32([[3, 3], [4, 4]]))


def test_batch_normalization_is_folded_in_before_comparing() -> None:
    inputs = keras.Input((4, 4, 1))
    x = layers.Conv2D(3, 1, use_bias=False, name="conv")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(epsilon=0.0, name="norm")(x))
    model = keras.Model(inputs, layers.Dense(2, name="logits")(layers.Flatten()(x)))
    # Channel 1 is twice channel 0 before a gamma of half; channel 2 has channel 0's weight and another beta.
    model.get_layer("conv").set_weights([np.float32([2, 4, 2]).reshape(1, 1, 1, 3)])
    model.get_layer("norm").set_weights(np.float32([[1, 0.5, 1], [3, 3, 4], [1, 2, 1], [4, 4, 4]]))
    merged = kc.merge_channels(model)
    assert merged.get_layer("conv").filters == 2
    x = np.random.default_rng(0).normal(size=(8, 4, 4, 1)).astype("float32")
    assert surgery.largest_difference(model, merged, x) <= 1e-5


def duplicated(model: keras.Model, share: float = 0.4) -> keras.Model:
    """Give some units of each group the weights of others, in place."""
    rng = np.random.default_rng(0)
    graph = kc.channel_graph(model)
    places = UnitPlaces(graph)
    for group in graph.prunable:
        order, count = rng.permutation(len(group)), int(len(group) * share)
        for each in graph.weights:
            found = places.on(each, group)
            if found is not None and found.size and not is_reader(each):
                value = np.moveaxis(keras.ops.convert_to_numpy(each.variable).copy(), each.axis, 0)
                value[found[order[:count]]] = value[found[order[count : 2 * count]]]
                each.variable.assign(np.moveaxis(value, 0, each.axis))
    return model


def convolutions() -> keras.Model:
    """A residual sum, a concatenation, squeeze-and-excitation, groups, depthwise, separable, flattened."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(10, 3, padding="same", name="first")(inputs)
    x = layers.Conv2D(10, 3, padding="same", groups=10, name="of_one")(x)
    y = layers.ReLU()(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)))
    y = layers.Conv2D(10, 1, name="second")(y)
    x = layers.BatchNormalization()(layers.Add()([x, y]))
    gate = layers.Dense(10, "sigmoid", name="gate")(layers.Dense(5, "relu")(layers.GlobalAveragePooling2D()(x)))
    x = layers.Multiply()([x, layers.Reshape((1, 1, 10))(gate)])
    x = layers.Concatenate()([x, layers.Conv2D(10, 3, padding="same", activation="gelu", name="third")(x), x])
    x = layers.Conv2D(12, 3, groups=2, name="grouped")(x)
    x = layers.SeparableConv2D(10, 3, depth_multiplier=2, name="separable")(x)
    x = layers.Flatten()(layers.MaxPooling2D(2)(x))
    return keras.Model(inputs, layers.Dense(3)(x))


def sequences() -> keras.Model:
    """An LSTM, attention with heads, a shared layer."""
    inputs = keras.Input((6, 4))
    shared = layers.Dense(8, "relu", name="shared")
    x = layers.LSTM(10, return_sequences=True)(shared(inputs))
    x = layers.MultiHeadAttention(5, 4)(x, x)
    return keras.Model(inputs, layers.Dense(3)(layers.GRU(6)(layers.PReLU(shared_axes=[1])(x))))


@pytest.mark.parametrize("make", [convolutions, sequences])
def test_equal_channels_merge_exactly_in_any_graph(make) -> None:
    keras.utils.set_random_seed(0)
    model = make()
    rng = np.random.default_rng(1)
    for variable in model.weights:
        if len(variable.shape) == 1:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    duplicated(model)
    merged = kc.merge_channels(model)
    widths = [[len(group) for group in kc.channel_graph(each).prunable] for each in (model, merged)]
    assert widths[1] == [width - int(width * 0.4) for width in widths[0]]
    x = rng.normal(size=(4, *model.input_shape[1:])).astype("float32")
    assert surgery.largest_difference(model, merged, x) <= 1e-5


def test_merges_show_in_the_layers_behind() -> None:
    inputs = keras.Input((1,))
    x = layers.Dense(2, "relu", name="a")(inputs)
    x = layers.Dense(2, "relu", name="b")(x)
    model = keras.Model(inputs, layers.Dense(1, name="c")(x))
    # Both neurons of b read 3 * relu(x), each from other copies of it.
    model.get_layer("a").set_weights([np.float32([[1, 1]]), np.zeros(2)])
    model.get_layer("b").set_weights([np.float32([[3, 1], [0, 2]]), np.zeros(2)])
    model.get_layer("c").set_weights([np.float32([[5], [6]]), np.zeros(1)])
    merged = kc.merge_channels(model)
    assert [v.tolist() for v in merged.get_weights()[::2]] == [[[1.0]], [[3.0]], [[11.0]]]


def test_what_is_summed_without_weights_stays() -> None:
    inputs = keras.Input((3,))
    x = layers.Dense(4, name="a", kernel_initializer="ones")(inputs)
    y = layers.Dense(4, name="b", kernel_initializer="ones")(inputs)
    model = keras.Model(inputs, [layers.Dot(1)([x, y]), layers.Dense(2)(x), layers.Dense(2)(y)])
    merged = kc.merge_channels(model, 2.0)
    assert (merged.get_layer("a").units, merged.get_layer("b").units) == (4, 4)


def test_rules_choose_layers_and_tolerances() -> None:
    model = dense_net()
    skipped = kc.merge_channels(model, 10.0, rules=[{"layers": "hidden", "skip": True}])
    assert skipped.get_layer("hidden").units == 4
    assert kc.merge_channels(model, rules=[{"layers": "hidden", "tolerance": 10.0}]).get_layer("hidden").units == 1
    with pytest.raises(ValueError, match=r"Expected `tolerance` >= 0. Received: tolerance=-1"):
        kc.merge_channels(model, -1)
    with pytest.raises(ValueError, match=r"without transforms in training"):
        kc.merge_channels(kc.cluster_weights(model, 2))


def test_distances_of_many_columns_are_those_of_numpy() -> None:
    rows = np.random.default_rng(0).normal(100.0, 1.0, (5, 9000)).astype("float32")
    rows[3] = rows[1]
    wide = rows.astype("float64")
    apart = np.linalg.norm(wide[:, None] - wide, axis=-1) / np.sqrt(np.square(wide).sum() / 5)
    np.testing.assert_allclose(distances(rows), apart, atol=1e-9)


def test_values_become_the_mode_of_their_basin() -> None:
    # Two triples far apart, seen with a narrow and with a wide kernel.
    values = np.array([0.0, 0.1, 0.2, 1.0, 1.1, 1.2])
    np.testing.assert_array_equal(hashed_with(values, 0.1), [0.1, 0.1, 0.1, 1.1, 1.1, 1.1])
    np.testing.assert_array_equal(hashed_with(values, 0.01), values)
    assert len(np.unique(hashed_with(values, 1.0))) == 1
    # The density's minimum, not the middle between the modes, parts 0.4 from 1.0.
    uneven = np.array([0.0, 0.0, 0.0, 0.4, 1.0])
    np.testing.assert_array_equal(hashed_with(uneven, 0.2), [0.0, 0.0, 0.0, 0.0, 1.0])


def test_hashing_keeps_to_its_error_and_keeps_zeros() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.05, (60, 50)).astype("float32")
    weights[rng.random(weights.shape) < 0.5] = 0.0
    few = hashed(weights, 0.1)
    assert len(np.unique(few)) < 60 < len(np.unique(hashed(weights, 0.01)))
    for error in (0.01, 0.1):
        assert np.sqrt(np.mean((hashed(weights, error) - weights) ** 2)) <= error * weights.std() * 1.0001
    assert np.all(few[weights == 0.0] == 0.0)
    clustered = np.float32([[0.1, -0.2, 0.1], [0.3, 0.3, -0.2]])
    np.testing.assert_array_equal(hashed(clustered, 0.05), clustered)


def test_hash_weights_then_merge() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((1,))
    model = keras.Model(inputs, layers.Dense(1)(layers.Dense(60, "relu", use_bias=False, name="hidden")(inputs)))
    made = kc.hash_weights(model, 0.2, rules=[{"layers": "last", "skip": True}])
    levels = len(np.unique(made.get_layer("hidden").get_weights()[0]))
    assert levels < 40
    assert kc.merge_channels(made).get_layer("hidden").units == levels
    with pytest.raises(ValueError, match=r"Expected `max_error` in \(0, 1\). Received: max_error=1.0"):
        kc.hash_weights(model, 1.0)


def test_a_subclassed_model_becomes_a_functional_one() -> None:
    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = keras.layers.Dense(8, "relu", name="hidden")
            self.out = keras.layers.Dense(3, name="out")

        def call(self, inputs):
            return self.out(self.hidden(inputs))

    model, x = Net(), np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    model(x)
    kernel = model.hidden.kernel.numpy()
    kernel[:, 1] = kernel[:, 0]
    model.hidden.kernel.assign(kernel)
    expected = np.array(model(x))
    merged = kc.merge_channels(model, 0.0)
    assert merged.get_layer("hidden").units == 7
    np.testing.assert_allclose(np.array(merged(x)), expected, rtol=1e-5, atol=1e-6)
