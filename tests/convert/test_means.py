"""Means over all positions: a range of their own, in training and on the device, rounded as MEAN's kernels do."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.convert.kernel_rounding import TwiceRoundedGrid
from keras_compress.quantizers.activation import FixedGrid
from keras_compress.tflite.flatbuffer import Graph, read_model

L = keras.layers


def sqnr_db(reference, values):
    return 10 * np.log10(np.square(reference).sum() / np.square(reference - values).sum())


def narrow_means(layer, shape=(8, 8, 2)):
    """Means that are small beside what they are means of."""
    inputs = keras.Input(shape, name="image")
    return keras.Model(inputs, L.Dense(3, name="out")(L.Flatten()(layer(inputs))))


def noise(shape=(8, 8, 2), samples=64):
    return np.random.default_rng(0).normal(size=(samples, *shape)).astype(np.float32)


def operators(artifact):
    graph = Graph(read_model(artifact.content))
    return [graph.kind(op) for op in graph.operators]


def points(model):
    return {layer.name: layer.quantizer for layer in model.layers if isinstance(layer, kc.QuantizeActivation)}


LAYERS = {
    "global": lambda: L.GlobalAveragePooling2D(name="pool"),
    "keepdims": lambda: L.GlobalAveragePooling2D(keepdims=True, name="pool"),
    "one window": lambda: L.AveragePooling2D(8, name="pool"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_means_keep_their_precision_and_run_as_frozen(name):
    keras.utils.set_random_seed(0)
    model, x = narrow_means(LAYERS[name]()), noise()
    expected = model.predict(x, verbose=0)
    for target, kernel in (("litert", "xnnpack"), ("tflm", "tflm")):
        artifact = kc.convert(model, target, representative_dataset=x)
        assert "MEAN" in operators(artifact)
        # On the input's scale the means, of 1/8 of its deviation, had 10 levels or so: 25 dB.
        assert sqnr_db(expected, artifact.frozen.predict(x, verbose=0)) > 34
        rows = kc.verify(artifact, None, x, kernels=[kernel]).rows
        pooled = next(row for row in rows if row.name.startswith("pool"))
        assert pooled.max_lsb == 0
        assert np.ptp(expected) > 0.5


def test_the_factor_of_a_mean_is_divided_and_rounded_down():
    made = TwiceRoundedGrid.behind_mean(FixedGrid(0.03, 5), 0.05, 12)
    # 0.05 / 0.03 = 0.8333 * 2^1; shifted by floor(log2 12) = 3 and divided by 12.
    scale = np.float64(np.float32(0.05)) / np.float64(np.float32(0.03))
    factor = round(scale / 2 * 2**31) * 8 // 12
    assert int(made.factor.numpy()[0]) == factor
    assert int(made.exponent.numpy()[0]) == 1 - 3
    for total in (-700, -6, 0, 5, 191, 1000):
        high = (total * factor + (2**30 if total * factor >= 0 else 1 - 2**30)) / 2**31
        high = int(high)  # towards zero
        low, rest = high >> 2, high & 3
        expected = low + (rest > 1 + (high < 0))
        found = made.plain(np.array([[total * np.float32(0.05) / 12]], np.float32))
        assert float(found[0, 0]) / 0.03 == pytest.approx(np.clip(expected, -133, 122), abs=1e-4)


def test_training_sees_the_range_of_the_means():
    model = kc.quantize_model(narrow_means(L.GlobalAveragePooling2D(name="pool")))
    x = noise()
    model(x, training=True)
    found = points(model)["pool_quantized"]
    _, high = (float(end) for end in found.range())
    assert high == pytest.approx(x.mean(axis=(1, 2)).max(), rel=0.02)
    trained, frozen = model.predict(x, verbose=0), kc.freeze(model).predict(x, verbose=0)
    step = float(points(model)["out_quantized"].parameters()[0])
    assert np.abs(trained - frozen).max() < 1.01 * step


def test_few_bits_are_no_grid_for_means():
    model = kc.quantize_model(narrow_means(L.GlobalAveragePooling2D(name="pool")), activations="int4")
    assert {name: quantizer.bits for name, quantizer in points(model).items()} == {
        "image_quantized": 4,
        "pool_quantized": 8,
        "out_quantized": 4,
    }
    assert "pool_quantized" not in points(kc.quantize_model(narrow_means(LAYERS["global"]()), activations="int16"))


def test_sixteen_bits_keep_the_input_s_grid():
    x = noise()
    model = kc.quantize_model(narrow_means(LAYERS["global"]()))
    model(x, training=True)
    artifact = kc.convert(model, mode="16x8")
    assert "AVERAGE_POOL_2D" in operators(artifact)
    assert "MEAN" not in operators(artifact)
    assert sqnr_db(model.predict(x, verbose=0), artifact.frozen.predict(x, verbose=0)) > 30


def test_a_model_trained_without_a_range_behind_its_means_needs_no_data():
    inputs = keras.Input((6, 4), name="x")
    point = kc.QuantizeActivation(kc.MovingAverageRange())
    x = L.GlobalAveragePooling1D(name="pool")(point(inputs))
    outputs = kc.QuantizeActivation(kc.MovingAverageRange())(L.Dense(2)(x))
    model = kc.quantize_model(keras.Model(inputs, outputs), activations=None)
    model(noise((6, 4)), training=True)
    assert "AVERAGE_POOL_2D" in operators(kc.convert(model))


def test_what_is_only_moved_before_its_point_has_no_second_range():
    inputs = keras.Input((6, 4), name="x")
    pooled = L.GlobalAveragePooling1D(keepdims=True, name="pool")(inputs)
    outputs = L.EinsumDense("abc,cde->abde", (None, 3, 2), name="einsum")(pooled)
    model = kc.quantize_model(keras.Model(inputs, outputs))
    x = noise((6, 4))
    model(x, training=True)
    frozen = kc.freeze(model)  # no data: all ranges are trained
    scales = {name: quantizer.scale for name, quantizer in points(frozen).items()}
    assert len({round(scale, 9) for scale in scales.values()}) == 3
    artifact = kc.convert(model, "tflm")
    assert operators(artifact).count("QUANTIZE") <= 1
    assert all(row.max_lsb == 0 for row in kc.verify(artifact, None, x).rows)
