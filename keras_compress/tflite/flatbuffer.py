"""Reading, editing and writing `.tflite` flatbuffers, over the schema's Python classes."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from numpy.typing import NDArray

from keras_compress.tflite.packing import pack, unpack
from keras_compress.tflite.sharing_builder import SharingBuilder
from keras_compress.tflite.sparse_format import decode, encode

MAX_CONTENT_BYTES = 2**31 - 1
# What the tables of a model of usual size take; the builder grows where that is too little.
_ROOM_BYTES = 1 << 18

_KIND_OF_CODE: dict[int, str] = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)
}
_CODE_OF_KIND: dict[str, int] = {name: code for code, name in _KIND_OF_CODE.items()}
_TYPE_NAMES: dict[int, str] = {
    code: name.lower() for name, code in vars(schema.TensorType).items() if isinstance(code, int)
}
_TYPE_CODES: dict[str, int] = {name: code for code, name in _TYPE_NAMES.items()}
_NUMPY_TYPES: dict[str, str] = {
    "float32": "<f4", "float16": "<f2", "float64": "<f8", "int8": "i1", "uint8": "u1", "int16": "<i2",
    "int32": "<i4", "int64": "<i8", "uint16": "<u2", "uint32": "<u4", "uint64": "<u8", "bool": "?",
}  # fmt: skip
PACKED_BITS = {"int4": 4, "int2": 2}


class _AlignedBuffer(schema.BufferT):
    """A constant buffer on a 16-byte boundary, as the schema asks but its Python packer forgets."""

    def Pack(self, builder: Any) -> int:  # noqa: N802 (the schema's name)
        data = None
        if self.data is not None and len(self.data):
            payload = np.ascontiguousarray(self.data, dtype=np.uint8).reshape(-1)
            builder.StartVector(1, payload.size, 16)
            builder.head = builder.Head() - payload.size
            # Through NumPy: a slice of a bytearray would take a copy first.
            np.frombuffer(builder.Bytes, np.uint8, payload.size, builder.Head())[:] = payload
            data = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        return int(schema.BufferEnd(builder))


def read_model(content: bytes) -> Any:
    """The flatbuffer as a mutable schema object (`ModelT`), weights that lie out of line included.

    Raises:
        ValueError: `content` is not a TFLite flatbuffer, or is damaged.
    """
    if len(content) < 8 or content[4:8] != b"TFL3":
        raise ValueError(f"Expected a TFLite flatbuffer. Received: {len(content)} bytes without its header")
    try:
        model = flatbuffer_utils.read_model_from_bytearray(bytes(content))
        _check_indices(model)
    except Exception as error:
        # The schema's code answers damage with struct.error, IndexError, TypeError, MemoryError, ...
        cause = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"Expected an undamaged TFLite flatbuffer. Received: {len(content):,} bytes ({cause})"
        ) from error
    for buffer in model.buffers:
        if isinstance(buffer.data, bytes):  # it lay out of line
            buffer.data = np.frombuffer(buffer.data, np.uint8)
    return model


def _check_indices(model: Any) -> None:
    """Raises for an index or a type that leads nowhere, so that what edits the model need not look."""
    if not model.subgraphs:
        raise ValueError("it has no subgraph")
    for code in model.operatorCodes or ():
        builtin = flatbuffer_utils.get_builtin_code_from_operator_code(code)
        if builtin not in _KIND_OF_CODE:
            raise ValueError(f"operator code {builtin} is unknown")
    for subgraph in model.subgraphs:
        count = len(subgraph.tensors)
        for tensor in subgraph.tensors:
            model.buffers[tensor.buffer]
            if tensor.type not in _TYPE_NAMES:
                raise ValueError(f"tensor type {tensor.type} is unknown")
        for op in subgraph.operators:
            model.operatorCodes[op.opcodeIndex]
        for indices in (
            subgraph.inputs,
            subgraph.outputs,
            *(i for o in subgraph.operators for i in (o.inputs, o.outputs)),
        ):
            if len(indices) and not (min(indices) >= -1 and max(indices) < count):
                raise ValueError(f"tensors {list(indices)} of {count} are used")


def write_model(model: Any) -> bytes:
    """Serialise `model` after dropping what nothing refers to and sharing equal constants.

    Raises:
        ValueError: The file would pass the format's limit of 2 GiB.
    """
    tidy(model)
    payload_bytes = sum(0 if b.data is None else len(b.data) for b in model.buffers)
    if payload_bytes > MAX_CONTENT_BYTES:
        raise ValueError("Expected less than 2 GiB of constants. Received: a larger model")
    # Room for all constants at once: a builder that grows copies what it holds each time.
    builder = SharingBuilder(min(payload_bytes + 64 * len(model.buffers) + _ROOM_BYTES, MAX_CONTENT_BYTES))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(memoryview(builder.Bytes)[builder.Head() :])


def tidy(model: Any) -> None:
    """Drop what nothing refers to, share equal constants, and number everything in order of use."""
    for subgraph in model.subgraphs:
        _drop_unused_tensors(model, subgraph)
    _share_buffers(model)
    _compact_operator_codes(model)


def _drop_unused_tensors(model: Any, subgraph: Any) -> None:
    used = [*subgraph.inputs, *subgraph.outputs]
    for op in subgraph.operators:
        used += [*op.inputs, *op.outputs, *(op.intermediates if op.intermediates is not None else ())]
    keep = sorted({i for i in used if i >= 0})
    renumber = {old: new for new, old in enumerate(keep)} | {-1: -1}
    subgraph.tensors = [subgraph.tensors[i] for i in keep]
    subgraph.inputs = [renumber[i] for i in subgraph.inputs]
    subgraph.outputs = [renumber[i] for i in subgraph.outputs]
    for op in subgraph.operators:
        op.inputs = [renumber[i] for i in op.inputs]
        op.outputs = [renumber[i] for i in op.outputs]
        if op.intermediates is not None:
            op.intermediates = [renumber[i] for i in op.intermediates]
    number = model.subgraphs.index(subgraph)
    for signature in model.signatureDefs or []:
        if signature.subgraphIndex == number:
            for entry in (*signature.inputs, *signature.outputs):
                entry.tensorIndex = renumber[entry.tensorIndex]


def _share_buffers(model: Any) -> None:
    """Number the used buffers in order of use; equal payloads become one; buffer 0 stays empty."""
    kept: list[Any] = [_AlignedBuffer()]
    number_of_payload: dict[tuple[int, bytes], int] = {}
    sizes = Counter(0 if buffer.data is None else len(buffer.data) for buffer in model.buffers)
    renumbered: dict[int, int] = {}

    def place(index: int) -> int:
        if index not in renumbered:
            data = model.buffers[index].data
            if data is None or len(data) == 0:
                renumbered[index] = 0
            else:
                payload = np.ascontiguousarray(data, dtype=np.uint8)
                # What is alone in its size is like no other.
                digest = (payload.size, hashlib.sha1(payload.data).digest() if sizes[payload.size] > 1 else b"")
                if digest not in number_of_payload:
                    number_of_payload[digest] = len(kept)
                    buffer = _AlignedBuffer()
                    buffer.data = payload
                    kept.append(buffer)
                renumbered[index] = number_of_payload[digest]
        return renumbered[index]

    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            tensor.buffer = place(tensor.buffer)
    for metadata in model.metadata or []:
        metadata.buffer = place(metadata.buffer)
    model.buffers = kept


def _compact_operator_codes(model: Any) -> None:
    """One entry per kind of operator, at the highest version any of its uses needs, in order of use."""
    kept: list[Any] = []
    number_of_kind: dict[tuple[str, bytes], int] = {}
    for subgraph in model.subgraphs:
        for op in subgraph.operators:
            code = model.operatorCodes[op.opcodeIndex]
            key = (kind_of(model, op), code.customCode or b"")
            if key not in number_of_kind:
                number_of_kind[key] = len(kept)
                kept.append(_operator_code(key[0], 1, code.customCode))
            op.opcodeIndex = number_of_kind[key]
            kept[op.opcodeIndex].version = max(kept[op.opcodeIndex].version, code.version)
    model.operatorCodes = kept


def _operator_code(kind: str, version: int, custom: bytes | None = None) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = _CODE_OF_KIND[kind]
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.customCode = custom
    code.version = version
    return code


def kind_of(model: Any, op: Any) -> str:
    """Name of the operator, such as `"CONV_2D"`."""
    code = model.operatorCodes[op.opcodeIndex]
    return _KIND_OF_CODE[flatbuffer_utils.get_builtin_code_from_operator_code(code)]


def _redirect(entries: Sequence[Any], old: Sequence[int], new: Sequence[int]) -> None:
    """Point signature entries at the new tensors; entries of one old tensor take its new ones in order."""
    waiting: dict[int, list[int]] = {}
    for before, after in zip(old, new, strict=True):
        waiting.setdefault(before, []).append(after)
    for entry in entries:
        queue = waiting[entry.tensorIndex]
        entry.tensorIndex = queue.pop(0) if len(queue) > 1 else queue[0]


class Graph:
    """A subgraph of a model, the main one by default, with the lookups that edits need.

    Attributes:
        model: The schema object (`ModelT`) that the graph edits in place.
    """

    def __init__(self, model: Any, number: int = 0) -> None:
        self.model = model
        self._subgraph = model.subgraphs[number]
        self._code_numbers: dict[tuple[str, str], int] = {}
        self._names = {self.name(i) for i in range(len(self.tensors))}

    @property
    def tensors(self) -> list[Any]:
        return self._subgraph.tensors  # type: ignore[no-any-return]

    @property
    def operators(self) -> list[Any]:
        return self._subgraph.operators  # type: ignore[no-any-return]

    @operators.setter
    def operators(self, operators: list[Any]) -> None:
        self._subgraph.operators = operators

    @property
    def inputs(self) -> list[int]:
        return self._subgraph.inputs  # type: ignore[no-any-return]

    @property
    def outputs(self) -> list[int]:
        return self._subgraph.outputs  # type: ignore[no-any-return]

    def set_interface(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Put other tensors in the places of the graph's inputs and outputs, in the signatures too."""
        for signature in self.model.signatureDefs or []:
            if signature.subgraphIndex == 0:
                _redirect(signature.inputs, self.inputs, inputs)
                _redirect(signature.outputs, self.outputs, outputs)
        self._subgraph.inputs = list(inputs)
        self._subgraph.outputs = list(outputs)

    def kind(self, op: Any) -> str:
        """Name of the operator, such as `"CONV_2D"`."""
        return kind_of(self.model, op)

    def custom_name(self, op: Any) -> str:
        """Name of a custom operator, `""` for a built-in one."""
        return (self.model.operatorCodes[op.opcodeIndex].customCode or b"").decode("utf-8", "replace")

    def name(self, tensor: int) -> str:
        """Name of a tensor."""
        return (self.tensors[tensor].name or b"").decode("utf-8", "replace")

    def interface_names(self) -> tuple[list[str], list[str]]:
        """The user's names of inputs and outputs: the signature's, or the tensors' where there is none."""
        signature = next((s for s in self.model.signatureDefs or [] if s.subgraphIndex == 0), None)
        if signature is None or len(signature.outputs) != len(self.outputs):
            return [self.name(i) for i in self.inputs], [self.name(i) for i in self.outputs]
        entries = {entry.tensorIndex: entry.name.decode() for entry in signature.inputs}
        outputs = [entry.name.decode() for entry in signature.outputs]
        return [entries.get(i, self.name(i)) for i in self.inputs], outputs

    def rename(self, tensor: int, name: str) -> str:
        """Name a tensor; a name already taken gets a number. Returns the name given."""
        self._names.discard(self.name(tensor))
        name = self._free_name(name)
        self.tensors[tensor].name = name.encode()
        return name

    def _free_name(self, name: str) -> str:
        if not name:
            return name  # what no one asks for by name; the file is smaller without
        free, number = name, 0
        while free in self._names:
            number += 1
            free = f"{name}_{number}"
        self._names.add(free)
        return free

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Static shape of a tensor."""
        shape = self.tensors[tensor].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def dtype(self, tensor: int) -> str:
        """Element type of a tensor, such as `"int8"`."""
        return _TYPE_NAMES[self.tensors[tensor].type]

    def is_constant(self, tensor: int) -> bool:
        """Whether the tensor's values are in the file."""
        data = self.model.buffers[self.tensors[tensor].buffer].data
        return data is not None and len(data) > 0

    def is_known(self, tensor: int) -> bool:
        """Whether the tensor is constant, or a state that the runtime keeps: no operator gives its values."""
        return self.is_constant(tensor) or bool(self.tensors[tensor].isVariable)

    def constant(self, tensor: int) -> NDArray[Any] | None:
        """Values of a constant tensor in its shape, packed ones as int8, sparse ones as dense; None if computed."""
        if not self.is_constant(tensor):
            return None
        raw = np.ascontiguousarray(self.model.buffers[self.tensors[tensor].buffer].data, dtype=np.uint8)
        if self.tensors[tensor].sparsity is not None:
            return decode(raw.view(_NUMPY_TYPES[self.dtype(tensor)]), self.tensors[tensor].sparsity, self.shape(tensor))
        if self.dtype(tensor) in PACKED_BITS:
            shape = self.shape(tensor)
            return unpack(raw, PACKED_BITS[self.dtype(tensor)])[: math.prod(shape)].reshape(shape)
        return raw.view(_NUMPY_TYPES[self.dtype(tensor)]).reshape(self.shape(tensor))

    def is_float_activation(self, tensor: int) -> bool:
        """Whether the tensor holds float32 values that are computed (or fed) at run time."""
        return tensor >= 0 and self.dtype(tensor) == "float32" and not self.is_constant(tensor)

    def float_inputs(self, op: Any) -> list[int]:
        """Computed float32 inputs of an operator, in order."""
        return [i for i in op.inputs if self.is_float_activation(i)]

    def float_outputs(self, op: Any) -> list[int]:
        """Computed float32 outputs of an operator, in order."""
        return [i for i in op.outputs if self.is_float_activation(i)]

    def producers(self) -> dict[int, Any]:
        """Tensor -> operator that computes it."""
        return {t: op for op in self.operators for t in op.outputs}

    def consumers(self) -> dict[int, list[Any]]:
        """Tensor -> operators that read it (an operator that reads it twice is listed once)."""
        readers: dict[int, list[Any]] = {}
        for op in self.operators:
            for tensor in dict.fromkeys(op.inputs):
                readers.setdefault(tensor, []).append(op)
        return readers

    def add_tensor(self, name: str, shape: Iterable[int], dtype: str) -> int:
        """Append a computed tensor; returns its number."""
        tensor = schema.TensorT()
        tensor.name = self._free_name(name).encode()
        tensor.shape = [int(size) for size in shape]
        tensor.type = _TYPE_CODES[dtype]
        tensor.buffer = 0
        tensor.hasRank = True
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def add_constant(self, name: str, values: NDArray[Any]) -> int:
        """Append a tensor with these values; returns its number."""
        index = self.add_tensor(name, values.shape, values.dtype.name)
        self.set_constant(index, values)
        return index

    def free_constant(self, tensor: int) -> None:
        """Make a constant a computed tensor; its values go where nothing else uses them."""
        self.tensors[tensor].buffer = 0

    def set_constant(self, tensor: int, values: NDArray[Any]) -> None:
        """Give a tensor these values, of its own type, and their shape."""
        buffer = schema.BufferT()
        little = np.ascontiguousarray(values, dtype=_NUMPY_TYPES[self.dtype(tensor)])
        buffer.data = little.reshape(-1).view(np.uint8)
        self.model.buffers.append(buffer)
        self.tensors[tensor].buffer = len(self.model.buffers) - 1
        self.tensors[tensor].shape = list(values.shape)
        self.tensors[tensor].sparsity = None

    def store_sparse(self, tensor: int, block: int) -> None:
        """Store a constant without its blocks of zeros along the last axis, in TFLite's own form of sparse tensors."""
        values = self.constant(tensor)
        if values is None:
            raise ValueError(f"Expected a constant. Received: computed tensor {self.name(tensor)!r}")
        stored, parameters = encode(values, block)
        self.set_constant(tensor, stored)
        self.tensors[tensor].shape = list(values.shape)
        self.tensors[tensor].sparsity = parameters

    def pack_constant(self, tensor: int, bits: int) -> None:
        """Store an int8 constant in 4 or 2 bits a value; several values share a byte.

        Raises:
            ValueError: The schema of this LiteRT has no such type.
        """
        if f"int{bits}" not in _TYPE_CODES:
            raise ValueError(f"Expected a LiteRT with INT{bits} tensors. Received: a version without; update it")
        values, buffer = self.constant(tensor), schema.BufferT()
        if values is None:
            raise ValueError(f"Expected a constant. Received: computed tensor {self.name(tensor)!r}")
        buffer.data = pack(values, bits)
        # A buffer of its own: another tensor may read the old one as int8.
        self.model.buffers.append(buffer)
        self.tensors[tensor].buffer = len(self.model.buffers) - 1
        self.tensors[tensor].type = _TYPE_CODES[f"int{bits}"]

    def set_type(self, tensor: int, dtype: str) -> None:
        """Change the element type of a computed tensor."""
        self.tensors[tensor].type = _TYPE_CODES[dtype]

    def set_quantization(
        self, tensor: int, scale: NDArray[np.float32], zero_point: int = 0, dimension: int = 0
    ) -> None:
        """Give a tensor its scales (one, or one per index of `dimension`) and zero point."""
        quantization = schema.QuantizationParametersT()
        quantization.scale = np.asarray(scale, dtype=np.float32).reshape(-1)
        quantization.zeroPoint = np.full(quantization.scale.size, zero_point, dtype=np.int64)
        quantization.quantizedDimension = dimension if quantization.scale.size > 1 else 0
        self.tensors[tensor].quantization = quantization

    def quantization(self, tensor: int) -> tuple[NDArray[np.float32], int] | None:
        """Scales and zero point of a tensor, or None."""
        quantization = self.tensors[tensor].quantization
        if quantization is None or quantization.scale is None or len(quantization.scale) == 0:
            return None
        zero_points = quantization.zeroPoint
        zero_point = 0 if zero_points is None or len(zero_points) == 0 else int(zero_points[0])
        return np.asarray(quantization.scale, dtype=np.float32), zero_point

    def make_operator(
        self, kind: str, inputs: Sequence[int], outputs: Sequence[int], options: Any = None, custom: str = ""
    ) -> Any:
        """A new operator (not yet placed in the graph).

        Args:
            kind: Name of the operator; `"CUSTOM"` for one that is named by `custom`.
            inputs: Tensors; -1 stands for one that is left out.
            outputs: Tensors.
            options: The schema's options object.
            custom: Name of a custom operator.
        """
        if (kind, custom) not in self._code_numbers:
            self._code_numbers[kind, custom] = len(self.model.operatorCodes)
            self.model.operatorCodes.append(_operator_code(kind, 1, custom.encode() or None))
        op = schema.OperatorT()
        op.opcodeIndex = self._code_numbers[kind, custom]
        op.inputs, op.outputs = list(inputs), list(outputs)
        if options is not None:
            op.builtinOptions = options
            op.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        return op

    def raise_version(self, op: Any, version: int) -> None:
        """Ask for at least this version of the operator's kind."""
        code = self.model.operatorCodes[op.opcodeIndex]
        code.version = max(code.version, version)
