"""`verify` of one network of ordinary layers: silent on all kernels, and loud at each of a dozen planted errors."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.runtime import kernel_functions, target
from keras_compress.runtime.kernel_error import KernelError
from keras_compress.tflite.flatbuffer import Graph, read_model, write_model

KERNELS = ("xnnpack", "reference", "tflm")


@pytest.fixture(scope="module")
def net():
    """Grey levels on [-1, 1], PReLU with slopes beyond 1, bilinear upsampling by 3, adaptive pooling, a mean."""
    keras.utils.set_random_seed(0)
    layers, uniform = keras.layers, keras.initializers.RandomUniform
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(4, 3, bias_initializer=uniform(-0.2, 0.2), name="conv")(inputs)
    x = layers.PReLU(uniform(-0.3, 1.7), shared_axes=[1, 2], name="prelu")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.UpSampling2D(3, interpolation="bilinear", name="up")(x)
    x = layers.AdaptiveAveragePooling2D((4, 4), name="adaptive")(x)
    x = layers.Dense(4, bias_initializer=uniform(-0.2, 0.2), name="dense")(x)
    model = keras.Model(inputs, x)
    data = (np.random.default_rng(0).integers(0, 256, (48, 8, 8, 1)) / 127.5 - 1).astype(np.float32)
    return model, data, kc.convert(model, representative_dataset=data)


def test_no_alarm(net):
    model, data, artifact = net
    result = kc.verify(artifact, model, data, kernels=KERNELS)
    assert {row.kernel for row in result.rows} == set(KERNELS)
    assert max(row.fraction_differing for row in result.rows) > 0.2
    assert all(row.unexplained_lsb == 0 for row in result.rows)
    assert max(row.bound for row in result.rows) < 0.02


def _data(graph, tensor, dtype):
    buffer = graph.model.buffers[graph.tensors[tensor].buffer]
    buffer.data = np.array(buffer.data, np.uint8)
    return buffer.data.view(dtype)


def _one_weight(graph, op):
    weights = _data(graph, op.inputs[1], np.int8)
    weights[np.argmin(weights)] += 1


def _one_bias(graph, op):
    """By one step of the output."""
    source, weight, output = (graph.quantization(t)[0][0] for t in (op.inputs[0], op.inputs[1], op.outputs[0]))
    _data(graph, op.inputs[2], np.int32)[0] += round(output / (source * weight))


def _one_weight_scale(graph, op):
    found = graph.tensors[op.inputs[1]].quantization
    found.scale = np.array(found.scale) * np.where(np.arange(len(found.scale)) == 0, 129 / 127, 1.0)


def _output_scale(graph, op):
    found = graph.tensors[op.outputs[0]].quantization
    found.scale = np.array(found.scale) * 256 / 255


def _output_zero_point(graph, op):
    graph.tensors[op.outputs[0]].quantization.zeroPoint = [graph.quantization(op.outputs[0])[1] + 1]


def _corners(graph, op):
    op.builtinOptions.halfPixelCenters = False


PLANTED = [
    ("CONV_2D", _one_weight, "conv_quantized"),
    ("DEPTHWISE_CONV_2D", _one_weight, "depthwise_quantized"),
    ("FULLY_CONNECTED", _one_weight, "dense_quantized"),
    ("CONV_2D", _one_bias, "conv_quantized"),
    ("FULLY_CONNECTED", _one_bias, "dense_quantized"),
    ("CONV_2D", _one_weight_scale, "conv_quantized"),
    ("CONV_2D", _output_scale, "conv_quantized"),
    ("ADD", _output_scale, "prelu.slope_quantized"),
    ("QUANTIZE", _output_zero_point, "image_quantized"),
    ("CONV_2D", _output_zero_point, "conv_quantized"),
    ("RESIZE_BILINEAR", _corners, "up.average"),
]


@pytest.mark.parametrize(("kind", "change", "point"), PLANTED, ids=lambda value: getattr(value, "__name__", value))
def test_each_planted_error_of_one_step_is_found(net, kind, change, point):
    assert first_failure(net, kind, change, point, "reference").name == point


@pytest.mark.parametrize("planted", [PLANTED[0], PLANTED[7], PLANTED[10]], ids=lambda planted: planted[0])
@pytest.mark.parametrize("kernel", ["xnnpack", "tflm"])
def test_other_kernels_are_held_to_theirs(net, kernel, planted):
    kind, change, point = planted
    assert first_failure(net, kind, change, point, kernel).name == point


def test_prelu_of_tflite_micro(net):
    """Which has a kernel for it."""
    model, data, _ = net
    artifact = kc.convert(model, "tflm", representative_dataset=data)
    assert all(row.unexplained_lsb == 0 for row in kc.verify(artifact, model, data, kernels=["tflm"]).rows)
    for change in (_one_weight, _output_scale):
        found = first_failure((model, data, artifact), "PRELU", change, "prelu.slope_quantized", "tflm")
        assert found.name == "prelu.slope_quantized"


def first_failure(net, kind, change, point, kernel):
    _, data, artifact = net
    model = read_model(artifact.content)
    graph = Graph(model)
    (op,) = (op for op in graph.operators if graph.name(op.outputs[0]) == artifact.points[point])
    assert graph.kind(op) == kind
    change(graph, op)
    broken = dataclasses.replace(artifact, content=write_model(model))
    return kc.verify(broken, None, data, kernels=[kernel], strict=False).first_failure


@pytest.mark.parametrize("point", ["image_quantized", "prelu.slope_quantized", "up.average", "adaptive.pooled.average"])
def test_three_values_in_a_hundred_one_step_off_are_found(net, point, monkeypatch):
    _, data, artifact = net
    reference = type(target.target("litert", kernels="reference"))
    runs = reference.run

    def off(self, content, inputs, label=""):
        outputs = runs(self, content, inputs, label)
        if label == point:
            flat = outputs[0].reshape(-1)
            flat[::33] ^= 1
        return outputs

    monkeypatch.setattr(reference, "run", off)
    result = kc.verify(artifact, None, data, kernels=["reference"], strict=False)
    assert result.first_failure.name == point


def test_an_integer_is_right_within_half_a_step_and_the_error():
    """At a tie both neighbours are, and beyond it none but the nearest."""
    got, exact = np.array([2, 3, 1, 3, 3]), np.array([2.5, 2.5, 2.5, 2.4, 2.499])
    assert KernelError().allows(got, exact, 0).tolist() == [True, True, False, False, False]
    assert KernelError(steps=2.0**-7).allows(got, exact, 0).tolist() == [True, True, False, False, True]
    large = np.array([20000.45])
    assert not KernelError().allows(np.array([20001]), large, 0)
    assert KernelError(relative=2.0**-15).allows(np.array([20001]), large, 0)


def test_positions_in_1024ths_of_a_pixel():
    """By hand: 3 pixels to 5 are 614 / 1024 apart, the first at 307 - 512 and so before the first pixel."""
    image = np.array([-100, 100, 50], np.int8).reshape(1, 1, 3, 1)
    found = kernel_functions.resized_in_fixed_point(image, 1, 5).reshape(-1)
    # Positions 0, 409, 1023, 1637 and 2251 (behind the last).
    by_hand = [-100, -100 + 200 * 409 / 1024, -100 + 200 * 1023 / 1024, 100 - 50 * 613 / 1024, 50]
    assert found.tolist() == [round(value) for value in by_hand]


@pytest.mark.parametrize("kernel", ["xnnpack", "reference"])
def test_products_of_tensors_are_rounded_twice(kernel):
    """XNNPACK leaves BATCH_MATMUL to the kernel that is built in."""
    sequence = keras.Input((20, 8))
    model = keras.Model(sequence, keras.layers.MultiHeadAttention(2, 4)(sequence, sequence))
    x = np.random.default_rng(0).normal(size=(32, 20, 8)).astype(np.float32)
    result = kc.verify(kc.convert(model, representative_dataset=x), model, x, kernels=[kernel])
    assert all(row.unexplained_lsb == 0 for row in result.rows if "scores" in row.name)


def test_a_relu_that_rescales_is_rounded_twice():
    sequence = keras.Input((3, 4))
    model = keras.Model(sequence, keras.layers.LSTM(5, activation="relu")(sequence))
    x = (np.random.default_rng(0).normal(size=(64, 3, 4)).cumsum(1) / 3).astype(np.float32)
    result = kc.verify(kc.convert(model, "tflm", representative_dataset=x), model, x)
    assert any(row.name.endswith("relu_quantized") for row in result.rows)
    assert all(row.unexplained_lsb == 0 for row in result.rows)


@pytest.mark.parametrize("kernel", KERNELS)
def test_sigmoid_and_tanh_of_16_bits_are_computed_bit_for_bit(kernel):
    values = keras.Input((64,))
    made = [keras.layers.Activation(name)(values) for name in ("sigmoid", "tanh")]
    model = keras.Model(values, made)
    x = np.linspace(-7, 7, 512 * 64, dtype=np.float32).reshape(512, 64)
    artifact = kc.convert(model, mode="16x8", representative_dataset=x)
    rows = kc.verify(artifact, model, x, kernels=[kernel], op_samples=512).rows
    assert all(row.unexplained_lsb == 0 for row in rows)
    assert max(row.max_lsb for row in rows) > 0


def test_values_that_a_minimum_never_takes_may_be_cut_off_in_front_of_it():
    """Half of x's energy is; that little is left of y has another reason, steps of 3 in the sum."""
    x, y = keras.Input((6,), name="x"), keras.Input((6,), name="y")
    lower = keras.ops.minimum(x, 1.0)
    model = keras.Model([x, y], (lower + y) - lower)
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(32, 6)).astype(np.float32) * np.float32(scale) for scale in (255, 0.5)]
    artifact = kc.convert(model, representative_dataset=data)
    assert artifact.distance.outputs[0].sqnr_db < 10
    assert kc.verify(artifact, model, data).ok


