"""What a .tflite file really holds: sizes, sparsity, distinct values and entropy of its weights.

Only the flatbuffer schema is read; no runtime and no TensorFlow is loaded. The file may be damaged or
hostile: every size is checked against the file's own length before anything is allocated or looped over.
"""

from __future__ import annotations

import gzip
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.core.shown import Shown, names
from keras_compress.tflite.bit_format import OPERATORS, BitOptions, rows_of, stored_weight
from keras_compress.tflite.encoding.codec import Form
from keras_compress.tflite.encoding.known import DECODE, codec_of, decoded, sizes
from keras_compress.tflite.gathered import gather_sources, gathered_values
from keras_compress.tflite.histogram import Histogram, histogram_of, with_zeros
from keras_compress.tflite.packing import unpack
from keras_compress.tflite.sparse_format import block_of, table_bytes

# Operator -> inputs that hold weights, where they are constants with two dimensions or more.
_LSTM_WEIGHTS = (1, 2, 3, 4, 5, 6, 7, 8, 16)
WEIGHT_INPUTS: dict[str, tuple[int, ...]] = {
    "BATCH_MATMUL": (0, 1),
    "BIDIRECTIONAL_SEQUENCE_RNN": (1, 2, 5, 6),
    "CONV_2D": (1,),
    "CONV_3D": (1,),
    "CONV_3D_TRANSPOSE": (1,),
    "DEPTHWISE_CONV_2D": (1,),
    "EMBEDDING_LOOKUP": (1,),
    "FULLY_CONNECTED": (1,),
    "GATHER": (0,),
    "LSTM": _LSTM_WEIGHTS,
    "RNN": (1, 2),
    "SVDF": (1, 2),
    "TRANSPOSE_CONV": (1,),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _LSTM_WEIGHTS,
    "UNIDIRECTIONAL_SEQUENCE_RNN": (1, 2),
}
# A weight stored as float16 or sparse reaches its operator through one or both of these.
_EXPANDING = ("DEQUANTIZE", "DENSIFY")
# Tensor type -> bits of one value. Other types (indices, strings) are not weights.
_BITS = {"FLOAT64": 64, "FLOAT32": 32, "FLOAT16": 16, "BFLOAT16": 16, "INT16": 16, "INT8": 8, "UINT8": 8,
         "INT4": 4, "INT2": 2}  # fmt: skip
_FILE_IDENTIFIER = b"TFL3"
# Operators, tensors and buffers in all. No real model comes near, and a file of 20 MB could hold a million of them,
# which would take a quarter of a minute to look at.
_MOST_TABLES = 250_000


@dataclass(frozen=True)
class TensorStats:
    """One weight of the file.

    Attributes:
        name: Tensor's name in the file.
        op: Operator that uses it first, e.g. `"CONV_2D"`.
        shape: As stored, e.g. conv OHWI.
        dtype: `"FLOAT32"`, `"INT8"`, `"INT4"`, ...
        bytes: Bytes of its buffer.
        elements: Number of weights.
        sparsity: Share of weights that are zero (equal to the zero point), in [0, 1].
        distinct_values: How many different stored values there are, zero counted.
        scale_count: Number of quantization scales: 0 (float), 1 (per tensor) or the channels.
        entropy_bits: Order-0 entropy of the stored values, bits per weight. No code of one word for each value goes
            under it.
        storage: `"raw"`, or how the values are encoded for TFLite-Micro: `"lut"`, `"bitmap"` or `"huffman"`, or in
            TFLite's own form of sparse tensors: `"sparse"`, `"sparse 1x4"` in blocks, or for kc_binary: `"bits"`.
            `bytes` is then what stream, or stored values, and tables take.
        alternatives: Storage -> bytes that it would take, for those that can hold the tensor; `None` where that was not
            asked for.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    elements: int
    sparsity: float
    distinct_values: int
    scale_count: int
    entropy_bits: float
    storage: str = "raw"
    alternatives: dict[str, int] | None = None

    @property
    def bits_per_weight(self) -> float:
        """Bits of the file for each weight, tables included."""
        return 8 * self.bytes / self.elements


@dataclass(frozen=True, repr=False)
class FileStats(Shown):
    """Sizes and weights of a .tflite file.

    Attributes:
        raw_bytes: Length of the file.
        gzip_bytes: Length after `gzip -9`, without time stamp and name.
        weight_payload_bytes: Bytes of the weights' buffers, a shared buffer counted once.
        sparsity: Share of zeros among all weights, a shared buffer counted once; 0 without weights.
        weights: One entry for each weight, in the order of use.
        operators: Operator name -> how many of them there are, all subgraphs together.
    """

    raw_bytes: int
    gzip_bytes: int
    weight_payload_bytes: int
    sparsity: float
    weights: tuple[TensorStats, ...]
    operators: dict[str, int]

    @property
    def distinct_values(self) -> int:
        """Distinct values of the weight that has most of them; 0 without weights."""
        return max((weight.distinct_values for weight in self.weights), default=0)

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines."""
        return f"FileStats: {self.raw_bytes:,} B in the file, {self.gzip_bytes:,} B gzipped", [
            ("weights", f"{self.weight_payload_bytes:,} B, {self.sparsity:.1%} zeros, {len(self.weights)} in .weights"),
            ("operators", names([f"{count} {name}" for name, count in self.operators.items()], ".operators")),
        ]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain dicts, lists and numbers, for JSON."""
        weights = [asdict(weight) | {"bits_per_weight": weight.bits_per_weight} for weight in self.weights]
        return asdict(self) | {"weights": weights}


def inspect_tflite(source: bytes | str | os.PathLike[str], *, alternatives: bool = False) -> FileStats:
    """Reads sizes, sparsity and distinct values back from a .tflite file.

    Weights are constants with two dimensions or more that feed conv, dense, embedding and recurrent
    operators; biases and shape operands are none. Weights that TFLite-Micro decodes while it runs are decoded.

    Args:
        source: The file's bytes, or its path.
        alternatives: Also find what each weight would take in each storage.

    Raises:
        ValueError: Not a .tflite file, cut short or damaged; the message names the file.
        OSError: The file cannot be read.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        content, label = bytes(source), f"{len(source):,} bytes"
    else:
        content, label = Path(source).read_bytes(), os.fspath(source)
    try:
        return _inspect(content, alternatives)
    except Exception as error:
        # The generated schema code answers damage with struct.error, IndexError, TypeError, MemoryError, ...
        raise ValueError(f"Expected a valid .tflite file. Received: {label} ({error})") from error


