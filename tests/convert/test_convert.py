"""`convert`: modes, types, determinism, refusals, and integers that are the frozen model's."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from tests_zoo import build, data

import keras_compress as kc
from keras_compress.runtime.litert import LiteRT
from keras_compress.tflite.flatbuffer import Graph, read_model

L = keras.layers


@pytest.fixture(scope="module")
def plain():
    return build("conv_bn_relu")


@pytest.mark.parametrize("mode", ["float32", "float16", "dynamic", "16x8", "int8"])
def test_every_mode_computes_the_model(plain, mode):
    x = data(plain)
    needs_data = mode in ("int8", "16x8")
    artifact = kc.convert(plain, mode=mode, representative_dataset=x if needs_data else None)
    outputs = LiteRT().run(artifact.content, [x])[0]
    expected = plain.predict(x, verbose=0)
    tolerance = {"float32": 1e-5, "float16": 0.01, "dynamic": 0.1, "16x8": 0.05, "int8": 0.2}[mode]
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(outputs, expected, atol=tolerance)
    assert artifact.mode == mode
    assert artifact.float_ops == () or mode == "dynamic"


@pytest.mark.parametrize("layer", [L.Conv2D(4, 3), L.DepthwiseConv2D(3), L.Conv2DTranspose(4, 3), L.Dense(4)])
def test_dynamic_takes_weights_with_one_scale(layer):
    """The hybrid depthwise kernel reads a scale for each channel even where there is one."""
    model = keras.Sequential([keras.Input((6, 6, 3)), layer])
    model = kc.quantize_model(model, kc.LSQ(4), activations=None)
    x = np.random.default_rng(0).normal(size=(8, 6, 6, 3)).astype(np.float32)
    expected = np.array(model(x))
    outputs = LiteRT().run(kc.convert(model, mode="dynamic").content, [x])[0]
    np.testing.assert_allclose(outputs, expected, atol=0.02 * np.ptp(expected))


def test_sizes_shrink_from_mode_to_mode():
    model = keras.Sequential([keras.Input((64,)), L.Dense(256, activation="relu"), L.Dense(64)])
    sizes = [kc.convert(model, mode=m).stats.weight_payload_bytes for m in ("float32", "float16", "dynamic")]
    assert sizes == [4 * 32768, 2 * 32768, 32768]


@pytest.mark.parametrize(("io", "dtype"), [("float32", "float32"), ("int8", "int8"), ("uint8", "uint8")])
def test_io_types(plain, io, dtype):
    x = data(plain)
    artifact = kc.convert(plain, representative_dataset=x, io=io)
    signature = LiteRT().describe(artifact.content)
    assert [spec.dtype for spec in (*signature.inputs, *signature.outputs)] == [dtype, dtype]
    reference = kc.measure(kc.convert(plain, representative_dataset=x), x, plain.predict(x, verbose=0).argmax(-1))
    same = kc.measure(artifact, x, plain.predict(x, verbose=0).argmax(-1))
    assert same.accuracy == reference.accuracy > 0.9


def test_order_and_names_of_three_equal_outputs():
    model = build("three_outputs")
    x = data(model)
    artifact = kc.convert(model, representative_dataset=x)
    signature = LiteRT().describe(artifact.content)
    assert [spec.signature_name for spec in signature.outputs] == ["zeta", "alpha", "mid"]
    assert [spec.signature_name for spec in signature.inputs] == ["features"]
    for got, expected in zip(LiteRT().run(artifact.content, [x]), model.predict(x, verbose=0), strict=True):
        np.testing.assert_allclose(got, expected, atol=0.15)


@pytest.mark.xla
def test_same_inputs_give_the_same_bytes_in_two_processes(tmp_path, monkeypatch):
    script = (
        "import sys, numpy as np, keras, keras_compress as kc\n"
        "extra = [keras.layers.ReLU() for _ in range(int(sys.argv[2]))]\n"
        "keras.utils.set_random_seed(3)\n"
        "model = keras.Sequential([keras.Input((8, 8, 2)), keras.layers.Conv2D(4, 3, name='conv'),\n"
        "                          keras.layers.ReLU(name='relu'),\n"
        "                          keras.layers.Flatten(), keras.layers.Dense(3, name='out')])\n"
        "x = np.random.default_rng(0).normal(size=(16, 8, 8, 2)).astype('float32')\n"
        "kc.convert(model, representative_dataset=x).save(sys.argv[1])\n"
    )
    paths = [tmp_path / f"{i}.tflite" for i in range(2)]
    subprocess.run([sys.executable, "-c", script, str(paths[0]), "0"], check=True, capture_output=True)
    monkeypatch.setattr(sys, "argv", ["-c", str(paths[1]), "5"])
    exec(script, {})
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_weights_scales_and_biases_in_the_file_are_the_frozen_ones():
    model = kc.quantize_model(kc.cluster_weights(build("residual_pooling"), 8), weights="int4")
    x = data(model)
    artifact = kc.convert(model, representative_dataset=x, weights_storage="int8")
    graph = Graph(read_model(artifact.content))
    found = {
        graph.kind(op): (
            graph.constant(op.inputs[1]),
            graph.quantization(op.inputs[1])[0],
            graph.constant(op.inputs[2]),
        )
        for op in graph.operators
        if graph.kind(op) in ("CONV_2D", "FULLY_CONNECTED")
    }
    for kind, name, arrange in (
        ("CONV_2D", "conv", lambda k: np.transpose(k, (3, 0, 1, 2))),
        ("FULLY_CONNECTED", "probabilities", np.transpose),
    ):
        wrapper = artifact.frozen.get_layer(name)
        kernel = wrapper.transforms["kernel"][-1].integer_weight()
        bias = wrapper.transforms["bias"][-1].integer_weight()
        np.testing.assert_array_equal(found[kind][0], arrange(kernel.integers))
        np.testing.assert_array_equal(found[kind][1], kernel.scale.reshape(-1))
        np.testing.assert_array_equal(found[kind][2], bias.integers)
        assert np.abs(kernel.integers).max() == 7 * 16  # 4 bits, shifted up by 2^4
        assert len(np.unique(kernel.integers)) <= 8


@pytest.mark.parametrize("order", ["pqat", "cqat", "pcqat"])
def test_zeros_and_codebooks_are_kept_in_the_file(order):
    model = build("conv_bn_relu")
    x, y = data(model, 96), np.arange(96) % 4
    if "p" in order:
        model = kc.prune_low_magnitude(model, kc.ConstantSparsity(0.75, begin_step=0))
        _fit(model, x, y)
    if order.startswith(("c", "pc")):
        model = kc.cluster_weights(model, 8)
        _fit(model, x, y)
    model = kc.quantize_model(model)
    _fit(model, x, y)
    # The zeros of units that pruning left without effect are not in the final file.
    stats = kc.inspect_tflite(kc.convert(model).plain)
    for tensor in stats.weights:
        if "p" in order:
            assert tensor.sparsity >= 0.70
        if "c" in order.removeprefix("p")[:1]:
            assert tensor.distinct_values <= 8


def _fit(model, x, y):
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    model.fit(x, y, batch_size=32, epochs=2, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "representative_dataset.*mode.*float16"),
        ({"mode": "int4"}, "Expected `mode` out of"),
        ({"mode": "float32", "target": "phone"}, "Expected `target` out of"),
        ({"mode": "dynamic", "target": "tflm"}, "tflm.*runs.*Received: mode='dynamic'"),
        ({"mode": "float32", "io": "int8"}, "Expected `io` out of"),
        ({"mode": "float32", "weights_storage": "zip"}, "Expected `weights_storage` out of"),
        ({"mode": "int8"}, "ranges never trained"),
    ],
)
def test_arguments_are_refused_with_what_would_do(plain, arguments, message):
    with pytest.raises(ValueError, match=message):
        kc.convert(plain, **arguments)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (np.zeros((4, 9, 9, 3), np.float32), r"shape \(batch, 8, 8, 3\).*Received: shape \(4, 9, 9, 3\)"),
        (np.zeros((4, 8, 8, 3), np.uint8), "dtype float32.*Received: uint8"),
        (np.full((4, 8, 8, 3), np.nan, np.float32), "finite.*NaN"),
        (np.zeros((0, 8, 8, 3), np.float32), "empty"),
        (lambda: iter(()), "empty"),
        (lambda: iter([[np.zeros((1, 8, 8, 3), np.float32)] * 2]), "Expected 1 inputs.*Received: 2"),
        (7, "Expected data as an array.*Received: int"),
    ],
)
def test_representative_data_that_do_not_fit(plain, dataset, message):
    with pytest.raises(ValueError, match=message):
        kc.convert(plain, representative_dataset=dataset)


def test_forms_of_representative_data_are_equal(plain):
    import tensorflow as tf

    x = data(plain)
    contents = {
        kc.convert(plain, representative_dataset=form).content
        for form in (
            x,
            [x],
            {"image": x},
            tf.data.Dataset.from_tensor_slices((x, np.arange(len(x)))).batch(10),
            lambda: ([row[None]] for row in x),
            lambda: iter([x[:40], x[40:]]),
        )
    }
    assert len(contents) == 1


def test_an_unsupported_layer_is_named_before_any_converter_runs():
    model = keras.Sequential([keras.Input((8, 8, 8, 4)), L.Conv3D(3, 2, name="volume"), L.Flatten(), L.Dense(2)])
    with pytest.raises(ValueError, match="integer kernels.*Received: Conv3D at 'volume'"):
        kc.convert(model, representative_dataset=np.random.default_rng(0).normal(size=(4, 8, 8, 8, 4)))


def test_the_model_is_untouched_and_a_path_that_cannot_be_written_leaves_nothing(plain, tmp_path):
    before = [np.array(v) for v in plain.variables]
    artifact = kc.convert(plain, representative_dataset=data(plain))
    for old, variable in zip(before, plain.variables, strict=True):
        np.testing.assert_array_equal(old, np.array(variable))
    with pytest.raises(FileNotFoundError, match="missing"):
        artifact.save(tmp_path / "missing" / "model.tflite")
    assert list(tmp_path.iterdir()) == []


def test_what_training_did_not_finish_is_said():
    model = kc.prune_low_magnitude(
        build("three_outputs"), kc.PolynomialDecay(0, 0.5, begin_step=0, end_step=10), filters="body"
    )
    with pytest.warns(UserWarning, match="body: pruning has not begun"):
        kc.convert(model, mode="float32")


def test_the_policy_that_a_program_trains_with_does_not_matter():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential([keras.Input((6, 6, 3)), L.Conv2D(4, 3, activation="relu"), L.Flatten(), L.Dense(3)])
        x = np.random.default_rng(0).normal(size=(8, 6, 6, 3)).astype(np.float32)
        artifact = kc.convert(model, representative_dataset=x)
        assert keras.config.dtype_policy().name == "mixed_float16"
    finally:
        keras.config.set_dtype_policy("float32")
    assert artifact.content == kc.convert(model, representative_dataset=x).content


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_a_transposed_convolution_without_bias_takes_its_relu(target):
    inputs = keras.Input((5, 5, 2))
    y = keras.layers.Conv2DTranspose(3, 3, strides=2, activation="relu", use_bias=False)(inputs)
    model = keras.Model(inputs, keras.layers.Conv2D(4, 3)(y))
    x = np.random.default_rng(0).random((64, 5, 5, 2), np.float32)
    artifact = kc.convert(model, target, representative_dataset=x, io="int8", strict=True)
    assert artifact.stats.operators == {"CONV_2D": 1, "TRANSPOSE_CONV": 1}
    assert kc.verify(artifact, None, x).ok
