from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc


def point(quantizer) -> kc.QuantizeActivation:
    return kc.QuantizeActivation(quantizer)


def value(x) -> list[float]:
    return np.array(x).ravel().tolist()


def ends(quantizer) -> list[float]:
    return [float(v) for v in quantizer.range()]


def test_moving_average_literal() -> None:
    quantizer = kc.MovingAverageRange(8, decay=0.5)
    layer = point(quantizer)
    expected = []
    low = high = 0.0
    for t, batch in enumerate([[-1.0, 3.0], [-2.0, 1.0], [-0.5, 8.0]], start=1):
        layer(np.array(batch, np.float32), training=True)
        low, high = 0.5 * low + 0.5 * min(batch), 0.5 * high + 0.5 * max(batch)
        expected.append([low / (1 - 0.5**t), high / (1 - 0.5**t)])
        assert ends(quantizer) == pytest.approx(expected[-1], rel=1e-6)
    # (m1 + 2 m2 + 4 m3) / 7
    assert expected[-1] == pytest.approx([(-1 - 4 - 2) / 7, (3 + 2 + 32) / 7])


def test_the_first_batch_sets_the_range() -> None:
    quantizer = kc.MovingAverageRange()
    point(quantizer)(np.array([[-1.0, 1.55]], np.float32), training=True)
    assert ends(quantizer) == pytest.approx([-1.0, 1.55], rel=1e-5)
    scale, zero_point = (float(p) for p in quantizer.parameters())
    assert scale == pytest.approx(0.01, rel=1e-5)
    assert zero_point == -28


def test_training_uses_the_range_of_this_batch_too() -> None:
    layer = point(kc.MovingAverageRange(2))
    assert value(layer(np.array([0.0, 1.4, 3.0], np.float32), training=True)) == pytest.approx([0, 1, 3], rel=1e-5)
    assert value(layer(np.array([0.0, 1.6, 9.0], np.float32))) == pytest.approx([0, 2, 3], rel=1e-5)


@pytest.mark.parametrize("quantizer", [kc.MovingAverageRange, kc.LearnedRange])
def test_ranges_move_in_training_only(quantizer) -> None:
    made = quantizer()
    layer = point(made)
    layer(np.array([-1.0, 2.0], np.float32), training=True)
    before = ends(made)
    layer(np.array([-50.0, 70.0], np.float32))
    layer(np.array([-50.0, 70.0], np.float32), training=False)
    assert ends(made) == before
    assert int(made.batches) == 1


@pytest.mark.parametrize("quantizer", [kc.MovingAverageRange, kc.LearnedRange])
def test_values_pass_before_any_batch_with_one_warning_for_the_model(quantizer) -> None:
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5, activation="relu"), layers.Dense(2)])
    quantized = kc.quantize_model(model, weights="int8", activations=quantizer())
    x = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quantized.predict(x, verbose=0)
        quantized(x)
        quantized.predict(x, verbose=0)
    assert [w.category for w in caught] == [UserWarning]
    assert "has seen no training batch: values pass through unquantized" in str(caught[0].message)
    weights_only = kc.quantize_model(model, activations=None)
    np.testing.assert_array_equal(np.array(quantized(x)), np.array(weights_only(x)))
    quantized(x, training=True)
    assert np.abs(np.array(quantized(x)) - np.array(weights_only(x))).max() > 0


def test_a_traced_model_quantizes_once_it_was_trained() -> None:
    """`predict` before the training leaves a program behind: the same program must quantize afterwards."""
    model = kc.quantize_model(keras.Sequential([keras.Input((6,)), layers.Dense(2)]), activations="int2")
    x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    with pytest.warns(UserWarning, match="no training batch"):
        assert len(np.unique(model.predict(x, verbose=0))) > 50
    model(x, training=True)
    assert len(np.unique(model.predict(x, verbose=0))) <= 4


@pytest.mark.parametrize("batch", [[2.0, 5.0], [-5.0, -2.0], [0.0, 0.0], [-3.0, 1.0]])
@pytest.mark.parametrize("bits", [2, 8, 16])
def test_zero_is_always_representable(batch: list[float], bits: int) -> None:
    quantizer = kc.MovingAverageRange(bits)
    layer = point(quantizer)
    layer(np.array(batch, np.float32), training=True)
    assert value(layer(np.zeros(1, np.float32))) == [0.0]
    scale, zero_point = (float(p) for p in quantizer.parameters())
    assert scale > 0
    assert zero_point == round(zero_point)
    assert quantizer.spec.minimum <= zero_point <= quantizer.spec.maximum
    assert bits != 16 or zero_point == 0


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_at_most_two_to_the_bits_values(bits: int) -> None:
    layer = point(kc.MovingAverageRange(bits))
    x = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    found = np.unique(np.array(layer(x, training=True)))
    assert 0.6 * 2**bits < len(found) <= 2**bits


