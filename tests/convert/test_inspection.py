from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import flatbuffers
import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_compress.tflite.inspection import FileStats, inspect_tflite

TYPES = schema.TensorType
OPS = schema.BuiltinOperator


class Writer:
    """Builds a .tflite file from literal tensors and operators."""

    def __init__(self) -> None:
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.graph.inputs, self.graph.outputs = [0], [0]
        self.model = schema.ModelT()
        self.model.version, self.model.subgraphs = 3, [self.graph]
        self.model.operatorCodes, self.model.buffers = [], [schema.BufferT()]

    def tensor(
        self, name: str, shape: list[int], kind: int, values: np.ndarray | None = None,
        scales: list[float] | None = None, zero_point: int = 0, buffer: int | None = None,
    ) -> int:  # fmt: skip
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, buffer or 0
        if scales is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = scales, [zero_point] * len(scales)
        if values is not None:
            holder = schema.BufferT()
            holder.data = np.frombuffer(values.tobytes(), np.uint8)
            self.model.buffers.append(holder)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(self, kind: int, inputs: list[int], outputs: list[int], custom: str | None = None) -> None:
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.customCode = kind, min(kind, 127), custom
        self.model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = inputs, outputs
        self.graph.operators.append(operator)

    def content(self) -> bytes:
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def one_weight(kind: int, values: np.ndarray, shape: list[int], **arguments: object) -> FileStats:
    """Statistics of a file with one fully connected operator."""
    writer = Writer()
    image = writer.tensor("image", [1, shape[-1]], TYPES.FLOAT32)
    weight = writer.tensor("dense/kernel", shape, kind, values, **arguments)
    output = writer.tensor("output", [1, shape[0]], TYPES.FLOAT32)
    writer.operator(OPS.FULLY_CONNECTED, [image, weight, -1], [output])
    return inspect_tflite(writer.content())


def convolution() -> Writer:
    """Conv with a bias, a reshape with a constant shape, a custom operator."""
    writer = Writer()
    image = writer.tensor("image", [1, 4, 4, 1], TYPES.INT8, scales=[0.5])
    kernel = np.array([[[[0], [1]], [[0], [-3]]], [[[0], [0]], [[1], [7]]]], np.int8)
    weight = writer.tensor("conv/kernel", [2, 2, 2, 1], TYPES.INT8, kernel, scales=[0.1, 0.2])
    bias = writer.tensor("conv/bias", [2], TYPES.INT32, np.array([0, 5], np.int32), scales=[0.05, 0.1])
    features = writer.tensor("features", [1, 3, 3, 2], TYPES.INT8, scales=[0.5])
    shape = writer.tensor("shape", [2], TYPES.INT32, np.array([1, 18], np.int32))
    flat = writer.tensor("flat", [1, 18], TYPES.INT8, scales=[0.5])
    writer.operator(OPS.CONV_2D, [image, weight, bias], [features])
    writer.operator(OPS.RESHAPE, [features, shape], [flat])
    writer.operator(OPS.CUSTOM, [flat], [flat], custom="TFLM_DECODE")
    return writer


def test_literal_convolution() -> None:
    content = convolution().content()
    stats = inspect_tflite(content)
    assert stats.raw_bytes == len(content)
    assert stats.gzip_bytes == len(gzip.compress(content, 9, mtime=0))
    assert stats.weight_payload_bytes == 8
    assert stats.operators == {"CONV_2D": 1, "RESHAPE": 1, "TFLM_DECODE": 1}
    (weight,) = stats.weights
    assert (weight.name, weight.op, weight.dtype) == ("conv/kernel", "CONV_2D", "INT8")
    assert weight.shape == (2, 2, 2, 1)
    assert (weight.bytes, weight.elements, weight.scale_count) == (8, 8, 2)
    # 0, 1, 0, -3, 0, 0, 1, 7: four zeros, two ones, two singles.
    assert weight.sparsity == stats.sparsity == 0.5
    assert weight.distinct_values == stats.distinct_values == 4
    assert weight.entropy_bits == pytest.approx(0.5 * 1 + 0.25 * 2 + 2 * 0.125 * 3)