def test_each_value_has_the_error_of_its_channel():
    """Values picked out of a tensor, beside the whole tensor, whose last axis NumPy lines up with the errors."""
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(50, 3)) * 40
    got = np.rint(exact + rng.uniform(-0.2, 0.2, exact.shape)).astype(np.int32)
    places, channel = np.arange(150)[::2], np.arange(150)[::2] % 3
    for error in (KernelError(steps=np.array([0.0, 0.1, 0.4])), KernelError(relative=2.0**-9), KernelError(0.05)):
        whole = error.allows(got, exact, 3)
        assert 0 < np.count_nonzero(whole) < whole.size
        picked = error.at(channel, 3).allows(got.reshape(-1)[places], exact.reshape(-1)[places], 3)
        assert picked.tolist() == whole.reshape(-1)[places].tolist()
    several = KernelError(steps=np.array([0.0, 0.1]))
    assert several.at(channel, 3).steps == 0.1  # channels that were moved to another axis: the largest


@pytest.mark.parametrize(("kernel_size", "strides"), [(1, 2), (2, 3), (2, 2)])
def test_no_alarm_where_xnnpack_leaves_a_transposed_convolution_to_the_kernel_that_rounds_twice(kernel_size, strides):
    """Gaps between the kernels, with SAME padding: it refuses the first two."""
    inputs = keras.Input((5, 5, 3))
    layer = keras.layers.Conv2DTranspose(6, kernel_size, strides, padding="same")
    model = keras.Model(inputs, layer(inputs))
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(size=weight.shape) for weight in layer.weights])
    x = rng.normal(size=(64, 5, 5, 3)).astype(np.float32)
    result = kc.verify(kc.convert(model, representative_dataset=x), model, x, kernels=KERNELS)
    assert max(row.fraction_unexplained for row in result.rows) == 0.0
    shares = {row.kernel: row.fraction_differing for row in result.rows if row.fraction_differing}
    assert ("xnnpack" in shares) is (strides > kernel_size)
