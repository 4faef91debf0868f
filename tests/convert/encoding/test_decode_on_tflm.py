"""What the codecs wrote, decoded by TFLite-Micro."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_compress.tflite.encoding.codec import Encoded, Form, header
from keras_compress.tflite.encoding.known import DECODE, codecs
from keras_compress.tflite.flatbuffer import Graph, read_model, write_model
from keras_compress.tflite.passes.encode_weights import encode_weights

runtime = pytest.importorskip("tflite_micro").runtime

NAMES = ("bitmap", "huffman", "lut")
_ALL = ("bool", "int8", "int16", "int32", "int64", "float32")
DTYPES = {"huffman": ("int8", "int16"), "lut": _ALL, "bitmap": _ALL}
# Along the first axis, along the last, one for all, none.
SCALES = {"first": (6, 0), "last": (7, 2), "one": (1, 0), "none": (0, 0)}


def new_graph():
    model, subgraph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.operatorCodes, model.subgraphs = 3, [schema.BufferT()], [], [subgraph]
    subgraph.tensors, subgraph.operators, subgraph.inputs, subgraph.outputs = [], [], [], []
    return Graph(model)


def computed(graph, name, shape, dtype="int8", scale=0.5, zero_point=0):
    tensor = graph.add_tensor(name, shape, dtype)
    graph.set_quantization(tensor, np.float32([scale]), zero_point)
    return tensor


def finished(graph, operators, inputs, outputs):
    graph.operators = operators
    graph.set_interface(inputs, outputs)
    return write_model(graph.model)


def run(content, samples):
    """First output for each sample of the one input."""
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=1 << 18)
    rows = []
    for sample in samples:
        interpreter.set_input(sample, 0)
        interpreter.invoke()
        rows.append(np.array(interpreter.get_output(0)))
    return np.stack(rows)


def decoded(encoded, form):
    """The constant as the runtime gives it out; a model needs some other operator that reads its input."""
    graph = new_graph()
    x, y = computed(graph, "x", (1, 4)), computed(graph, "y", (1, 4))
    stored = [graph.add_constant("", encoded.data), graph.add_constant("", encoded.ancillary)]
    weight = graph.add_tensor("w", form.shape, form.dtype)
    if form.scale_count:
        graph.set_quantization(weight, np.full(form.scale_count, 0.5, np.float32), form.zero_point, form.dimension)
        graph.tensors[weight].quantization.quantizedDimension = form.dimension
    operators = [
        graph.make_operator("CUSTOM", stored, [weight], custom=DECODE),
        graph.make_operator("ABS", [x], [y], schema.AbsOptionsT()),
    ]
    return run(finished(graph, operators, [x], [weight, y]), np.zeros((1, 1, 4), np.int8))[0]


def some_values(shape, dtype, most, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.geometric(0.35, shape).clip(1, most + 1) - 2).astype(dtype)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize(("name", "dtype"), [(name, dtype) for name in NAMES for dtype in DTYPES[name]])
def test_types_and_scales(name, dtype, scales):
    codec, form = codecs()[name], Form((6, 5, 7), dtype, *SCALES[scales])
    assert codec.dtypes == DTYPES[name]
    for most in (1, 2, 5, 12):
        values = some_values(form.shape, dtype, most)
        encoded = codec.encode(values, form)
        np.testing.assert_array_equal(decoded(encoded, form), values)
    damaged = encoded.data.copy()
    damaged[:8] ^= 255
    assert not np.array_equal(decoded(Encoded(name, damaged, encoded.ancillary), form), values)


@pytest.mark.parametrize("bits", range(1, 8))
def test_lut_of_each_width_with_one_table_and_many(bits):
    lut, rng = codecs()["lut"], np.random.default_rng(bits)
    tables = np.stack([rng.permutation(256)[: 1 << bits] - 128 for _ in range(5)]).astype(np.int8)
    # Each table's entries at least once.
    rows = np.concatenate([tables, tables[:, rng.integers(0, 1 << bits, 300)]], axis=1)
    length = rows.shape[1]
    for values, form, stride in (
        (rows[0], Form((length,)), 0),
        (rows, Form((5, length), "int8", 5, 0), 1 << bits),
        (rows.T.copy(), Form((length, 5), "int8", 5, 1), 1 << bits),
    ):
        encoded = lut.encode(values, form)
        assert encoded.ancillary[5:7].tolist() == [bits, stride]
        np.testing.assert_array_equal(decoded(encoded, form), values)


def test_huffman_of_every_int8_value_and_of_deep_tables():
    huffman, rng = codecs()["huffman"], np.random.default_rng(1)
    counts = [1, 1]
    while len(counts) < 19:
        counts.append(counts[-1] + counts[-2])
    deep = rng.permutation(np.arange(19).repeat(counts)).astype(np.int8)
    skewed = rng.normal(0, 40, 30_000).round().clip(-128, 127).astype(np.int8)
    for values in (deep, skewed, rng.permutation(np.arange(256).repeat(5)).astype(np.int8), np.full(77, -9, np.int8)):
        form = Form(values.shape)
        np.testing.assert_array_equal(decoded(huffman.encode(values, form), form), values)


def test_huffman_with_a_first_table_of_16_bits_and_with_32_bit_entries_for_int8():
    form = Form((60,))
    bits = np.random.default_rng(2).integers(0, 2, 60)
    data = np.packbits(np.append(bits, np.zeros(36, np.int64)))
    for wide, leaf in ((0, 0x8800), (1, 0x88000000)):
        entries = np.repeat(np.array([leaf | 5, leaf | 9], "<u4" if wide else "<u2"), 1 << 15)
        encoded = Encoded("huffman", data, np.concatenate([header(1, 15 << 4 | wide), entries.view(np.uint8)]))
        np.testing.assert_array_equal(decoded(encoded, form), np.where(bits, 9, 5))
        np.testing.assert_array_equal(
            codecs()["huffman"].decode(encoded.data, encoded.ancillary, form), np.where(bits, 9, 5)
        )


@pytest.mark.parametrize("scales", ["first", "last", "one"])
def test_bitmap_with_a_zero_point(scales):
    form = Form((6, 5, 7), "int8", *SCALES[scales], zero_point=-3)
    values = some_values(form.shape, "int8", 5) - 2
    encoded = codecs()["bitmap"].encode(values.astype(np.int8), form)
    assert 0 < encoded.ancillary.size - 16 < 150
    np.testing.assert_array_equal(decoded(encoded, form), values)


@pytest.mark.parametrize("name", ["lut", "bitmap"])
@pytest.mark.parametrize("scales", [(5, 1), (1, 2)])
def test_the_runtime_refuses_the_axes_that_are_refused_here(name, scales, capfd):
    codec, form = codecs()[name], Form((6, 5, 7), "int8", *scales)
    values = some_values(form.shape, "int8", 5)
    assert codec.refusal(values, form) is not None
    encoded = codec.encode(values, Form(form.shape))
    with pytest.raises(RuntimeError):
        decoded(encoded, form)
    assert "unsupported quantization axis" in capfd.readouterr().err


# Shapes of input, weight and output; the weight's channel axis; and how many channels there are.
LAYERS = {
    "CONV_2D": ((1, 8, 8, 5), (6, 3, 3, 5), (1, 6, 6, 6), 0),
    "DEPTHWISE_CONV_2D": ((1, 8, 8, 10), (1, 3, 3, 10), (1, 6, 6, 10), 3),
    "FULLY_CONNECTED": ((1, 40), (12, 40), (1, 12), 0),
    "TRANSPOSE_CONV": ((1, 4, 4, 5), (6, 3, 3, 5), (1, 6, 6, 6), 0),
}


def options_of(kind):
    if kind == "FULLY_CONNECTED":
        return schema.FullyConnectedOptionsT()
    options = {
        "CONV_2D": schema.Conv2DOptionsT,
        "DEPTHWISE_CONV_2D": schema.DepthwiseConv2DOptionsT,
        "TRANSPOSE_CONV": schema.TransposeConvOptionsT,
    }[kind]()
    options.padding, options.strideH, options.strideW = schema.Padding.VALID, 1, 1
    if kind == "DEPTHWISE_CONV_2D":
        options.depthMultiplier, options.dilationHFactor, options.dilationWFactor = 1, 1, 1
    if kind == "CONV_2D":
        options.dilationHFactor, options.dilationWFactor = 1, 1
    return options


def layer(kind, per_channel):
    """A file of one operator with a sparse, clustered weight and a bias of few values."""
    input_shape, weight_shape, output_shape, axis = LAYERS[kind]
    rng = np.random.default_rng(zlib.crc32(kind.encode()))
    graph, channels = new_graph(), weight_shape[axis]
    x, y = computed(graph, "x", input_shape, zero_point=-4), computed(graph, "y", output_shape, scale=2.0, zero_point=3)
    weights = rng.choice(np.int8([-90, -40, 35, 80]), weight_shape) * (rng.random(weight_shape) < 0.4)
    scales = rng.uniform(0.005, 0.02, channels if per_channel else 1).astype(np.float32)
    weight = graph.add_constant("weight", weights.astype(np.int8))
    graph.set_quantization(weight, scales, 0, axis)
    bias = graph.add_constant("bias", rng.choice([0, 0, 700, -900], channels).astype(np.int32))
    graph.set_quantization(bias, scales * np.float32(0.5), 0, 0)
    inputs = [x, weight, bias]
    if kind == "TRANSPOSE_CONV":
        inputs = [graph.add_constant("shape", np.int32(output_shape)), weight, x, bias]
    operator = graph.make_operator(kind, inputs, [y], options_of(kind))
    if kind == "TRANSPOSE_CONV":
        graph.raise_version(operator, 3)
    return finished(graph, [operator], [x], [y])


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_layers_compute_what_they_did(kind, per_channel):
    plain = layer(kind, per_channel)
    samples = np.random.default_rng(4).integers(-128, 128, (20, *LAYERS[kind][0])).astype(np.int8)
    expected = run(plain, samples)
    assert expected.std() > 10
    for name in NAMES:
        graph = Graph(read_model(plain))
        notes = encode_weights(graph, name, always=True)
        # The weight always, the bias where the codec writes int32.
        assert len(graph.operators[0].outputs) == 1 + (name != "huffman"), notes
        np.testing.assert_array_equal(run(write_model(graph.model), samples), expected)
        stored = graph.model.buffers[graph.tensors[graph.operators[0].inputs[0]].buffer]
        stored.data = np.roll(stored.data, 4)
        assert not np.array_equal(run(write_model(graph.model), samples), expected)