def test_path_and_bytes_agree(tmp_path: Path) -> None:
    content = convolution().content()
    (tmp_path / "model.tflite").write_bytes(content)
    assert inspect_tflite(tmp_path / "model.tflite") == inspect_tflite(content)
    assert inspect_tflite(str(tmp_path / "model.tflite")) == inspect_tflite(bytearray(content))


def test_to_dict_is_json() -> None:
    stats = inspect_tflite(convolution().content())
    read = json.loads(json.dumps(stats.to_dict()))
    assert read["weights"][0]["shape"] == [2, 2, 2, 1]
    assert read["weight_payload_bytes"] == 8


@pytest.mark.parametrize(
    ("kind", "values", "shape", "elements", "distinct", "sparsity"),
    [
        (TYPES.FLOAT32, np.array([0, -0.0, 1.5, 1.5, -2, 0.25], np.float32), [2, 3], 6, 4, 1 / 3),
        (TYPES.FLOAT16, np.array([0, 1, 1, 2], np.float16), [2, 2], 4, 3, 0.25),
        # bfloat16 of 1, -0, 0, 1.
        (TYPES.BFLOAT16, np.array([0x3F80, 0x8000, 0, 0x3F80], np.uint16), [2, 2], 4, 2, 0.5),
        (TYPES.INT16, np.array([300, 0, -300, 300], np.int16), [2, 2], 4, 3, 0.25),
        # Two to a byte, low half first: 1, -1, 0, 7, -8 and padding that is no weight.
        (TYPES.INT4, np.array([0xF1, 0x70, 0x08], np.uint8), [1, 5], 5, 5, 0.2),
        # Four to a byte: 1, -1, 0, 0, -2 and padding.
        (TYPES.INT2, np.array([0b00001101, 0b00000010], np.uint8), [5, 1], 5, 4, 0.4),
    ],
    ids=["float32", "float16", "bfloat16", "int16", "int4", "int2"],
)
def test_types(kind: int, values: np.ndarray, shape: list[int], elements: int, distinct: int, sparsity: float) -> None:
    (weight,) = one_weight(kind, values, shape).weights
    assert (weight.elements, weight.bytes, weight.scale_count) == (elements, values.nbytes, 0)
    assert weight.distinct_values == distinct
    assert weight.sparsity == pytest.approx(sparsity)


def test_zero_is_the_zero_point() -> None:
    values = np.array([128, 128, 128, 0], np.uint8)
    stats = one_weight(TYPES.UINT8, values, [2, 2], scales=[0.1], zero_point=128)
    assert stats.sparsity == 0.75


def test_float16_behind_dequantize_is_found() -> None:
    writer = Writer()
    image = writer.tensor("image", [1, 2], TYPES.FLOAT32)
    stored = writer.tensor("half", [2, 2], TYPES.FLOAT16, np.array([0, 1, 2, 3], np.float16))
    weight = writer.tensor("kernel", [2, 2], TYPES.FLOAT32)
    output = writer.tensor("output", [1, 2], TYPES.FLOAT32)
    writer.operator(OPS.DEQUANTIZE, [stored], [weight])
    writer.operator(OPS.FULLY_CONNECTED, [image, weight, -1], [output])
    (row,) = inspect_tflite(writer.content()).weights
    assert (row.name, row.op, row.dtype, row.bytes) == ("half", "FULLY_CONNECTED", "FLOAT16", 8)


