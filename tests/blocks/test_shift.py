"""Shifts: where pixels come from, trained displacements beside the paper's formula, and the operators in files."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_compress as kc
from keras_compress import blocks, testing
from keras_compress.tflite.flatbuffer import Graph, read_model


def read_at(x: np.ndarray, row: int, column: int) -> float:
    inside = 0 <= row < x.shape[0] and 0 <= column < x.shape[1]
    return float(x[row, column]) if inside else 0.0


def test_groups_go_in_all_directions() -> None:
    layer, x = blocks.Shift(), np.random.default_rng(0).normal(size=(1, 4, 5, 20)).astype("float32")
    y = np.array(layer(x))[0]
    # 20 // 9 = 2 channels for each direction, rows first; the two that are left over stay in the middle.
    moves = [(a, b) for a, b in itertools.product((-1, 0, 1), repeat=2) for _ in range(4 if a == b == 0 else 2)]
    assert layer.whole_pixels_moved().tolist() == [list(move) for move in moves]
    for channel, (a, b) in enumerate(moves):
        wanted = [[read_at(x[0, :, :, channel], h + a, w + b) for w in range(5)] for h in range(4)]
        np.testing.assert_array_equal(y[..., channel], np.float32(wanted))


def test_training_interpolates_as_the_paper_and_inference_reads_whole_pixels() -> None:
    layer, x = blocks.ActiveShift(5), np.random.default_rng(0).normal(size=(1, 4, 5, 3)).astype("float32")
    layer.build(x.shape)
    layer.displacement.assign([[0.25, -0.5], [1.75, 0.0], [-3.0, 0.4]])  # the last row ends at -2
    trained, deployed = np.array(layer(x, training=True))[0], np.array(layer(x))[0]
    for channel, (a, b) in enumerate([(0.25, -0.5), (1.75, 0.0), (-2.0, 0.4)]):
        image = x[0, :, :, channel]
        for h, w in itertools.product(range(4), range(5)):
            # Bilinear: the four neighbours of (h + a, w + b), each by how near it is.
            top, left = int(np.floor(h + a)), int(np.floor(w + b))
            da, db = h + a - top, w + b - left
            near = (1 - da) * (1 - db) * read_at(image, top, left) + (1 - da) * db * read_at(image, top, left + 1)
            near += da * (1 - db) * read_at(image, top + 1, left) + da * db * read_at(image, top + 1, left + 1)
            assert trained[h, w, channel] == pytest.approx(near, abs=1e-5)
    assert layer.whole_pixels_moved().tolist() == [[0, 0], [2, 0], [-2, 0]]
    assert deployed[0, 0, 1] == x[0, 2, 0, 1]


@pytest.mark.parametrize("whole_pixels", [False, True])
def test_displacements_are_trained_by_the_formulas_slope(whole_pixels: bool) -> None:
    import tensorflow as tf

    layer = blocks.ActiveShift(3, whole_pixels=whole_pixels)
    x = tf.constant(np.arange(9, dtype="float32").reshape(1, 3, 3, 1))
    layer.build(x.shape)
    layer.displacement.assign([[0.3, -0.4]])
    with tf.GradientTape() as tape:
        y = layer(x, training=True)
        middle = y[0, 1, 1, 0]
    # The image is 3 h + w: a row further adds 3, a column 1.
    np.testing.assert_allclose(tape.gradient(middle, layer.displacement.value), [[3.0, 1.0]], rtol=1e-5)
    assert float(middle) == pytest.approx(4.0 if whole_pixels else 4.0 + 0.9 - 0.4, rel=1e-5)


def moving(kernel_size: int, active: bool) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((7, 6, 4))
    x = layers.Conv2D(20, 1, activation="relu", name="front")(inputs)
    shift = blocks.ActiveShift(kernel_size, name="shift") if active else blocks.Shift(kernel_size, name="shift")
    x = shift(x)
    if active:
        shift.displacement.assign(np.random.default_rng(3).uniform(-2.4, 2.4, (20, 2)))
    return keras.Model(inputs, layers.Conv2D(5, 1, name="behind")(x))


@pytest.mark.parametrize("active", [False, True])
def test_files_move_integers_by_the_quickest_operators(active: bool) -> None:
    model = moving(5 if active else 3, active)
    x = np.random.default_rng(0).normal(size=(8, 7, 6, 4)).astype("float32")
    kinds = {}
    for target in ("litert", "tflm"):
        artifact = kc.convert(model, target, representative_dataset=x, io="int8")
        assert kc.verify(artifact, model, x).ok
        graph = Graph(read_model(artifact.content))
        kinds[target] = [graph.kind(op) for op in graph.operators]
        scales = [float(graph.quantization(op.outputs[0])[0][0]) for op in graph.operators]
        assert len(set(scales[:-1])) == 1  # all before the last convolution are on one grid: nothing is rounded
    assert kinds["litert"] == ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D"]
    slices = ["CONV_2D", "PAD", *["STRIDED_SLICE"] * 9, "CONCATENATION", "CONV_2D"]
    # 20 displacements of their own would be 20 slices.
    assert kinds["tflm"] == (kinds["litert"] if active else slices)


def test_trained_to_whole_pixels_a_quantized_model_is_deployed_exactly() -> None:
    model = kc.quantize_model(moving(3, True), "dorefa3", "int8")
    x = np.random.default_rng(0).normal(size=(16, 7, 6, 4)).astype("float32")
    model.compile("adam", "mse", jit_compile=False)
    before = np.array(model.get_layer("shift").displacement)
    model.fit(x, np.zeros((16, 7, 6, 5), "float32"), batch_size=8, verbose=0)
    assert (np.array(model.get_layer("shift").displacement) != before).any()
    artifact = kc.convert(model)
    assert not artifact.float_ops
    assert kc.verify(artifact, model, x).ok


@pytest.mark.parametrize("layer", [blocks.Shift, blocks.ActiveShift])
def test_channels_can_be_cut_and_a_file_keeps_the_layer(layer: type, tmp_path) -> None:
    testing.check_channel_rule(layer(5), (6, 6, 28))
    model = moving(3, layer is blocks.ActiveShift)
    model.save(tmp_path / "m.keras")
    x = np.random.default_rng(0).normal(size=(2, 7, 6, 4)).astype("float32")
    np.testing.assert_array_equal(np.array(model(x)), np.array(keras.models.load_model(tmp_path / "m.keras")(x)))


def test_lightweight_convolutions_share_normalized_kernels() -> None:
    layer = blocks.LightweightConv1D(3, heads=2)
    x = np.random.default_rng(0).normal(size=(1, 5, 4)).astype("float32")
    layer.build(x.shape)
    # softmax of (0, log 2, log 5) is (1, 2, 5) / 8, of equal numbers 1/3 each.
    layer.kernel.assign(np.log([[1.0, 1.0], [2.0, 1.0], [5.0, 1.0]]))
    y = np.array(layer(x))[0]
    padded = np.pad(x[0], ((1, 1), (0, 0)))
    for step in range(5):
        before, here, behind = padded[step : step + 3]
        wanted = [(before[c] + 2 * here[c] + 5 * behind[c]) / 8 for c in (0, 1)]
        wanted += [(before[c] + here[c] + behind[c]) / 3 for c in (2, 3)]
        np.testing.assert_allclose(y[step], wanted, rtol=1e-5)
    causal = blocks.LightweightConv1D(3, heads=2, causal=True)
    causal.build(x.shape)
    causal.kernel.assign(layer.kernel)
    np.testing.assert_allclose(np.array(causal(x))[0, 1:], y[:-1], rtol=1e-5)
    assert float(ops.sum(layer.shared(4)[:, 0])) == pytest.approx(1.0)
