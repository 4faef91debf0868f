"""Separation by hand: which spatial kernels are shared, what the 1x1 convolution gets, when it is worth while."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.structured import surgery
from keras_compress.structured.depthwise_separation import separation


def kernel_of(directions: list[int], filters: int) -> np.ndarray:
    """A 3x3 kernel in which input channel c has so many spatial kernels, up to factors; 0: it is not read."""
    rng = np.random.default_rng(0)
    made = np.zeros((3, 3, len(directions), filters), "float32")
    for channel, count in enumerate(directions):
        shared = rng.normal(size=(3, 3, max(count, 1)))
        factors = rng.uniform(0.5, 2.0, filters) * rng.choice([-1, 1], filters) * (count > 0)
        made[:, :, channel] = shared[..., np.arange(filters) % max(count, 1)] * factors
    return made


def net(directions: list[int], filters: int = 12, **settings) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, len(directions)), name="image")
    x = layers.Conv2D(filters, 3, activation="relu", name="conv", **settings)(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="logits")(layers.Flatten()(x)))
    conv = model.get_layer("conv")
    conv.set_weights([kernel_of(directions, filters), np.linspace(-1, 1, filters)])
    return model


def test_a_kernel_by_hand() -> None:
    first, second = np.zeros((2, 3, 3), "float32")
    first[0] = 1.0
    second[:, 1] = 2.0
    kernel = np.zeros((3, 3, 2, 8), "float32")
    # Channel 0: two directions; channel 1: one, and filters that do not read it.
    kernel[:, :, 0] = np.stack([first, second, -first, 2 * first, second, 0 * first, first, 3 * first], axis=-1)
    kernel[:, :, 1] = second[..., None] * np.float32([1, 0, 0.5, 0, 0, 0, 0, 1])
    found = separation(kernel, 0.0)
    assert found is not None
    assert found.channels.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(found.directions, np.stack([first, second, second], axis=-1))
    assert found.weights.tolist() == [[1, 0, -1, 2, 0, 0, 1, 3], [0, 1, 0, 0, 1, 0, 0, 0], [1, 0, 0.5, 0, 0, 0, 0, 1]]


def test_the_tolerance_is_relative_to_a_mean_kernel() -> None:
    kernel = np.zeros((3, 3, 1, 6), "float32")
    kernel[0, 0] = 1.0
    kernel[0, 1, 0, 5] = 0.3
    # Of the others beside a multiple of the last one, 0.3 / sqrt(1.09) is left; the mean of the squared norms is
    # 1 + 0.09 / 6 = 1.015.
    distance = 0.3 / np.sqrt(1.09 * 1.015)
    assert separation(kernel, distance * 0.999).weights.tolist() == [[1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1]]
    found = separation(kernel, distance * 1.001)
    np.testing.assert_allclose(found.weights, [[*[1 / 1.09] * 5, 1]], rtol=1e-6)
    np.testing.assert_array_equal(found.directions[0, :, 0], np.float32([1, 0.3, 0]))


def test_it_is_done_only_where_it_takes_fewer_multiplications() -> None:
    # 9 * 2 * 12 = 216 for each position; D directions take D * (9 + 12): 10 of them 210, 11 of them 231.
    assert len(separation(kernel_of([5, 5], 12), 0.0).channels) == 10
    assert separation(kernel_of([5, 6], 12), 0.0) is None
    assert separation(np.zeros((3, 3, 2, 4), "float32"), 0.0) is None


@pytest.mark.parametrize(
    ("directions", "settings", "between"),
    [
        ([1, 3, 0, 2], {"padding": "same"}, "conv_take"),
        ([2, 2, 2], {"strides": 2, "padding": "same", "use_bias": True}, None),
        ([1, 2], {"dilation_rate": 2}, "conv_take"),
    ],
)
def test_the_separated_model_is_the_same_function(directions, settings, between) -> None:
    model = net(directions, **settings)
    made = kc.separate_convolutions(model)
    x = np.random.default_rng(1).normal(size=(4, 8, 8, len(directions))).astype("float32")
    assert surgery.largest_difference(model, made, x) <= 1e-5
    names = [operation.name for operation in made.operations]
    assert names == ["image", *([between] if between else []), "conv_depthwise", "conv", "flatten", "logits"]
    positions = np.prod(made.get_layer("conv").output.shape[1:3])
    saved = positions * (9 * len(directions) * 12 - sum(directions) * (9 + 12))
    assert kc.channel_graph(model).macs() - kc.channel_graph(made).macs() == saved


def test_it_saves_loads_trains_and_runs_in_int8(tmp_path) -> None:
    made = kc.separate_convolutions(net([1, 3, 1], padding="same"))
    x = np.random.default_rng(1).normal(size=(32, 8, 8, 3)).astype("float32")
    made.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(x), made(x))
    for target in ("litert", "tflm"):
        artifact = kc.convert(made, target=target, mode="int8", representative_dataset=[x])
        assert {"GATHER", "DEPTHWISE_CONV_2D", "CONV_2D"} <= set(kc.inspect_tflite(artifact.content).operators)
        kc.verify(artifact, made, x)
    made.compile("sgd", "mse", run_eagerly=True)
    before = made.get_layer("conv_depthwise").get_weights()[0]
    made.fit(x, np.ones((32, 3)), verbose=0)
    assert np.any(made.get_layer("conv_depthwise").get_weights()[0] != before)


def test_a_layer_called_twice_stays_one_and_rules_leave_layers_alone() -> None:
    conv = layers.Conv2D(4, 3, padding="same", name="conv")
    inputs = keras.Input((6, 6, 4))
    model = keras.Model(inputs, conv(keras.ops.relu(conv(inputs))))
    conv.kernel.assign(kernel_of([1, 1, 1, 2], 4))
    made = kc.separate_convolutions(model)
    x = np.random.default_rng(1).normal(size=(2, 6, 6, 4)).astype("float32")
    assert surgery.largest_difference(model, made, x) <= 1e-5
    assert made.count_params() == 5 * (9 + 4) + 4
    left = kc.separate_convolutions(model, rules=[{"layers": "conv", "skip": True}])
    assert left.count_params() == model.count_params() == 4 * 9 * 4 + 4
    with pytest.raises(ValueError, match=r"Expected `tolerance` >= 0. Received: tolerance=-0.5"):
        kc.separate_convolutions(model, -0.5)
