"""Files whose weights are stored compressed: what TFLite-Micro runs, and the way back to the plain file."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from keras import layers
from tests_integer_nets import IntegerNet

import keras_compress as kc
from keras_compress.convert.compressed import compress_content
from keras_compress.runtime.target import target
from keras_compress.tflite import inspection
from keras_compress.tflite.encoding.codec import Form
from keras_compress.tflite.encoding.known import DECODE, codecs, decoded
from keras_compress.tflite.flatbuffer import Graph, read_model, write_model
from keras_compress.tflite.passes import expand
from keras_compress.tflite.passes.encode_weights import encode_weights

STORAGES = ("auto", "lut", "bitmap", "huffman")


def few_values(shape, axis, seed):
    """Four in five are zero, the others out of 14 levels, the largest of which each channel has."""
    generator = np.random.default_rng(seed)
    levels = generator.integers(-7, 8, shape) * (generator.random(shape) < 0.2)
    first = [slice(None) if i == axis % len(shape) else 0 for i in range(len(shape))]
    levels[tuple(first)] = 7
    return (levels * 0.1).astype(np.float32)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).random((200, 8, 8, 3), np.float32)


@pytest.fixture(scope="module")
def model():
    """Convolution, depthwise, transposed convolution and dense layers: every operator that has weights."""
    inputs = keras.Input((8, 8, 3))
    y = layers.Conv2D(16, 3, activation="relu", name="conv")(inputs)
    y = layers.DepthwiseConv2D(3, name="depthwise")(y)
    y = layers.Conv2DTranspose(12, 3, name="transposed")(y)
    y = layers.Flatten()(y)
    y = layers.Dense(40, activation="relu", name="hidden")(y)
    made = keras.Model(inputs, layers.Dense(10, name="logits")(y))
    for seed, (name, axis) in enumerate(
        [("conv", 3), ("depthwise", 2), ("transposed", 2), ("hidden", 1), ("logits", 1)]
    ):
        layer = made.get_layer(name)
        layer.kernel.assign(few_values(layer.kernel.shape, axis, seed))
        layer.bias.assign(np.linspace(-0.1, 0.1, layer.bias.shape[0], dtype=np.float32))
    return made


@pytest.fixture(scope="module")
def artifacts(model, x):
    return {
        storage: kc.convert(model, "tflm", representative_dataset=x, weights_storage=storage)
        for storage in ("int8", *STORAGES)
    }


def operators_of_one_stream(shapes):
    """Dense layers that no model has: each decodes the same stream to a weight of its own, of the same scale."""
    net = IntegerNet(1, 640)
    values = (np.arange(640) % 100).astype(np.int8).reshape(40, 16)
    encoded = codecs()["lut"].encode(values, Form(values.shape))
    output = net.activation("y", (1, 40), 0.1, 0)
    for number, shape in enumerate(shapes):
        pair = [net.graph.add_constant("", part) for part in (encoded.data, encoded.ancillary)]
        weight = net.graph.add_tensor(f"w{number}", shape, "int8")
        net.graph.set_quantization(weight, np.array([0.01], np.float32))
        decode = net.graph.make_operator("CUSTOM", pair, [weight], custom=DECODE)
        net.graph.operators = [*net.graph.operators, decode]
        net.add("FULLY_CONNECTED", [net.input, weight], output, schema.FullyConnectedOptionsT())
    return net.file(output)


def integers(content, x):
    """The file's int8 outputs, where all float operators were taken off."""
    return target("tflm").run(content, [x])[0]


@pytest.mark.parametrize("storage", STORAGES)
def test_the_encoded_file_gives_the_same_outputs_and_expands_to_the_plain_one(artifacts, storage, x):
    plain, encoded = artifacts["int8"].content, artifacts[storage].content
    assert len(encoded) < 0.75 * len(plain)
    np.testing.assert_array_equal(integers(encoded, x), integers(plain, x))
    assert len(np.unique(integers(encoded, x))) > 50
    assert kc.expand(encoded) == plain
    assert kc.expand(artifacts[storage]).content == plain
    assert kc.verify(artifacts[storage], None, x, kernels=["tflm", "reference"]).ok


def test_auto_takes_the_smallest_for_each_tensor(artifacts):
    stats = kc.inspect_tflite(artifacts["auto"].content, alternatives=True)
    assert {weight.op: weight.storage for weight in stats.weights} == {
        "CONV_2D": "huffman",
        "DEPTHWISE_CONV_2D": "raw",
        "TRANSPOSE_CONV": "huffman",
        "FULLY_CONNECTED": "huffman",
    }
    for weight in stats.weights:
        others = dict(weight.alternatives)
        assert set(others) == {"raw", "lut", "bitmap", "huffman"}
        assert weight.bytes == others[weight.storage]
        if weight.storage != "raw":
            assert weight.bytes == min(others.values())
            assert weight.bits_per_weight > weight.entropy_bits
        assert weight.sparsity > 0.5
    assert len(artifacts["auto"].content) <= min(len(artifacts[s].content) for s in ("lut", "bitmap", "huffman"))


