"""Broken and hostile `.tflite` files: seeded mutations for the fuzz test and `benchmarks/fuzz.py`.

Each mutation says whether it keeps a valid header (root offset and identifier), so that the file reaches a runtime.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

Generator = np.random.Generator
HEADER_BYTES = 8
NUMBERS = (-(2**31), -1000, -2, -1, 0, 1, 2, 3, 7, 127, 128, 255, 4097, 65536, 2**24, 2**31 - 1)
REALS = (0.0, -1.0, 1e-45, 1e-10, 1.0, 1e10, 3.4e38, float("inf"), -float("inf"), float("nan"))


def pick(generator: Generator, values: Any) -> Any:
    """One of the values, as it is: `Generator.choice` would make an array of them."""
    return values[int(generator.integers(len(values)))]


def _number(generator: Generator) -> int:
    return int(pick(generator, NUMBERS)) if generator.random() < 0.8 else int(generator.integers(0, 300))


def _graph(model: Any, generator: Generator) -> Any:
    return pick(generator, model.subgraphs)


def _tensor(model: Any, generator: Generator) -> Any:
    return pick(generator, _graph(model, generator).tensors)


def _operator(model: Any, generator: Generator) -> Any:
    return pick(generator, _graph(model, generator).operators)


def shape(model: Any, generator: Generator) -> None:
    tensor = _tensor(model, generator)
    sizes = [int(n) for n in (tensor.shape if tensor.shape is not None else [])]
    what = generator.integers(4)
    if what == 0 or not sizes:
        sizes.insert(int(generator.integers(len(sizes) + 1)), _number(generator))
    elif what == 1:
        sizes.pop(int(generator.integers(len(sizes))))
    else:
        sizes[int(generator.integers(len(sizes)))] = _number(generator)
    tensor.shape = sizes
    if generator.random() < 0.3:
        tensor.shapeSignature = [_number(generator) for _ in sizes]


def huge_shapes(model: Any, generator: Generator) -> None:
    """Activations of some 100 GB: whoever allocates them must die alone."""
    graph = _graph(model, generator)
    chosen = [t for t in graph.tensors if model.buffers[t.buffer].data is None or generator.random() < 0.2]
    for tensor in chosen or graph.tensors:
        if tensor.shape is not None and len(tensor.shape):
            sizes = [int(n) for n in tensor.shape]
            sizes[-1] = int(pick(generator, (10**9, 2**31 - 1, 10**8)))
            sizes[0] = int(pick(generator, (1, 100, 1000)))
            tensor.shape = sizes


def kind_of_number(model: Any, generator: Generator) -> None:
    _tensor(model, generator).type = int(generator.integers(-1, 26))


def buffer_index(model: Any, generator: Generator) -> None:
    choices = (0, 1, len(model.buffers) - 1, len(model.buffers), 2**31, 2**32 - 1, int(generator.integers(64)))
    _tensor(model, generator).buffer = pick(generator, choices)


def buffer_length(model: Any, generator: Generator) -> None:
    filled = [b for b in model.buffers if b.data is not None and len(b.data)]
    chosen = pick(generator, filled)
    data = np.asarray(chosen.data, np.uint8)
    length = int(pick(generator, (0, 1, len(data) - 1, len(data) + 1, len(data) // 2, 4 * len(data))))
    chosen.data = np.resize(data, length)


def buffer_offset(model: Any, generator: Generator) -> None:
    chosen = pick(generator, model.buffers)
    chosen.offset = int(pick(generator, (2, 8, 100, 10**4, 2**31, 2**40, 2**63 + 1, 2**64 - 1)))
    chosen.size = int(pick(generator, (0, 1, 64, 10**5, 2**31, 2**40, 2**64 - 1)))
    if generator.random() < 0.5:
        chosen.data = None


def quantization(model: Any, generator: Generator) -> None:
    tensors = [t for g in model.subgraphs for t in g.tensors]
    found = [t for t in tensors if t.quantization is not None and t.quantization.scale is not None]
    tensor = pick(generator, found or tensors)
    if tensor.quantization is None:
        tensor.quantization = schema.QuantizationParametersT()
    entry, what = tensor.quantization, generator.integers(6)
    scales = np.asarray(entry.scale if entry.scale is not None else [1.0], np.float32)
    if what == 0:
        entry.scale = np.full_like(scales, pick(generator, REALS))
    elif what == 1:
        entry.scale = np.resize(scales, int(pick(generator, (0, 1, 2, len(scales) + 1, 1000))))
    elif what == 2:
        entry.zeroPoint = np.full(len(scales), pick(generator, (-(2**63), -129, 128, 1000, 2**40)), np.int64)
    elif what == 3:
        entry.zeroPoint = None if generator.random() < 0.5 else np.zeros(int(generator.integers(9)), np.int64)
    elif what == 4:
        entry.quantizedDimension = _number(generator)
    else:
        entry.scale = np.where(generator.random(scales.shape) < 0.5, scales, np.float32(pick(generator, REALS)))


def operator_code(model: Any, generator: Generator) -> None:
    code = pick(generator, model.operatorCodes)
    code.builtinCode = int(
        pick(generator, (-1, 32, 127, 208, 209, 2**31 - 1, *map(int, generator.integers(0, 207, 9))))
    )
    code.deprecatedBuiltinCode = min(max(code.builtinCode, -128), 127)
    if generator.random() < 0.3:
        code.version = _number(generator)
    if generator.random() < 0.2:
        code.customCode = pick(generator, (b"", b"\x1b[31mFlex", b"FlexEval", b"x" * 5000))


def operator_operands(model: Any, generator: Generator) -> None:
    operator = _operator(model, generator)
    field = pick(generator, ("inputs", "outputs"))
    found = getattr(operator, field)
    operands = [int(i) for i in (found if found is not None else [])]
    what = generator.integers(4)
    if what == 0 and operands:
        operands.pop(int(generator.integers(len(operands))))
    elif what == 1 or not operands:
        operands.append(int(generator.integers(0, 20)))
    else:
        operands[int(generator.integers(len(operands)))] = int(
            pick(generator, (-1, -2, 0, 1, 2, 3, 999, 2**31 - 1, int(generator.integers(20))))
        )
    setattr(operator, field, operands)


def operator_index(model: Any, generator: Generator) -> None:
    _operator(model, generator).opcodeIndex = int(pick(generator, (0, 1, 2, len(model.operatorCodes), 2**32 - 1)))


def options(model: Any, generator: Generator) -> None:
    operator = _operator(model, generator)
    fields = [key for key, value in vars(operator.builtinOptions or object).items() if isinstance(value, int)]
    fields = [key for key in fields if not key.startswith("_")]
    if fields and generator.random() < 0.8:
        key = pick(generator, fields)
        value = _number(generator)
        small = isinstance(getattr(operator.builtinOptions, key), bool) or key not in _WIDE_OPTIONS
        setattr(operator.builtinOptions, key, value % 128 if small else value)
    elif generator.random() < 0.5:
        operator.builtinOptions = None
    else:
        operator.builtinOptionsType = int(generator.integers(0, 126))


_WIDE_OPTIONS = (
    "strideW", "strideH", "dilationWFactor", "dilationHFactor", "depthMultiplier", "filterWidth", "filterHeight",
    "axis", "numSplits",
)  # fmt: skip


def graph_ends(model: Any, generator: Generator) -> None:
    graph = _graph(model, generator)
    field = pick(generator, ("inputs", "outputs"))
    count = len(graph.tensors)
    choices: tuple[list[int], ...] = (
        [], [-1], [count], [2**31 - 1], [0, 0], [count - 1], list(range(count)), [int(generator.integers(count))],
    )  # fmt: skip
    setattr(graph, field, pick(generator, choices))


def graphs(model: Any, generator: Generator) -> None:
    what = generator.integers(4)
    if what == 0:
        model.subgraphs = []
    elif what == 1:
        model.subgraphs = model.subgraphs * int(generator.integers(2, 5))
    elif what == 2:
        _graph(model, generator).operators = []
    else:
        graph = _graph(model, generator)
        graph.operators = [graph.operators[i] for i in generator.permutation(len(graph.operators))]


def many_operators(model: Any, generator: Generator) -> None:
    """The same operators again and again: time without end if nothing counts."""
    graph = _graph(model, generator)
    # Packing a million of them would take this test a minute.
    graph.operators = (graph.operators * int(generator.integers(2, 400)))[:3000]


def endless_loop(model: Any, generator: Generator) -> None:
    """A WHILE whose condition and body are this very graph, or one whose condition never changes."""
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = int(schema.BuiltinOperator.WHILE)
    code.version = 1
    model.operatorCodes.append(code)
    choices = schema.WhileOptionsT()
    choices.condSubgraphIndex = choices.bodySubgraphIndex = 0
    if generator.random() < 0.7:
        model.subgraphs += _loop_graphs()
        choices.condSubgraphIndex, choices.bodySubgraphIndex = len(model.subgraphs) - 2, len(model.subgraphs) - 1
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.builtinOptionsType, operator.builtinOptions = int(schema.BuiltinOptions.WhileOptions), choices
    graph = model.subgraphs[0]
    buffer = schema.BufferT()
    buffer.data = np.ones(1, np.uint8)
    model.buffers.append(buffer)
    graph.tensors += [_truth(len(model.buffers) - 1), _truth(0)]
    operator.inputs, operator.outputs = [len(graph.tensors) - 2], [len(graph.tensors) - 1]
    graph.operators = [operator, *graph.operators]


def _truth(buffer: int) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = b"truth", [1], int(schema.TensorType.BOOL), buffer
    return tensor


def _loop_graphs() -> list[Any]:
    """A condition and a body that hand on what they get."""
    made = []
    for name in (b"condition", b"body"):
        graph = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = name, [_truth(0)], []
        graph.inputs, graph.outputs = [0], [0]
        made.append(graph)
    return made


def signatures(model: Any, generator: Generator) -> None:
    for signature in model.signatureDefs or []:
        for entry in (*(signature.inputs or []), *(signature.outputs or [])):
            if generator.random() < 0.5:
                entry.tensorIndex = int(pick(generator, (0, 3, 999, 2**32 - 1)))
            if generator.random() < 0.3:
                entry.name = pick(generator, (b"", None, b"\xff\xfe", b"\x1b[2J<script>", b"n" * 3000))
        if generator.random() < 0.3:
            signature.subgraphIndex = int(pick(generator, (1, 99, 2**32 - 1)))


def names(model: Any, generator: Generator) -> None:
    hostile = (b"", None, b"\xff\xfe\xfa", b"\x1b[31mred\x1b]0;title\x07", b"<script>alert(1)</script>", b"[red]x[/]")
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if generator.random() < 0.5:
                tensor.name = pick(generator, (*hostile, b"same", b"n" * 100_000))


def sparsity(model: Any, generator: Generator) -> None:
    tensor = _tensor(model, generator)
    entry = schema.SparsityParametersT()
    entry.traversalOrder = [_number(generator) for _ in range(int(generator.integers(4)))]
    entry.blockMap = [_number(generator) for _ in range(int(generator.integers(2)))]
    dimension = schema.DimensionMetadataT()
    dimension.format, dimension.denseSize = int(generator.integers(3)), _number(generator)
    entry.dimMetadata = [dimension] * int(generator.integers(4))
    tensor.sparsity = entry


STRUCTURED: tuple[Callable[[Any, Generator], None], ...] = (
    shape, huge_shapes, kind_of_number, buffer_index, buffer_length, buffer_offset, quantization, operator_code,
    operator_operands, operator_index, options, graph_ends, graphs, many_operators, endless_loop, signatures, names,
    sparsity,
)  # fmt: skip


def structured(content: bytes, generator: Generator) -> tuple[str, bytes]:
    """One or two mutations of the parsed file, packed again: its header and tables are valid, its meaning is not."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    chosen = [pick(generator, STRUCTURED) for _ in range(1 + int(generator.random() < 0.2))]
    applied = []
    for mutation in chosen:
        try:
            mutation(model, generator)
        except (IndexError, ValueError, TypeError):
            continue  # an earlier one took away what this one changes
        applied.append(mutation.__name__)
    try:
        return "+".join(applied), bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    except (struct.error, TypeError, ValueError, OverflowError):
        return flipped(content, generator)  # a number that no field can hold