def test_sparse_encoding_counts_what_it_leaves_out() -> None:
    writer = Writer()
    image = writer.tensor("image", [1, 8], TYPES.FLOAT32)
    # Three of 16 values are stored, one of them a zero.
    weight = writer.tensor("kernel", [2, 8], TYPES.FLOAT32, np.array([1.0, 0.0, 2.0], np.float32))
    writer.graph.tensors[weight].sparsity = schema.SparsityParametersT()
    output = writer.tensor("output", [1, 2], TYPES.FLOAT32)
    writer.operator(OPS.FULLY_CONNECTED, [image, weight, -1], [output])
    (row,) = inspect_tflite(writer.content()).weights
    assert (row.elements, row.bytes, row.sparsity, row.distinct_values) == (16, 12, 14 / 16, 3)


def test_shared_buffer_and_shared_weight_count_once() -> None:
    writer = Writer()
    image = writer.tensor("image", [1, 2], TYPES.INT8)
    first = writer.tensor("first", [2, 2], TYPES.INT8, np.array([0, 0, 0, 1], np.int8), scales=[0.1])
    same = writer.tensor("same", [2, 2], TYPES.INT8, scales=[0.2], buffer=writer.graph.tensors[first].buffer)
    other = writer.tensor("other", [2, 2], TYPES.INT8, np.array([1, 2, 3, 4], np.int8), scales=[0.1])
    for weight in (first, same, other, first):
        writer.operator(OPS.FULLY_CONNECTED, [image, weight, -1], [image])
    stats = inspect_tflite(writer.content())
    assert [row.name for row in stats.weights] == ["first", "same", "other"]
    assert stats.weight_payload_bytes == 8
    assert stats.sparsity == 3 / 8


def test_no_weights() -> None:
    writer = Writer()
    image = writer.tensor("image", [1, 2], TYPES.FLOAT32)
    writer.operator(OPS.RELU, [image], [image])
    stats = inspect_tflite(writer.content())
    assert (stats.weights, stats.sparsity, stats.weight_payload_bytes, stats.distinct_values) == (
        (),
        0.0,
        0,
        0,
    )


def test_out_of_line_buffer() -> None:
    """Files over 2 GB, and the converter on request, keep the weights behind the flatbuffer."""
    payload = np.array([0, 3, 3, 0], np.int8).tobytes()

    def build(offset: int, size: int = 4) -> bytes:
        writer = Writer()
        image = writer.tensor("image", [1, 2], TYPES.INT8)
        weight = writer.tensor("kernel", [2, 2], TYPES.INT8, np.zeros(0, np.int8), scales=[0.1])
        holder = writer.model.buffers[writer.graph.tensors[weight].buffer]
        holder.data, holder.offset, holder.size = None, offset, size
        writer.operator(OPS.FULLY_CONNECTED, [image, weight, -1], [image])
        return writer.content()

    content = build(offset=len(build(offset=99)))
    (row,) = inspect_tflite(content + payload).weights
    assert (row.bytes, row.sparsity, row.distinct_values) == (4, 0.5, 2)
    with pytest.raises(ValueError, match="a buffer ends at byte"):
        inspect_tflite(content + payload[:-1])
    with pytest.raises(ValueError, match="do not fit"):
        inspect_tflite(build(offset=100, size=2**62))


@pytest.fixture(scope="module")
def converted() -> tuple[keras.Model, bytes]:
    """A small model through the stock converter."""
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((8, 8, 3), batch_size=1),
        keras.layers.Conv2D(5, 3, activation="relu", name="conv"),
        keras.layers.DepthwiseConv2D(3, name="depthwise"),
        keras.layers.Flatten(),
        keras.layers.Dense(7, name="dense"),
    ]
    model = keras.Sequential(layers)
    kernel = model.get_layer("dense").kernel.numpy()
    kernel[:20] = 0
    model.get_layer("dense").kernel.assign(kernel)
    return model, tf.lite.TFLiteConverter.from_keras_model(model).convert()