def test_the_largest_decoded_weight_is_reported(artifacts):
    assert artifacts["auto"].report()["largest_decoded"] == {"tensor": "hidden/kernel", "bytes": 37 * 6 * 6 * 12}
    assert artifacts["int8"].report()["largest_decoded"] is None


def test_what_stays_is_said(artifacts):
    (note,) = [note for note in artifacts["auto"].notes if "depthwise" in note]
    assert note.startswith("not encoded: depthwise/kernel: 144 bytes as it is, ")


def test_by_default_nothing_is_encoded(model, x, artifacts):
    assert kc.convert(model, "tflm", representative_dataset=x).content == artifacts["int8"].content


def test_every_encoding_of_weights_and_biases_even_where_it_does_not_pay(artifacts, x):
    plain = artifacts["int8"].content
    for storage in ("lut", "bitmap"):
        graph = Graph(read_model(plain))
        assert encode_weights(graph, storage, always=True) == []
        content = write_model(graph.model)
        decoded = [len(op.outputs) for op in graph.operators if graph.custom_name(op) == DECODE]
        assert decoded == [2, 2, 2, 2, 2], "a weight and a bias for each operator"
        np.testing.assert_array_equal(integers(content, x), integers(plain, x))
        assert kc.expand(content) == plain


def test_sixteen_bit_activations(model, x):
    few = x[:20]
    plain = kc.convert(model, "tflm", mode="16x8", representative_dataset=x).content
    encoded = kc.convert(model, "tflm", mode="16x8", representative_dataset=x, weights_storage="auto").content
    assert len(encoded) < len(plain)
    np.testing.assert_array_equal(integers(encoded, few), integers(plain, few))


def test_a_weight_of_two_layers_is_stored_once_and_decoded_for_each(x):
    inputs = keras.Input((8, 8, 3))
    shared = layers.Dense(3, name="shared")
    y = layers.Flatten()(shared(shared(inputs)))
    twice = layers.Dense(64, name="twice", use_bias=False)
    logits = twice(layers.Dense(64, activation="relu", name="between")(twice(layers.Dense(64, name="first")(y))))
    model = keras.Model(inputs, logits)
    for seed, name in enumerate(["first", "twice", "between"]):
        kernel = model.get_layer(name).kernel
        kernel.assign(few_values(kernel.shape, 1, seed))
    plain, encoded = (
        kc.convert(model, "tflm", representative_dataset=x, weights_storage=storage).content
        for storage in ("int8", "auto")
    )
    graph = Graph(read_model(encoded))
    streams = [op.inputs[0] for op in graph.operators if graph.custom_name(op) == DECODE]
    assert len(streams) == 4
    assert len(set(streams)) == 3
    np.testing.assert_array_equal(integers(encoded, x), integers(plain, x))
    assert kc.expand(encoded) == plain