def gradients(layer, x: list[float]) -> tuple[list[float], list[float]]:
    values = tf.constant(x)
    upstream = tf.constant([10.0**i for i in range(len(x))])
    with tf.GradientTape() as tape:
        tape.watch(values)
        loss = tf.reduce_sum(layer(values, training=True) * upstream)
    found = tape.gradient(loss, [values, layer.quantizer.minimum.value, layer.quantizer.maximum.value])
    return found[0].numpy().tolist(), [0.0 if g is None else float(g) for g in found[1:]]


def test_moving_average_gradient() -> None:
    layer = point(kc.MovingAverageRange(decay=0.999))
    layer(np.array([-1.0, 2.0], np.float32), training=True)
    to_x, to_range = gradients(layer, [-4.0, -0.5, 1.0, 8.0])
    assert to_x == [0.0, 10.0, 100.0, 0.0]
    assert to_range == [0.0, 0.0]


def test_learned_range_gradients() -> None:
    layer = point(kc.LearnedRange())
    to_x, to_range = gradients(layer, [-1.0, 2.0, 0.5])
    assert (to_x, to_range) == ([1.0, 10.0, 100.0], [0.0, 0.0])  # the first batch sets the range
    assert ends(layer.quantizer) == [-1.0, 2.0]
    to_x, to_range = gradients(layer, [-4.0, -0.5, 1.0, 8.0])
    assert to_x == [0.0, 10.0, 100.0, 0.0]
    assert to_range == [1.0, 1000.0]
    assert ends(layer.quantizer) == [-1.0, 2.0]  # moved by the optimizer, not by the batch


def test_learned_range_is_trained() -> None:
    inputs = keras.Input((4,))
    layer = point(kc.LearnedRange())
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    x = np.array([[-1.0, 0.0, 1.0, 2.0]], np.float32)
    model.fit(x, x, verbose=0)
    assert ends(layer.quantizer) == [-1.0, 2.0]
    model.fit(2 * x, 2 * x, verbose=0)
    low, high = ends(layer.quantizer)
    # d mse / d low = 2 * (-1 - -2) / 4, d mse / d high = 2 * (2 - 4) / 4
    assert low == pytest.approx(-1.05, abs=1e-3)
    assert high == pytest.approx(2.1, abs=1e-3)


def test_fixed_grid_literal() -> None:
    layer = point(kc.FixedGrid(0.25, -3))
    x = np.array([-100.0, -0.3, 0.0, 0.125, 0.375, 100.0], np.float32)
    expected = [-31.25, -0.25, 0.0, 0.0, 0.5, 32.5]
    assert value(layer(x)) == expected
    assert value(layer(x, training=True)) == expected


def test_fixed_grid_rounds_half_away_and_stops_at_its_lowest() -> None:
    layer = point(kc.FixedGrid(0.25, 0, lowest=-2, rounding="half_away"))
    x = np.array([-100.0, -0.375, -0.125, 0.125, 0.375, 0.625], np.float32)
    expected = [-0.5, -0.5, -0.25, 0.25, 0.5, 0.75]
    assert value(layer(x)) == expected
    assert value(layer(x, training=True)) == expected


