"""Sensitivity of bits: each weight and point alone, beside numbers worked out by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.pipelines import bit_sensitivity
from keras_compress.pipelines.bit_probe import BitProbe
from keras_compress.pipelines.hessian import hutchinson
from keras_compress.structured.sensitivity import GroupSensitivity


def linear(kernel: list[list[float]]) -> keras.Model:
    weights = np.array(kernel, np.float32)
    model = keras.Sequential(
        [keras.Input((weights.shape[0],), name="x"), keras.layers.Dense(weights.shape[1], use_bias=False, name="d")]
    )
    model.layers[0].kernel.assign(weights)
    return model


def two_layers() -> keras.Model:
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((4,), name="x"),
            keras.layers.Dense(6, activation="relu", name="a"),
            keras.layers.Dense(3, name="b"),
        ]
    )


def sqnr(real: np.ndarray, found: np.ndarray) -> float:
    return 10 * np.log10((real**2).sum() / ((real - found) ** 2).sum())


def numpy_symmetric(weight: np.ndarray, bits: int) -> np.ndarray:
    scale = np.abs(weight).max(0) / (2 ** (bits - 1) - 1)
    return np.round(weight / scale) * scale


def numpy_asymmetric(values: np.ndarray, bits: int) -> np.ndarray:
    low, high = min(values.min(), 0), max(values.max(), 0)
    scale = (high - low) / (2**bits - 1)
    zero_point = np.round(-low / scale)
    return (np.clip(np.round(values / scale) + zero_point, 0, 2**bits - 1) - zero_point) * scale


def test_one_weight_by_hand() -> None:
    # Levels of 3 bits beside a largest weight of 3: -3 .. 3. 1.2 becomes 1: noise 0.04 beside a signal of 10.44.
    found = kc.sensitivity(linear([[3.0], [1.2]]), of="bits", data=np.eye(2, dtype=np.float32), bits=(3,))
    assert found.groups == (GroupSensitivity("d", ("d",), 2, (pytest.approx(24.1664, abs=1e-4),)),)
    assert (found.criterion, found.unpruned, found.tried) == ("sqnr", 120.0, (3.0,))
    weights, _ = found.losses()
    assert weights == {"d": {3: pytest.approx(0.04 / 10.44, rel=1e-5)}}


def test_two_layers_beside_numpy() -> None:
    model = two_layers()
    x = np.random.default_rng(0).normal(size=(150, 4)).astype(np.float32)
    first, bias, last, other = (np.float64(w) for w in model.get_weights())
    hidden = np.maximum(x @ first + bias, 0)
    real = hidden @ last + other
    found = kc.sensitivity(model, of="bits", data=x, bits=(2, 4, 8))
    for column, bits in enumerate((2, 4, 8)):
        expected = {
            "a": np.maximum(x @ numpy_symmetric(first, bits) + bias, 0) @ last + other,
            "b": hidden @ numpy_symmetric(last, bits) + other,
        }
        for group in found.groups:
            assert group.values[column] == pytest.approx(sqnr(real, expected[group.name]), abs=0.01)
        expected = {
            "x": np.maximum(numpy_asymmetric(np.float64(x), bits) @ first + bias, 0) @ last + other,
            "a": numpy_asymmetric(hidden, bits) @ last + other,
            "b": numpy_asymmetric(real, bits),
        }
        assert [group.name for group in found.points] == list(expected)
        for group in found.points:
            assert group.values[column] == pytest.approx(sqnr(real, expected[group.name]), abs=0.05)
    for kept, now in zip((first, bias, last, other), model.get_weights()):
        np.testing.assert_array_equal(kept, now)


def normalized() -> keras.Model:
    keras.utils.set_random_seed(1)
    layers = [
        keras.Input((6, 6, 2)),
        keras.layers.Conv2D(4, 3, name="conv"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.ReLU(),
        keras.layers.DepthwiseConv2D(3, name="depthwise"),
        keras.layers.Flatten(),
        keras.layers.Dense(3, name="dense"),
    ]
    model = keras.Sequential(layers)
    values = np.random.default_rng(0).uniform(0.5, 2.0, (4, 4))
    model.get_layer("norm").set_weights(list(values))
    return model


def test_weights_are_rounded_as_quantize_model_does() -> None:
    model, x = normalized(), np.random.default_rng(0).normal(size=(70, 6, 6, 2)).astype(np.float32)
    found = kc.sensitivity(model, of="bits", data=x, bits=(4,))
    real = np.array(model(x))
    for group in found.groups:
        alone = kc.quantize_model(model, "int4", None, filters=group.name)
        assert group.values[0] == pytest.approx(sqnr(real, np.array(alone(x))), abs=0.01)


def test_labels_give_the_accuracy() -> None:
    # At 2 bits both columns of the first row become 3 and 2.8: equal signs of equal size but for their scales.
    model = linear([[3.0, 2.8], [1.0, 1.6]])
    x = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    found = kc.sensitivity(model, of="bits", data=(x, np.array([0, 1])), bits=(2, 8))
    # Second row at 2 bits: 1/3 and 1.6/2.8 of a step: 0 and 2.8. Both examples are still right.
    assert (found.criterion, found.unpruned, found.groups[0].values) == ("accuracy", 1.0, (1.0, 1.0))
    model.layers[0].kernel.assign([[3.0, 2.8], [1.0, 1.3]])
    found = kc.sensitivity(model, of="bits", data=(x, np.array([0, 1])), bits=(2, 8))
    # Now both become 0, and the first class wins a tie: the second example is lost.
    assert found.groups[0].values == (0.5, 1.0)
    assert found.losses()[0] == {"d": {2: 0.5, 8: 0.0}}


def test_nothing_is_traced_for_a_point(monkeypatch: pytest.MonkeyPatch) -> None:
    walks = []
    walk = BitProbe.walk
    monkeypatch.setattr(BitProbe, "walk", lambda self, *rest: walks.append(1) or walk(self, *rest))
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    kc.sensitivity(two_layers(), of="bits", data=x)
    assert len(walks) == 2


def test_the_hessian_of_a_quadratic_loss_by_hand() -> None:
    # Mean of (x w - y)^2 over x = (1, 0), (0, 2): second derivatives 1 and 4, 2.5 on average; error of 3 bits 0.04.
    x, y = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32), np.array([[3.0], [2.4]], np.float32)
    options = {"data": (x, y), "method": "hessian", "loss": "mse"}
    found = kc.sensitivity(linear([[3.0], [1.2]]), of="bits", bits=(3,), **options)
    assert found.groups[0].values == (pytest.approx(-0.5 * 2.5 * 0.04, rel=1e-5),)


def test_the_hessian_of_an_output_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # Samples of other points' products have a standard deviation of 0.5; 200 of them, of 1 % of the derivative, 2.
    monkeypatch.setattr(bit_sensitivity, "TRACE_SAMPLES", 200)
    x, y = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32), np.array([[3.0], [2.4]], np.float32)
    found = kc.sensitivity(linear([[0.3], [0.12]]), of="bits", data=(x, y), bits=(2,), method="hessian", loss="mse")
    # Outputs 0.3 and 0.24 in two bits are 0.3 and 0.2: a mean square of 0.0008.
    assert found.points[-1] == GroupSensitivity("d", ("d",), 1, (pytest.approx(-0.5 * 2 * 0.0008, rel=0.06),))
    assert found.losses()[1]["d"] == {2: -found.points[-1].values[0]}


def test_a_frozen_layer_bends_the_loss_too() -> None:
    model = linear([[3.0], [1.2]])
    model.layers[0].trainable = False
    x, y = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32), np.array([[3.0], [2.4]], np.float32)
    found = kc.sensitivity(model, of="bits", data=(x, y), bits=(3,), method="hessian", loss="mse")
    assert found.groups[0].values == (pytest.approx(-0.05, rel=1e-5),)


def test_hutchinson_of_blocks_that_are_not_diagonal() -> None:
    matrix = np.array([[4.0, 1.0, -2.0], [1.0, 3.0, 0.5], [-2.0, 0.5, 5.0]], np.float32)
    first, rest = tf.Variable([0.3]), tf.Variable([1.0, -2.0])

    def half_square(watch):
        x = tf.concat([first, rest], 0)
        return 0.5 * tf.tensordot(x, tf.linalg.matvec(matrix, x), 1), [first, rest]

    # 400 samples of a trace of 4 and one of 8: standard deviations 0.11 and 0.12.
    np.testing.assert_allclose(hutchinson(half_square, [()], [1], 400, 0, [[0, 1]]), [4.0, 8.0], atol=0.5)


def test_nested_models_and_several_outputs() -> None:
    keras.utils.set_random_seed(0)
    inner = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu", name="d")], name="inner")
    image = keras.Input((5,), name="x")
    outputs = [keras.layers.Dense(2, activation="softmax", name="p")(inner(image)), inner(image * 2.0)]
    x = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    found = kc.sensitivity(keras.Model(image, outputs), of="bits", data=x, bits=(4, 8))
    assert [group.name for group in found.groups] == ["inner/d", "p"]
    assert "inner/d" in [group.name for group in found.points]
    for group in (*found.groups, *found.points):
        assert 5 < group.values[0] < group.values[1] < 90


def test_a_subclassed_model_has_weights_alone() -> None:
    @keras.saving.register_keras_serializable(package="test_bit_sensitivity")
    class Own(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = keras.layers.Dense(3)

        def call(self, inputs):
            return self.dense(inputs) * 2.0

    model, x = Own(), np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    model(x)
    found = kc.sensitivity(model, of="bits", data=x, bits=(4, 8))
    assert [group.name for group in found.groups] == ["dense"]
    assert found.points == ()
    assert 10 < found.groups[0].values[0] < found.groups[0].values[1] < 70


def test_saved_shown_and_drawn(tmp_path) -> None:
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    found = kc.sensitivity(two_layers(), of="bits", data=x, bits=(2, 8), filters="b")
    assert [group.name for group in found.groups] == ["b"]
    found.save(tmp_path / "bits.json")
    assert kc.BitSensitivity.load(tmp_path / "bits.json") == found
    assert "b (points)" in str(found)
    axes = found.plot().axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2", "8"]
    assert len(axes.get_legend().get_texts()) == 4
    assert axes.get_xlabel() == "bits"


def test_bad_input() -> None:
    model, x = two_layers(), np.ones((3, 4), np.float32)
    with pytest.raises(ValueError, match=r"Expected `data` for of='bits'.*Received: evaluate="):
        kc.sensitivity(model, lambda each: 1.0, of="bits")
    with pytest.raises(ValueError, match="Expected `data=x`.*Received: data=None"):
        kc.sensitivity(model, of="bits")
    for bits in ((), (1,), (12,), (4.5,), (32,), (True,)):
        with pytest.raises(ValueError, match="Expected `bits` out of 2 to 8 and 16"):
            kc.sensitivity(model, of="bits", data=x, bits=bits)
    with pytest.raises(ValueError, match="Expected `method` out of"):
        kc.sensitivity(model, of="bits", data=x, method="taylor")
    with pytest.raises(ValueError, match=r"Expected `data=\(x, y\)` to take the accuracy on"):
        kc.sensitivity(model, of="bits", data=x, method="accuracy")
    with pytest.raises(ValueError, match=r"Expected `data=\(x, y\)` with targets"):
        kc.sensitivity(model, of="bits", data=x, method="hessian", loss="mse")
    with pytest.raises(ValueError, match="Expected a model that is not quantized yet.*'a'|quantizer at"):
        kc.sensitivity(kc.quantize_model(model), of="bits", data=x)


def test_numbers_that_are_not_finite_are_refused() -> None:
    """One would make the loss of every width the same, and the fewest bits the best."""
    model, x = two_layers(), np.ones((3, 4), np.float32)
    model.layers[0].activation = keras.activations.tanh
    for bad in (np.nan, np.inf):
        wrong = x.copy()
        wrong[1, 2] = bad
        with pytest.raises(ValueError, match="Expected finite data.*Received: NaN or infinity in input 'x'"):
            kc.mixed_precision(model, wrong, {"average_bits": 6})
    kernel = model.layers[1].kernel
    before = np.array(kernel)
    kernel.assign(np.where(before == before.max(), np.inf, before))
    with pytest.raises(ValueError, match="Received: NaN or infinity in output 0, for method 'sqnr'"):
        kc.sensitivity(model, of="bits", data=x)
    kernel.assign(np.where(before == before.max(), np.nan, before))
    with pytest.raises(ValueError, match="Expected data that give outputs which are numbers. Received: NaN"):
        kc.sensitivity(model, of="bits", data=(x, np.zeros(3, int)))
    kernel.assign(before)
    targets = np.full((3, 3), np.nan, np.float32)
    with pytest.raises(ValueError, match="Expected a loss with finite second derivatives"):
        kc.sensitivity(model, of="bits", data=(x, targets), method="hessian", loss=lambda y, out: (out - y) ** 3)
