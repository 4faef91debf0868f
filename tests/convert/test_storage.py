"""Weights of 4 and 2 bits: decided, frozen, packed, read back, and computed by every kernel as their integers."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.convert.read_back import check_integers
from keras_compress.runtime.kernels import runner_of
from keras_compress.tflite.flatbuffer import Graph, read_model, write_model
from keras_compress.tflite.grids import ConstantGrid
from keras_compress.tflite.packing import bits_needed, pack, spare_bits, unpack
from keras_compress.tflite.storage import Storage, runs_as_convolution

L = keras.layers
KERNELS = {"litert": ("xnnpack", "builtin", "reference"), "tflm": ("tflm",)}


def net():
    keras.utils.set_random_seed(5)
    x = keras.Input((8, 8, 3), name="x")
    y = L.Conv2D(6, 3, activation="relu", bias_initializer="normal", name="conv")(x)
    y = L.ReLU(name="relu")(L.BatchNormalization(name="bn")(L.DepthwiseConv2D(3, name="dw")(y)))
    y = L.Dense(12, activation="relu", bias_initializer="normal", name="hidden")(L.Flatten(name="flat")(y))
    return keras.Model(x, L.Dense(5, name="out")(y))


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(2).normal(size=(64, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def trained():
    """The net with 4- and with 2-bit weights."""
    return {bits: kc.quantize_model(net(), weights=f"int{bits}") for bits in (4, 2)}


@pytest.fixture(scope="module")
def artifacts(trained, x):
    return {
        (bits, target, storage): kc.convert(trained[bits], target, representative_dataset=x, weights_storage=storage)
        for bits, target, storage in (
            (4, "litert", "int4"),
            (4, "litert", "auto"),
            (4, "litert", "int8"),
            (4, "tflm", "int4"),
            (4, "tflm", "auto"),
            (2, "litert", "int2"),
            (2, "tflm", "int4"),
            (2, "tflm", "int2"),
        )
    }


def weights_of(content):
    """Operator, type, bytes and number of each weight, in the order of use."""
    return [(w.op, w.dtype, w.bytes, w.elements) for w in kc.inspect_tflite(content).weights]


def as_int8(content):
    """The same file with its packed weights as int8."""
    model = read_model(content)
    graph = Graph(model)
    for number, tensor in enumerate(graph.tensors):
        if graph.dtype(number) in ("int4", "int2"):
            stored = graph.add_constant("unpacked", graph.constant(number))
            tensor.buffer, tensor.type = graph.tensors[stored].buffer, graph.tensors[stored].type
    return write_model(model)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (
            (4, "litert", "int4"),
            [
                ("CONV_2D", "INT4", 81, 162),
                ("DEPTHWISE_CONV_2D", "INT4", 27, 54),
                ("FULLY_CONNECTED", "INT4", 576, 1152),
                ("FULLY_CONNECTED", "INT4", 30, 60),
            ],
        ),
        (
            (4, "litert", "auto"),
            [
                ("CONV_2D", "INT8", 162, 162),
                ("DEPTHWISE_CONV_2D", "INT8", 54, 54),
                ("FULLY_CONNECTED", "INT4", 576, 1152),
                ("FULLY_CONNECTED", "INT4", 30, 60),
            ],
        ),
        (
            (4, "tflm", "int4"),
            [
                ("CONV_2D", "INT4", 81, 162),
                ("DEPTHWISE_CONV_2D", "INT4", 27, 54),
                ("CONV_2D", "INT4", 576, 1152),
                ("CONV_2D", "INT4", 30, 60),
            ],
        ),
        (
            (2, "litert", "int2"),
            [
                ("CONV_2D", "INT8", 162, 162),
                ("DEPTHWISE_CONV_2D", "INT8", 54, 54),
                ("FULLY_CONNECTED", "INT2", 288, 1152),
                ("FULLY_CONNECTED", "INT2", 15, 60),
            ],
        ),
    ],
)
def test_packed_weights_take_half_and_a_quarter_of_the_bytes(artifacts, key, expected):
    assert weights_of(artifacts[key].content) == expected


@pytest.mark.parametrize("key", [(4, "litert", "int8"), (4, "tflm", "auto"), (2, "tflm", "int2")])
def test_nothing_is_packed_where_it_was_not_asked_or_would_cost_or_is_not_taken(artifacts, key):
    assert {dtype for _, dtype, _, _ in weights_of(artifacts[key].content)} == {"INT8"}


@pytest.mark.parametrize(
    "key", [(4, "litert", "int4"), (4, "litert", "auto"), (4, "tflm", "int4"), (2, "tflm", "int4")]
)
def test_the_deployed_model_is_the_frozen_one(artifacts, trained, x, key):
    bits, target, _ = key
    artifact = artifacts[key]
    found = kc.verify(artifact, None, x, kernels=KERNELS[target])
    assert found.ok
    assert len(found.rows) == 5 * len(KERNELS[target])
    for kernel in KERNELS[target]:
        outputs = runner_of(kernel).run(artifact.content, [x])[0]
        frozen = artifact.frozen.predict(x, verbose=0)
        assert np.ptp(outputs, axis=0).min() > 0.1
        np.testing.assert_allclose(outputs, frozen, atol=0.05 * np.abs(frozen).max())


def test_int2_runs_on_litert_as_frozen(artifacts, x):
    assert kc.verify(artifacts[2, "litert", "int2"], None, x, kernels=KERNELS["litert"]).ok


@pytest.mark.parametrize("key", [(4, "litert", "int4"), (4, "tflm", "int4"), (2, "litert", "int2")])
def test_a_packed_weight_computes_what_its_integers_compute_as_int8(artifacts, x, key):
    content = artifacts[key].content
    plain = as_int8(content)
    assert {dtype for _, dtype, _, _ in weights_of(plain)} == {"INT8"}
    # XNNPACK takes the int8 convolutions, which it leaves to the built-in kernels where they are packed.
    for kernel in set(KERNELS[key[1]]) - {"xnnpack"}:
        runner = runner_of(kernel)
        got, expected = runner.run(content, [x])[0], runner.run(plain, [x])[0]
        np.testing.assert_array_equal(got, expected)
        assert np.ptp(got) > 0.1


def test_dense_layers_as_convolutions_compute_what_dense_layers_do_on_tflm(lab):
    keras.utils.set_random_seed(2)
    inputs = keras.Input((5, 6))
    hidden = L.Dense(7, activation="relu", use_bias=False, name="rows")(inputs)
    model = keras.Model(inputs, L.Dense(3, bias_initializer="normal", name="out")(L.Flatten()(hidden)))
    x = np.random.default_rng(0).normal(size=(64, 5, 6)).astype(np.float32)
    model = kc.quantize_model(model, weights="int4")
    packed = kc.convert(model, "tflm", representative_dataset=x, weights_storage="int4")
    dense = kc.convert(packed.frozen, "tflm", weights_storage="int8")
    assert lab.operators(packed.content).count("CONV_2D") == 2
    assert "FULLY_CONNECTED" not in lab.operators(packed.content)
    assert lab.operators(dense.content).count("FULLY_CONNECTED") == 2
    assert [note.split(" at ")[0] for note in packed.notes] == ["CONV_2D", "CONV_2D"]
    runner = runner_of("tflm")
    got, expected = (runner.run(artifact.content, [x])[0] for artifact in (packed, dense))
    np.testing.assert_array_equal(got, expected)
    assert np.ptp(got, axis=0).min() > 0.5
    assert kc.verify(packed, None, x).ok


def test_a_dense_layer_with_one_scale_stays_one_on_tflm(lab):
    keras.utils.set_random_seed(2)
    inputs = keras.Input((9,))
    model = keras.Model(inputs, L.Dense(5, name="out")(inputs))
    x = np.random.default_rng(0).normal(size=(64, 9)).astype(np.float32)
    model = kc.quantize_model(model, weights=kc.UniformQuantizer(4, per_channel=False))
    artifact = kc.convert(model, "tflm", representative_dataset=x, weights_storage="int4", strict=True)
    assert weights_of(artifact.content) == [("FULLY_CONNECTED", "INT4", 23, 45)]
    assert kc.verify(artifact, None, x).ok


def test_permuted_packed_weights_fail_the_verification(artifacts, x):
    artifact = artifacts[4, "litert", "int4"]
    model = read_model(artifact.content)
    graph = Graph(model)
    op = next(op for op in graph.operators if graph.kind(op) == "FULLY_CONNECTED")
    buffer = model.buffers[graph.tensors[op.inputs[1]].buffer]
    buffer.data = np.ascontiguousarray(buffer.data)[::-1].copy()
    broken = kc.Artifact(write_model(model), "litert", "int8", "float32", artifact.frozen, artifact.points)
    found = kc.verify(broken, None, x, strict=False)
    assert found.first_failure.name == "hidden_quantized"
    model.buffers[graph.tensors[op.inputs[1]].buffer].data = buffer.data


def test_reading_back_compares_packed_integers_and_their_type(trained, x):
    from keras_compress.convert.export import export
    from keras_compress.ir.emit import emit

    frozen = kc.freeze(trained[4], x, storage=Storage("int4"))
    weights = emit(export(frozen, Storage("int4")).graph).weights.values()
    content = kc.convert(frozen, weights_storage="int4").content
    check_integers(content, "int8", weights, frozen)
    with pytest.raises(ValueError, match="'conv/kernel' stored as int4. Received: int8"):
        check_integers(as_int8(content), "int8", weights, frozen)
    model = read_model(content)
    graph = Graph(model)
    weight = graph.operators[1].inputs[1]
    data = np.array(model.buffers[graph.tensors[weight].buffer].data)
    data[0] ^= 0x10
    model.buffers[graph.tensors[weight].buffer].data = data
    with pytest.raises(ValueError, match="frozen integers in the file. Received: other ones"):
        check_integers(write_model(model), "int8", weights, frozen)


def test_freezing_shifts_only_what_stays_int8(trained, x):
    packed = kc.freeze(trained[4], x, storage=Storage("auto"))
    kept = kc.freeze(trained[4], x)
    for name in ("conv", "dw", "hidden", "out"):
        small, spread = (m.get_layer(name).transforms["kernel"][-1].integer_weight() for m in (packed, kept))
        assert np.abs(spread.integers).max() == 7 * 16
        assert np.abs(small.integers).max() == (7 if name in ("hidden", "out") else 7 * 16)
        np.testing.assert_array_equal(small.floats(), spread.floats())


def test_verify_freezes_a_trained_model_for_the_same_storage(x):
    model = kc.quantize_model(net(), weights="int4")
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(x, np.zeros((len(x), 5)), epochs=1, verbose=0)
    artifact = kc.convert(model, weights_storage="int4")
    again = kc.verify(artifact, model, x, kernels=["reference"])
    assert again.rows == kc.verify(artifact, None, x, kernels=["reference"]).rows


def test_a_frozen_model_keeps_the_integers_that_it_has(trained, x):
    frozen = kc.freeze(trained[4], x)
    artifact = kc.convert(frozen, weights_storage="int4")
    assert {dtype for _, dtype, _, _ in weights_of(artifact.content)} == {"INT8"}
    assert artifact.notes[0].endswith("hidden/kernel, out/kernel: its integers are shifted up, and its bias with them")
    assert artifact.content == kc.convert(frozen, weights_storage="int8").content


def test_what_stays_int8_is_noted_with_the_reason(artifacts):
    assert artifacts[4, "litert", "int4"].notes == ()
    assert artifacts[4, "litert", "int8"].notes == ()
    assert artifacts[4, "litert", "auto"].notes == (
        "int8, not int4, for conv/kernel, dw/kernel: LiteRT computes it with slow built-in kernels",
    )
    assert artifacts[2, "litert", "int2"].notes == (
        "int8, not int2, for conv/kernel: LiteRT has no CONV_2D with INT2 weights",
        "int8, not int2, for dw/kernel: LiteRT has no DEPTHWISE_CONV_2D with INT2 weights",
    )
    assert artifacts[2, "tflm", "int2"].report()["notes"][2] == (
        "int8, not int2, for hidden/kernel, out/kernel: TFLite-Micro has no FULLY_CONNECTED with INT2 weights"
    )
    assert artifacts[2, "tflm", "int2"].report()["weights_storage"] == "int2"


def test_strict_raises_for_a_weight_that_is_not_packed(trained, x):
    with pytest.raises(ValueError, match=r"packed weights only.*Received: int8, not int2, for conv/kernel"):
        kc.convert(trained[2], representative_dataset=x, weights_storage="int2", strict=True)
    with pytest.raises(ValueError, match="for conv/kernel, dw/kernel, hidden/kernel, out/kernel: its integers need 8"):
        kc.convert(net(), representative_dataset=x, weights_storage="int4", strict=True)
    kc.convert(trained[4], representative_dataset=x, weights_storage="int4", strict=True)
    kc.convert(trained[4], representative_dataset=x, weights_storage="auto", strict=True)


@pytest.mark.parametrize("mode", ["16x8", "dynamic", "float32"])
def test_packed_weights_are_for_int8_activations(trained, x, mode):
    with pytest.raises(ValueError, match="Expected mode='int8' for weights_storage='int4'. Received: mode="):
        kc.convert(net(), mode=mode, representative_dataset=x, weights_storage="int4")


def test_transposed_convolutions_stay_int8(x):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, L.Conv2DTranspose(4, 3, strides=2, name="up")(inputs))
    for target, runtime in (("litert", "LiteRT"), ("tflm", "TFLite-Micro")):
        artifact = kc.convert(
            kc.quantize_model(model, weights="int4"), target, representative_dataset=x, weights_storage="int4"
        )
        assert weights_of(artifact.content)[0][1] == "INT8"
        assert artifact.notes[0] == f"int8, not int4, for up/kernel: {runtime} has no TRANSPOSE_CONV with INT4 weights"
        assert [note for note in artifact.notes[1:] if "one sample at a time" not in note] == []


def test_equal_numbers_are_stored_as_each_layer_wants():
    keras.utils.set_random_seed(3)
    inputs = keras.Input((1, 1, 4))
    conv, dense = L.Conv2D(4, 1, name="conv"), L.Dense(4, name="dense")
    model = keras.Model(inputs, dense(L.Flatten()(conv(inputs))))
    kernel = keras.ops.convert_to_numpy(dense.kernel)
    # (outputs, inputs) of the one are those of the other.
    conv.kernel.assign(kernel.reshape(1, 1, 4, 4))
    x = np.random.default_rng(0).normal(size=(32, 1, 1, 4)).astype(np.float32)
    artifact = kc.convert(kc.quantize_model(model, weights="int2"), representative_dataset=x, weights_storage="int2")
    assert sorted(dtype for _, dtype, _, _ in weights_of(artifact.content)) == ["INT2", "INT8"]
    assert "int8, not int2, for conv/kernel: LiteRT has no CONV_2D with INT2 weights" in artifact.notes
    assert kc.verify(artifact, None, x).ok


def test_packing_is_low_bits_first():
    integers = np.array([[1, -2, 7], [-7, 0, -1]], np.int8)
    assert pack(integers, 4).tolist() == [0xE1, 0x97, 0xF0]
    assert pack(np.array([1, -1, 0, 1, -1], np.int8), 2).tolist() == [0b01001101, 0b11]
    for bits in (4, 2):
        top = 2 ** (bits - 1) - 1
        values = np.random.default_rng(0).integers(-top, top + 1, 1001).astype(np.int8)
        packed = pack(values, bits)
        assert packed.size == -(-1001 * bits // 8)
        np.testing.assert_array_equal(unpack(packed, bits)[:1001], values)


def test_widths_of_integers():
    assert [bits_needed(np.array(v, np.int8)) for v in ([0], [1, -1], [2], [7, -7], [-8], [-128])] == [1, 2, 3, 4, 5, 9]
    assert [spare_bits(np.array(v, np.int8)) for v in ([0], [3, 4], [-64, 16], [-128])] == [0, 0, 4, 7]


def test_the_table():
    grid = ConstantGrid("w", np.ones((3, 8), np.int8) * 7, np.ones(3, np.float32), 0)
    odd = ConstantGrid("w", np.ones((3, 7), np.int8), np.ones(3, np.float32), 0)
    wide = ConstantGrid("w", np.ones((3, 8), np.int8) * 9, np.ones(3, np.float32), 0)
    assert Storage("auto").of("FULLY_CONNECTED", grid) == (4, None)
    assert Storage("int2").of("FULLY_CONNECTED", grid) == (8, "its integers need 4 bits")
    assert Storage("int2").of("FULLY_CONNECTED", odd) == (2, None)
    assert Storage("int4").of("FULLY_CONNECTED", odd) == (4, None)
    assert Storage("auto").of("FULLY_CONNECTED", odd)[0] == 8
    assert Storage("auto").of("FULLY_CONNECTED", wide) == (8, None)
    assert Storage("int8").of("FULLY_CONNECTED", grid) == (8, None)
    assert Storage("int4", "tflm").of("GATHER", grid) == (8, "TFLite-Micro has no GATHER with INT4 weights")
    assert [runs_as_convolution("tflm", "FULLY_CONNECTED", 4, n) for n in (1, 2)] == [False, True]
    assert not runs_as_convolution("litert", "FULLY_CONNECTED", 4, 2)