def test_fixed_grid_gradient_is_one_inside() -> None:
    layer = point(kc.FixedGrid(0.25, 0, lowest=-2))
    x = tf.constant([-0.51, -0.5, 0.1, 31.75, 31.8])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    assert tape.gradient(y, x).numpy().tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kc.FixedGrid(0.0, 0), "Expected a finite `scale` > 0. Received: scale=0.0"),
        (lambda: kc.FixedGrid(1.0, 0, rounding="up"), "Received: rounding='up'"),
        (lambda: kc.MovingAverageRange(decay=1.0), r"Expected `decay` in \(0, 1\)"),
        (lambda: kc.MovingAverageRange(0), "Received: bits=0"),
        (lambda: kc.LearnedRange(33), "Received: bits=33"),
        (lambda: kc.LearnedRange(12), "Received: bits=12"),
    ],
)
def test_bad_arguments(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("training", [False, True])
def test_float16_goes_in_and_out_and_the_range_stays_float32(training: bool) -> None:
    quantizer = kc.MovingAverageRange(decay=0.5)
    layer = point(quantizer)
    with keras.src.backend.AutocastScope("float16"):
        for _ in range(2):
            layer(np.array([-1.0009765, 70000.0], np.float32), training=True)
        outputs = layer(tf.constant([-1.0, 2.0], tf.float16), training=training)
    assert outputs.dtype == tf.float16
    low, high = (0.75 * e for e in (-1.0009765, 70000.0))
    if not training:
        assert [float(quantizer.minimum), float(quantizer.maximum)] == pytest.approx([low, high], rel=1e-6)
    assert quantizer.minimum.dtype == "float32"


def test_points_pass_masks_and_keep_shape() -> None:
    inputs = keras.Input((5,), dtype="int32")
    y = layers.Embedding(7, 4, mask_zero=True)(inputs)
    plain = keras.Model(inputs, layers.LSTM(3)(y))
    quantized = keras.Model(inputs, layers.LSTM(3)(point(kc.FixedGrid(1e-6, 0, bits=16))(y)))
    quantized.layers[-1].set_weights(plain.layers[-1].get_weights())
    tokens = np.array([[1, 2, 0, 0, 0]])
    quantized.layers[1].embeddings.assign(quantized.layers[1].embeddings * 1e-2)
    np.testing.assert_allclose(np.array(quantized(tokens)), np.array(plain(tokens)), atol=1e-4)


@pytest.mark.parametrize("bits", [3, 8])
def test_training_and_inference_round_to_the_same_bits(bits: int) -> None:
    layer = point(kc.LearnedRange(bits))
    x = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    layer(x, training=True)
    np.testing.assert_array_equal(np.array(layer(x, training=True)), np.array(layer(x)))


def test_summary_values_are_the_range() -> None:
    quantizer = kc.LearnedRange()
    point(quantizer)(np.array([-1.0, 2.0], np.float32), training=True)
    assert quantizer.summary_values() == {"minimum": -1.0, "maximum": 2.0}


def test_a_range_that_was_set_is_known_and_moves_on_from_there() -> None:
    """Two bits between -1 and 2: steps of 1."""
    for made in (kc.LearnedRange(2), kc.MovingAverageRange(2)):
        assert not made.trained()
        made.set_range(-1.0, 2.0)
        assert made.trained()
        # Without the warning that values pass through.
        assert value(point(made)(np.array([-3.0, 0.4, 0.6, 5.0], np.float32))) == [-1.0, 0.0, 1.0, 2.0]
    made = kc.LearnedRange(2)
    made.set_range(-1.0, 2.0)
    # No batch sets the ends anew.
    assert value(point(made)(np.array([-3.0, 5.0], np.float32), training=True)) == [-1.0, 2.0]
    assert ends(made) == [-1.0, 2.0]


@pytest.mark.parametrize("loss", ["categorical_crossentropy", "sparse_categorical_crossentropy"])
def test_labels_of_many_classes_have_a_gradient_in_training(loss: str) -> None:
    """Each of 1,000 classes has 1/1000, which the device rounds to 0: log(1000), and (1/1000 - y) by the bias."""
    dense = layers.Dense(1000, "softmax", kernel_initializer="zeros")
    model = kc.quantize_model(keras.Sequential([keras.Input((2,)), dense]))
    x, classes = np.ones((2, 2), np.float32), np.array([7, 7])
    labels = np.eye(1000, dtype=np.float32)[classes] if loss[0] == "c" else classes
    (bias,) = (v for v in model.trainable_variables if v.name == "bias")
    model(x, training=True)
    with tf.GradientTape() as tape:
        outputs = model(x, training=True)
        found = tf.reduce_mean(keras.losses.get(loss)(labels, outputs))
    assert not np.array(outputs).any()
    assert float(found) == pytest.approx(6.907755)
    gradient = np.array(tape.gradient(found, bias.value))
    np.testing.assert_allclose(gradient, np.where(np.arange(1000) == 7, -0.999, 0.001), rtol=1e-4)


def test_losses_of_inference_are_those_of_the_grid() -> None:
    """sigmoid(-8) is 1 / 2982: 0 on the device, whose loss of a 1 is -log(1e-7)."""
    dense = layers.Dense(1, "sigmoid", kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(-8.0))
    model = kc.quantize_model(keras.Sequential([keras.Input((2,)), dense]))
    x = np.ones((1, 2), np.float32)
    trained = keras.losses.binary_crossentropy(np.ones((1, 1)), model(x, training=True))
    assert value(trained) == pytest.approx([8.000335], rel=1e-3)
    assert value(model(x)) == [0.0]
    assert value(keras.losses.binary_crossentropy(np.ones((1, 1)), model(x))) == pytest.approx([16.118096])


class HalvedSteps(kc.MovingAverageRange):
    """Integers of half the step: another `parameters` than that of the range."""

    def parameters(self):
        scale, zero_point = super().parameters()
        return scale / 2, zero_point


class Doubled(kc.LearnedRange):
    """Another `call` than that of the range."""

    def call(self, inputs, training=False):
        return 2 * super().call(inputs, training)


class Shifted(kc.FixedGrid):
    """Another `call` than that of the grid."""

    def call(self, inputs, training=False):
        return 1 + super().call(inputs, training)


@pytest.mark.parametrize(
    ("quantizer", "expected"),
    [
        # Between 0 and 3 with two bits steps are 1, halved 0.5, up to 1.5.
        (HalvedSteps(2), [0.0, 0.5, 1.5, 1.5]),
        (Doubled(2), [0.0, 0.0, 4.0, 6.0]),
        (Shifted(0.5, 0), [0.5, 1.5, 2.5, 6.0]),
    ],
)
def test_what_a_users_subclass_computes_is_computed_where_no_gradient_is_wanted(quantizer, expected) -> None:
    if not isinstance(quantizer, Shifted):
        quantizer.set_range(0.0, 3.0)
    layer, x = point(quantizer), tf.constant([-0.4, 0.4, 1.6, 5.0])
    assert value(layer(x)) == expected
    assert value(layer.values(x)) == expected
    if isinstance(quantizer, HalvedSteps):
        assert value(layer.plain_operations(x)) == expected