def check_structure(content: bytes) -> None:
    """Refuses a file whose tables do not fit together, in time that its length bounds.

    For readers that walk over the whole file: tables that overlap make small files look endless.

    Raises:
        ValueError: Not a .tflite file, cut short or damaged.
    """
    try:
        _File(content)
    except Exception as error:
        raise ValueError(f"Expected a valid .tflite file. Received: {len(content):,} bytes ({error})") from error


def has_sparse_weights(content: bytes) -> bool:
    """Whether a file has tensors in TFLite's own sparse form; a damaged one has none: others refuse it."""
    try:
        return any(tensor.Sparsity() is not None for graph in _File(content).subgraphs for tensor in graph.tensors)
    except Exception:
        return False


def check_dense(content: bytes, label: str) -> None:
    """Refuses sparse tensors for runtimes that do not look whether a tensor is one, and read beyond its end.

    Raises:
        ValueError: For a file with sparse weights.
    """
    if has_sparse_weights(content):
        raise ValueError(
            "Expected a file with dense weights: TFLite-Micro and Vela do not know sparse ones; convert with "
            f"sparsity='none'. Received: {label or f'a model of {len(content):,} bytes'}, whose weights are sparse"
        )


def _inspect(content: bytes, alternatives: bool) -> FileStats:
    file = _File(content, alternatives)
    rows = list(_weight_rows(file))
    # Reversed, so that a shared buffer goes by its first use.
    by_buffer = dict(reversed(rows))
    elements = sum(row.elements for row in by_buffer.values())
    zeros = sum(row.sparsity * row.elements for row in by_buffer.values())
    return FileStats(
        raw_bytes=len(content),
        gzip_bytes=len(gzip.compress(content, 9, mtime=0)),
        weight_payload_bytes=sum(row.bytes for row in by_buffer.values()),
        sparsity=zeros / elements if elements else 0.0,
        weights=tuple(row for _, row in rows),
        operators=dict(sorted(Counter(op.name for graph in file.subgraphs for op in graph.operators).items())),
    )


@dataclass(frozen=True)
class _Operator:
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: bytes = b""  # of a custom operator whose weights are bits


@dataclass(frozen=True)
class _Subgraph:
    tensors: list[Any]
    operators: list[_Operator]