def test_a_third_party_file(artifacts, model, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(artifacts["int8"].content)
    assert kc.compress_tflite(path) == artifacts["auto"].content
    # One that is encoded already is expanded first.
    assert kc.compress_tflite(artifacts["lut"].content, "huffman") == artifacts["huffman"].content
    with pytest.raises(ValueError, match="Expected `weights_storage` out of"):
        kc.compress_tflite(path, "int4")
    with pytest.raises(ValueError, match="Expected a file with integer weights"):
        kc.compress_tflite(kc.convert(model, mode="float32").content)


@pytest.mark.parametrize("missing", ["scales of the bias", "zero points"])
def test_a_third_party_file_without_what_the_runtime_can_do_without(missing):
    rng = np.random.default_rng(5)
    net = IntegerNet(1, 8, 8, 8)
    values = rng.integers(-60, 60, (32, 3, 3, 8)) * (rng.random((32, 3, 3, 8)) < 0.2)
    y = net.conv(net.input, values, rng.integers(-500, 500, 32), scales=rng.uniform(0.001, 0.01, 32))
    whole = net.file(y)
    weight, bias = (net.graph.tensors[t] for t in net.graph.operators[0].inputs[1:])
    if missing == "zero points":
        weight.quantization.zeroPoint = np.zeros(1, np.int64)
    else:
        bias.quantization = None
    encoded = kc.compress_tflite(net.file(y))
    assert encoded == kc.compress_tflite(whole)
    assert kc.expand(encoded) == whole


def test_verify_notices_a_file_that_is_another(artifacts, model, x):
    graph = Graph(read_model(artifacts["int8"].content))
    bias = next(op.inputs[2] for op in graph.operators if graph.kind(op) == "FULLY_CONNECTED")
    graph.set_constant(bias, graph.constant(bias) + 1000)
    other = compress_content(write_model(graph.model), "auto", encode=True).content
    wrong = replace(artifacts["auto"], content=other)
    with pytest.raises(kc.VerificationError, match="Expected the compressed file to give the outputs of the plain one"):
        kc.verify(wrong, None, x[:20])


def test_damaged_streams_are_refused_by_name(artifacts):
    content = artifacts["huffman"].content
    graph = Graph(read_model(content))
    stream, tables = next(op.inputs[:2] for op in graph.operators if graph.custom_name(op) == DECODE)
    kept = graph.constant(tables).copy()
    for position in (0, 5):
        changed = kept.copy()
        changed[position] ^= 0x5A
        graph.set_constant(tables, changed)
        with pytest.raises(ValueError, match="Could not decode '.*kernel'"):
            kc.expand(write_model(graph.model))
    graph.set_constant(tables, kept)
    graph.set_constant(stream, graph.constant(stream)[:8])
    with pytest.raises(ValueError, match="Could not decode '.*kernel'"):
        kc.expand(write_model(graph.model))
    with pytest.raises(ValueError, match="Expected a valid .tflite file"):
        kc.inspect_tflite(write_model(graph.model))


def test_a_stream_that_many_operators_read_is_decoded_once(monkeypatch):
    read = []

    def counted(data, ancillary, form):
        read.append(form)
        return decoded(data, ancillary, form)

    for module in (inspection, expand):
        monkeypatch.setattr(module, "decoded", counted)
    for shapes, readings in (([(40, 16)] * 90, 1), ([(40, 16), (20, 32)] * 45, 2)):
        content = operators_of_one_stream(shapes)
        read.clear()
        stats = kc.inspect_tflite(content, alternatives=True)
        assert len(read) == readings
        assert [weight.shape for weight in stats.weights] == shapes
        assert len({id(weight.alternatives) for weight in stats.weights}) == 90
        read.clear()
        plain = kc.expand(content)
        assert len(read) == readings
        assert [weight.shape for weight in kc.inspect_tflite(plain).weights] == shapes
    many = operators_of_one_stream([(rows, 640 // rows) for rows in (1, 2, 4, 5, 8, 10)] * 20)
    with pytest.raises(ValueError, match="too many other tensors read its stream"):
        kc.expand(many)


def test_bad_arguments(model, x):
    with pytest.raises(ValueError, match="Expected target='tflm' and mode 'int8' or '16x8' for weights_storage='lut'"):
        kc.convert(model, representative_dataset=x, weights_storage="lut")
    with pytest.raises(ValueError, match="Expected target='tflm' and mode"):
        kc.convert(model, "tflm", mode="float32", weights_storage="huffman")
    with pytest.raises(ValueError, match="Expected `max_arena_bytes` >= 1"):
        kc.convert(model, representative_dataset=x, max_arena_bytes=10_000)
    with pytest.raises(ValueError, match="Expected a valid .tflite file"):
        kc.expand(b"not a model at all")


def test_computed_weights_packed_ones_and_empty_ones_stay(artifacts):
    graph = Graph(read_model(artifacts["int8"].content))
    dense = [op for op in graph.operators if graph.kind(op) == "FULLY_CONNECTED"]
    # Packed.
    small = np.clip(graph.constant(dense[0].inputs[1]), -7, 7)
    graph.set_constant(dense[0].inputs[1], small)
    graph.pack_constant(dense[0].inputs[1], 4)
    # Computed: an operator makes it.
    graph.free_constant(dense[1].inputs[1])
    notes = encode_weights(graph, "auto")
    assert any("hidden/kernel: it is packed as int4" in note for note in notes)
    assert any("logits/kernel: it is computed, not constant" in note for note in notes)


def test_the_file_for_an_ethos_u_is_the_plain_one(model, x, artifacts):
    artifact = kc.convert(model, "ethos_u", representative_dataset=x)
    assert artifact.content == artifacts["int8"].content
    assert (artifact.target, artifact.runtime, artifact.report()["target"]) == ("ethos_u", "tflm", "ethos_u")
    assert kc.verify(artifact, None, x[:50]).ok
    with pytest.raises(ValueError, match="Expected weights_storage='int8' for target='ethos_u'"):
        kc.convert(model, "ethos_u", representative_dataset=x, weights_storage="auto")
    with pytest.raises(ValueError, match="Expected a mode that target 'ethos_u' runs"):
        kc.convert(model, "ethos_u", mode="float32")