def test_stock_converter(converted: tuple[keras.Model, bytes]) -> None:
    model, content = converted
    stats = inspect_tflite(content)
    assert [(row.op, row.shape, row.bytes) for row in stats.weights] == [
        ("CONV_2D", (5, 3, 3, 3), 540),
        ("DEPTHWISE_CONV_2D", (1, 3, 3, 5), 180),
        ("FULLY_CONNECTED", (7, 80), 2240),
    ]
    assert stats.weight_payload_bytes == 2960
    assert stats.weights[2].sparsity == 0.25
    assert stats.sparsity == pytest.approx(140 / 740)
    assert stats.weights[0].distinct_values == np.unique(model.get_layer("conv").kernel.numpy()).size
    assert stats.operators["CONV_2D"] == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"TFL3",
        b"\x00" * 64,
        b"\x1c\x00\x00\x00TFL3" + b"\xff" * 64,
        b"\xff\xff\xff\xffTFL3" + b"\x00" * 64,
    ],
    ids=["empty", "short", "zeros", "garbage", "root outside"],
)
def test_garbage_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.tflite"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"Expected a valid .tflite file. Received: .*broken.tflite"):
        inspect_tflite(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing.tflite"):
        inspect_tflite(tmp_path / "missing.tflite")


def test_truncated_file_is_refused_or_fully_read(converted: tuple[keras.Model, bytes]) -> None:
    _, content = converted
    whole = inspect_tflite(content)
    refused = 0
    for length in range(0, len(content), 97):
        try:
            stats = inspect_tflite(content[:length])
        except ValueError as error:
            assert "Expected a valid .tflite file" in str(error)  # noqa: PT017
            refused += 1
        else:
            # Only what is not read, or padding, was cut off.
            assert stats.weights == whole.weights
            assert length > 0.9 * len(content)
    assert refused >= 0.9 * len(range(0, len(content), 97))


@pytest.mark.parametrize("seed", range(4))
def test_mutated_file_is_refused_or_read_and_never_slow(converted: tuple[keras.Model, bytes], seed: int) -> None:
    generator = np.random.default_rng(seed)
    original = converted[1]
    begin = time.perf_counter()
    for _ in range(150):
        content = bytearray(original)
        for position in generator.integers(0, len(content), size=generator.integers(1, 12)):
            content[position] = generator.choice([0, 1, 127, 128, 255, int(generator.integers(256))])
        try:
            stats = inspect_tflite(bytes(content))
        except ValueError as error:
            assert "Expected a valid .tflite file" in str(error)  # noqa: PT017
        else:
            assert stats.raw_bytes == len(original)
            assert 0 <= stats.sparsity <= 1
    assert time.perf_counter() - begin < 30


def test_wrong_shape_and_wrong_index_are_refused() -> None:
    writer = convolution()
    writer.graph.tensors[1].shape = [2, 2, 2, 2]
    with pytest.raises(ValueError, match=r"INT8 tensor of shape \(2, 2, 2, 2\) has 8 bytes, not 16"):
        inspect_tflite(writer.content())
    writer = convolution()
    writer.graph.operators[0].inputs = [0, 1, 99]
    with pytest.raises(ValueError, match=r"uses tensors \(0, 1, 99, 3\)|uses tensors \(0, 1, 99\)"):
        inspect_tflite(writer.content())
    writer = convolution()
    writer.graph.tensors[1].buffer = 50
    with pytest.raises(ValueError, match="buffer 50 is not among the 4"):
        inspect_tflite(writer.content())


def test_permuted_weights_change_nothing_but_other_weights_do() -> None:
    values = np.random.default_rng(0).integers(-8, 8, (16, 4)).astype(np.int8)
    first = one_weight(TYPES.INT8, values, [16, 4])
    second = one_weight(TYPES.INT8, values[::-1].copy(), [16, 4])
    third = one_weight(TYPES.INT8, np.where(values == 3, 0, values).astype(np.int8), [16, 4])
    assert first.weights == second.weights
    assert third.sparsity > first.sparsity
    assert third.distinct_values == first.distinct_values - 1