class _File:
    """The file's tables, each vector's length checked before it is walked."""

    def __init__(self, content: bytes, alternatives: bool = False) -> None:
        from ai_edge_litert import schema_py_generated as schema

        if len(content) < 16 or content[4:8] != _FILE_IDENTIFIER:
            raise ValueError(f"the file does not begin as one: {content[:8]!r}")
        # Bytes that may be walked over: some slack, because buffers may share their bytes.
        self._budget = 4 * len(content)
        self._tables = 0
        self._alternatives = alternatives
        self._content = content
        self._histograms: dict[tuple[int, str], Histogram] = {}
        # Of a buffer, or of stream and tables, read in one form: many operators may share them.
        self._sizes: dict[tuple[Any, Form], dict[str, int]] = {}
        self._decoded: dict[tuple[Any, Form], tuple[Histogram, dict[str, int] | None]] = {}
        self._types = {value: name for name, value in vars(schema.TensorType).items() if name[0] != "_"}
        self._builtins = {value: name for name, value in vars(schema.BuiltinOperator).items() if name[0] != "_"}
        self._model = schema.Model.GetRootAs(content, 0)
        self._operator_names = [
            self._operator_name(self._model.OperatorCodes(index))
            for index in range(self._count(self._model.OperatorCodesLength()))
        ]
        self._buffers = [
            self._buffer(self._model.Buffers(index)) for index in range(self._count(self._model.BuffersLength()))
        ]
        self.subgraphs = [
            self._subgraph(self._model.Subgraphs(index)) for index in range(self._count(self._model.SubgraphsLength()))
        ]
        if not self.subgraphs:
            raise ValueError("it has no subgraph")

    def _spend(self, count: int, bytes_each: int) -> int:
        """Charges a vector's bytes to the file's length: tables that overlap cannot make the work explode."""
        self._budget -= count * bytes_each
        if self._budget < 0:
            raise ValueError(f"{count:,} entries do not fit into {len(self._content):,} bytes")
        return count

    def _count(self, tables: int) -> int:
        """As `_spend`, for a vector of tables."""
        self._tables += tables
        if self._tables > _MOST_TABLES:
            raise ValueError(f"it has more than {_MOST_TABLES:,} operators, tensors and buffers")
        return self._spend(tables, 4)

    def _operator_name(self, code: Any) -> str:
        # Old files have the code in the first field only, which ends at 127.
        builtin = max(code.DeprecatedBuiltinCode(), code.BuiltinCode())
        name = self._builtins.get(builtin, f"UNKNOWN_{builtin}")
        return self._text(code.CustomCode()) if name == "CUSTOM" and code.CustomCode() else name

    def _text(self, raw: bytes | None) -> str:
        self._spend(len(raw or b""), 1)
        return (raw or b"").decode("utf-8", errors="replace")

    def _buffer(self, buffer: Any) -> NDArray[np.uint8]:
        """The buffer's bytes; large files keep them behind the flatbuffer."""
        begin, size = buffer.Offset(), buffer.Size()
        if begin > 1:
            self._spend(size, 1)
            if begin + size > len(self._content):
                raise ValueError(f"a buffer ends at byte {begin + size:,} of {len(self._content):,}")
            return np.frombuffer(self._content, np.uint8, size, begin)
        if not self._spend(buffer.DataLength(), 1):
            return np.zeros(0, np.uint8)
        data: NDArray[np.uint8] = buffer.DataAsNumpy()
        return data

    def _subgraph(self, graph: Any) -> _Subgraph:
        tensors = [graph.Tensors(index) for index in range(self._count(graph.TensorsLength()))]
        for tensor in tensors:
            if tensor.Buffer() >= len(self._buffers):
                raise ValueError(f"buffer {tensor.Buffer()} is not among the {len(self._buffers)} there are")
        operators = [
            self._operator(graph.Operators(index), len(tensors))
            for index in range(self._count(graph.OperatorsLength()))
        ]
        return _Subgraph(tensors, operators)

    def _operator(self, operator: Any, tensors: int) -> _Operator:
        inputs = tuple(operator.Inputs(i) for i in range(self._spend(operator.InputsLength(), 4)))
        outputs = tuple(operator.Outputs(i) for i in range(self._spend(operator.OutputsLength(), 4)))
        # -1 stands for an input that is left out.
        if any(not -1 <= index < tensors for index in inputs + outputs):
            raise ValueError(f"an operator uses tensors {inputs} and {outputs} of {tensors}")
        name = self._operator_names[operator.OpcodeIndex()]
        size = self._spend(operator.CustomOptionsLength(), 1) if name in OPERATORS.values() else 0
        return _Operator(name, inputs, outputs, operator.CustomOptionsAsNumpy().tobytes() if size else b"")

    def is_weight(self, tensor: Any) -> bool:
        """Whether a tensor is a numeric constant with two dimensions or more."""
        return (
            tensor.ShapeLength() >= 2
            and self._types.get(tensor.Type()) in _BITS
            and self._buffers[tensor.Buffer()].size > 0
        )

    def has_values(self, tensor: Any) -> bool:
        """Whether a tensor is a constant."""
        return bool(self._buffers[tensor.Buffer()].size > 0)

    def may_be_weight(self, tensor: Any) -> bool:
        """As `is_weight`, for one whose values are encoded elsewhere."""
        return tensor.ShapeLength() >= 2 and self._types.get(tensor.Type()) in _BITS

    def stats(self, tensor: Any, op: str) -> TensorStats:
        """Reads a weight; its buffer must have the size that its shape and type need."""
        dtype, buffer = self._types[tensor.Type()], tensor.Buffer()
        shape, scales, dimension, zero_point = self._form(tensor)
        elements, data = math.prod(shape), self._buffers[buffer]
        sparse = tensor.Sparsity() is not None
        needed = -(-elements * _BITS[dtype] // 8)
        if min(shape) < 1 or (data.size > needed if sparse else data.size != needed):
            raise ValueError(f"a {dtype} tensor of shape {shape} has {data.size:,} bytes, not {needed:,}")
        stored = data.size * 8 // _BITS[dtype] if sparse else elements
        values = _unpacked(data, dtype)[:stored]
        if (buffer, dtype) not in self._histograms:
            self._histograms[buffer, dtype] = histogram_of(values)
        histogram = self._histograms[buffer, dtype]
        if sparse:
            histogram = with_zeros(histogram, elements - stored, zero_point)
        if sparse:
            block, tables = self._sparse_form(tensor.Sparsity())
            kind = f"sparse 1x{block}" if block > 1 else "sparse"
            return replace(self._row(tensor, op, histogram, data.size + tables), storage=kind)
        stats = self._row(tensor, op, histogram, data.size)
        if not self._alternatives:
            return stats
        form = Form(shape, dtype.lower(), scales, dimension, zero_point)
        if (buffer, form) not in self._sizes:
            self._spend(data.size // 8, 1)
            self._sizes[buffer, form] = {"raw": data.size, **sizes(values.reshape(shape), form)}
        return replace(stats, alternatives=dict(self._sizes[buffer, form]))

    def _sparse_form(self, sparsity: Any) -> tuple[int, int]:
        """Values of a block that are stored or left out together, and bytes of the tables of their places."""
        from ai_edge_litert import schema_py_generated as schema

        self._spend(sparsity.DimMetadataLength(), 16)
        parameters = schema.SparsityParametersT.InitFromObj(sparsity)
        tables = table_bytes(parameters)
        self._spend(tables, 1)
        return block_of(parameters), tables

    def decoded_stats(self, tensor: Any, op: str, stream: Any, tables: Any) -> TensorStats:
        """Reads a weight that TFLite-Micro decodes while it runs."""
        dtype = self._types[tensor.Type()].lower()
        shape, scales, dimension, zero_point = self._form(tensor)
        form = Form(shape, dtype, scales, dimension, zero_point)
        data, ancillary = self._buffers[stream.Buffer()], self._buffers[tables.Buffer()]
        key = (stream.Buffer(), tables.Buffer())
        if (key, form) not in self._decoded:
            self._spend(data.size, 1)
            values = decoded(data, ancillary, form)
            others = {"raw": values.nbytes, **sizes(values, form)} if self._alternatives else None
            self._decoded[key, form] = histogram_of(values.reshape(-1)), others
        histogram, others = self._decoded[key, form]
        stats = self._row(tensor, op, histogram, data.size + ancillary.size)
        return replace(stats, storage=codec_of(ancillary).name, alternatives=None if others is None else dict(others))

    def gathered_stats(self, tensor: Any, op: str, book: Any, codes: Any) -> TensorStats:
        """Reads a weight that is looked up in a codebook of vectors while the model runs."""
        kinds = [self._types.get(each.Type()) for each in (tensor, book, codes)]
        if kinds[:2] != ["INT8", "INT8"] or kinds[2] not in ("INT8", "INT16"):
            raise ValueError(f"a weight is looked up by codes of other types: {kinds}")
        words, stored = self._buffers[book.Buffer()], self._buffers[codes.Buffer()]
        self._spend(words.size + stored.size, 1)
        size = int(book.Shape(1)) if book.ShapeLength() == 2 else 0
        values = gathered_values(words.view(np.int8), _unpacked(stored, str(kinds[2])), size, self._form(tensor)[0])
        row = self._row(tensor, op, histogram_of(values), words.size + stored.size)
        return replace(row, storage="vectors", alternatives={"raw": values.size} if self._alternatives else None)

    def bit_stats(self, tensor: Any, op: _Operator) -> TensorStats:
        """Reads a weight that is stored as bits."""
        options, data = BitOptions.read(op.options), self._buffers[tensor.Buffer()]
        self._spend(data.size, 1)
        values = stored_weight(rows_of(data, self._form(tensor)[0][0], options), op.name, options)
        stored = data.size + options.magnitudes.size
        return replace(
            self._row(tensor, op.name, histogram_of(values.reshape(-1)), stored),
            shape=values.shape,
            dtype="INT8",
            elements=values.size,
            sparsity=float((values == 0).mean()),
            storage="bits",
            alternatives={"raw": values.nbytes, "bits": stored} if self._alternatives else None,
        )

    def _form(self, tensor: Any) -> tuple[tuple[int, ...], int, int, int]:
        """Shape, number of scales, their axis and the zero point."""
        shape = tuple(int(tensor.Shape(i)) for i in range(self._spend(tensor.ShapeLength(), 4)))
        quantization = tensor.Quantization()
        scales = self._spend(quantization.ScaleLength(), 4) if quantization else 0
        zero_point = quantization.ZeroPoint(0) if quantization and quantization.ZeroPointLength() else 0
        return shape, scales, quantization.QuantizedDimension() if quantization else 0, zero_point

    def _row(self, tensor: Any, op: str, histogram: Histogram, size: int) -> TensorStats:
        shape, scales, _, zero_point = self._form(tensor)
        return TensorStats(
            name=self._text(tensor.Name()),
            op=op,
            shape=shape,
            dtype=self._types[tensor.Type()],
            bytes=size,
            elements=math.prod(shape),
            sparsity=histogram.share_of(zero_point),
            distinct_values=histogram.values.size,
            scale_count=scales,
            entropy_bits=histogram.entropy_bits,
        )


def _weight_rows(file: _File) -> Iterator[tuple[int, TensorStats]]:
    """Buffer index and statistics of each weight, in the order of use."""
    for graph in file.subgraphs:
        expanded = {op.outputs[0]: op.inputs[0] for op in graph.operators if op.name in _EXPANDING}
        sources = dict(_decode_sources(graph))
        gathered = {
            weight: pair
            for weight, pair in gather_sources(graph.operators)
            if all(file.has_values(graph.tensors[each]) for each in pair)
        }
        # A codebook is no weight by itself.
        seen = {book for book, _ in gathered.values()}
        for op in graph.operators:
            if op.options and len(op.inputs) > 1 and op.inputs[1] >= 0 and op.inputs[1] not in seen:
                tensor = graph.tensors[op.inputs[1]]
                seen.add(op.inputs[1])
                if file.may_be_weight(tensor) and tensor.ShapeLength() == 2:
                    yield tensor.Buffer(), file.bit_stats(tensor, op)
            for position in WEIGHT_INPUTS.get(op.name, ()):
                index = op.inputs[position] if position < len(op.inputs) else -1
                for _ in _EXPANDING:
                    index = expanded.get(index, index)
                if index < 0 or index in seen:
                    continue
                tensor = graph.tensors[index]
                if index in sources and file.may_be_weight(tensor):
                    stream, tables = (graph.tensors[i] for i in sources[index])
                    yield stream.Buffer(), file.decoded_stats(tensor, op.name, stream, tables)
                elif index in gathered and file.may_be_weight(tensor):
                    book, codes = (graph.tensors[i] for i in gathered[index])
                    yield codes.Buffer(), file.gathered_stats(tensor, op.name, book, codes)
                elif file.is_weight(tensor):
                    yield tensor.Buffer(), file.stats(tensor, op.name)
                else:
                    continue
                seen.add(index)


def _decode_sources(graph: _Subgraph) -> Iterator[tuple[int, tuple[int, int]]]:
    """Decoded tensor -> its stream and tables."""
    for op in graph.operators:
        if op.name == DECODE and len(op.inputs) == 2 * len(op.outputs) and -1 not in op.inputs + op.outputs:
            yield from zip(op.outputs, zip(op.inputs[::2], op.inputs[1::2], strict=True), strict=True)


def _unpacked(data: NDArray[np.uint8], dtype: str) -> NDArray[Any]:
    """The stored values, one per element."""
    bits = _BITS[dtype]
    if bits < 8:
        return unpack(data, bits)
    if dtype == "BFLOAT16":
        # The upper half of a float32.
        halves: NDArray[np.uint32] = data.view("<u2").astype(np.uint32)
        return (halves << 16).view(np.float32)
    values: NDArray[Any] = data.view(np.dtype(dtype.lower()).newbyteorder("<"))
    return values