def flipped(content: bytes, generator: Generator) -> tuple[str, bytes]:
    """Bits or bytes changed anywhere behind the header."""
    data = bytearray(content)
    for position in generator.integers(HEADER_BYTES, len(data), int(generator.integers(1, 24))):
        data[position] = (
            data[position] ^ (1 << int(generator.integers(8)))
            if generator.random() < 0.5
            else pick(generator, (0, 1, 127, 128, 255))
        )
    return "flipped", bytes(data)


def offsets(content: bytes, generator: Generator) -> tuple[str, bytes]:
    """Aligned 32-bit words behind the header, where offsets and lengths lie, set to extremes."""
    data = bytearray(content)
    for _ in range(int(generator.integers(1, 5))):
        position = 4 * int(generator.integers(HEADER_BYTES // 4, len(data) // 4))
        struct.pack_into("<I", data, position, int(pick(generator, (0, 1, 4, 8, 2**16, 2**31 - 1, 2**31, 2**32 - 1))))
    return "offsets", bytes(data)


def vtables(content: bytes, generator: Generator) -> tuple[str, bytes]:
    """Entries of the vtables (where each field of a table lies) or the tables' way to them."""
    data, tables = bytearray(content), _tables(content)
    for _ in range(int(generator.integers(1, 4))):
        table = pick(generator, tables)
        vtable = table - struct.unpack_from("<i", content, table)[0]
        size = struct.unpack_from("<H", content, vtable)[0]
        if generator.random() < 0.2:
            struct.pack_into("<i", data, table, int(pick(generator, (0, 4, -4, 2**31 - 1, -(2**31), 1000))))
        else:
            place = vtable + 2 * int(generator.integers(size // 2))
            struct.pack_into("<H", data, place, int(pick(generator, (0, 1, 2, 4, 8, 64, 255, 4096, 65535))))
    return "vtables", bytes(data)


def _tables(content: bytes) -> list[int]:
    model = schema.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    found = [model, graph, model.OperatorCodes(0), model.Buffers(1)]
    found += [graph.Tensors(i) for i in range(graph.TensorsLength())]
    found += [graph.Operators(i) for i in range(graph.OperatorsLength())]
    found += [q for i in range(graph.TensorsLength()) if (q := graph.Tensors(i).Quantization()) is not None]
    return [table._tab.Pos for table in found]


def truncated(content: bytes, generator: Generator) -> tuple[str, bytes]:
    """Cut anywhere, the first bytes and the last ones more often."""
    cuts = (int(generator.integers(0, 16)), int(generator.integers(len(content))), len(content) - 1)
    return "truncated", content[: pick(generator, cuts)]


def noise(content: bytes, generator: Generator) -> tuple[str, bytes]:
    """Random bytes, half of them behind a header."""
    data = generator.bytes(int(generator.integers(0, 4000)))
    header = struct.pack("<I", int(generator.integers(8, 64))) + b"TFL3"
    return ("noise behind a header", header + data) if generator.random() < 0.5 else ("noise", data)


def mutate_tflite(content: bytes, generator: Generator) -> tuple[str, bytes]:
    """A broken copy of a `.tflite` file: what was done, and the bytes.

    Nine in ten keep the header; most of these are well-formed flatbuffers that a runtime begins to load.
    """
    ways = (structured, flipped, offsets, vtables, truncated, noise)
    way = ways[int(generator.choice(len(ways), p=(0.62, 0.11, 0.07, 0.1, 0.06, 0.04)))]
    return way(content, generator)


def has_header(content: bytes) -> bool:
    """Whether the file begins as one and its root lies inside, so that it is handed to a runtime."""
    return (
        len(content) >= HEADER_BYTES
        and content[4:8] == b"TFL3"
        and struct.unpack_from("<I", content)[0] + 4 <= len(content)
    )
