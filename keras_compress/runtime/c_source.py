"""C++ sources around a `.tflite` file for TFLite-Micro: array, constants, and the operators it needs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from keras_compress.runtime.target import TensorSpec
from keras_compress.tflite.bit_format import OPERATORS
from keras_compress.tflite.flatbuffer import kind_of
from keras_compress.tflite.lowering.support import has_kernel

_BYTES_IN_A_LINE = 20
_LONGEST_NAME = 100
_KEEPS_STATES = "AddUnidirectionalSequenceLSTM"
# Methods of TFLite-Micro's MicroMutableOpResolver are called as the operator, in camel case, but for these.
_METHODS = {
    "BATCH_MATMUL": "AddBatchMatMul",
    "CUMSUM": "AddCumSum",
    "PADV2": "AddPadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _KEEPS_STATES,
}
_CUSTOM_METHODS = {
    "CIRCULAR_BUFFER": "AddCircularBuffer",
    "TFLM_DECODE": "AddDecode",
    "TFLite_Detection_PostProcess": "AddDetectionPostprocess",
    "ethos-u": "AddEthosU",
}
# Those whose sources are written beside the model.
OWN_OPERATORS = tuple(OPERATORS.values())


def resolver_method(kind: str, custom: str = "") -> str:
    """Method of TFLite-Micro's `MicroMutableOpResolver` that adds an operator.

    Args:
        kind: Name of the operator; `"CUSTOM"` for one that is named by `custom`.
        custom: Name of a custom operator.

    Returns:
        Its name; of an operator of this library `"AddCustom:"` and the operator.

    Raises:
        ValueError: If there is none; the message names the operator.

    >>> resolver_method("DEPTHWISE_CONV_2D"), resolver_method("CUSTOM", "TFLM_DECODE")
    ('AddDepthwiseConv2D', 'AddDecode')
    """
    if kind == "CUSTOM" and custom in _CUSTOM_METHODS:
        return _CUSTOM_METHODS[custom]
    if kind == "CUSTOM" and custom in OWN_OPERATORS:
        return f"AddCustom:{custom}"
    if kind == "CUSTOM" or not has_kernel(kind):
        named = f"the custom operator {custom!r}" if kind == "CUSTOM" else kind
        raise ValueError(f"Expected operators that TFLite-Micro has. Received: {named}, which its resolver cannot add")
    words = "".join(word.capitalize() for word in kind.split("_"))
    return _METHODS.get(kind, f"Add{words.replace('2d', '2D')}")


def resolver_methods(model: Any) -> list[str]:
    """Methods that add the operators of a model (the schema's `ModelT`), each once, by name.

    Raises:
        ValueError: For an operator that TFLite-Micro does not have, or a model without operators.
    """
    used = {
        (kind_of(model, op), (model.operatorCodes[op.opcodeIndex].customCode or b"").decode("utf-8", "replace"))
        for subgraph in model.subgraphs
        for op in subgraph.operators
    }
    if not used:
        raise ValueError("Expected a model with operators. Received: none")
    return sorted(resolver_method(*names) for names in used)


def data_source(name: str, content: bytes) -> bytes:
    """`<name>_data.cc`: the file's bytes as an array."""
    head = f"""/* {_what(name, content)} */
#include "{name}_data.h"

alignas(16) const unsigned char g_{name}_data[{len(content)}] = {{
"""
    tail = f"""}};
const unsigned int g_{name}_data_size = {len(content)};
"""
    return head.encode() + hex_lines(content) + tail.encode()


def hex_lines(content: bytes) -> bytes:
    """Bytes as the lines of a C initializer, such as `  0x1c,0x00,`."""
    cells = np.frombuffer("".join(f"0x{value:02x}," for value in range(256)).encode(), np.uint8).reshape(256, 5)
    text = cells[np.frombuffer(content, np.uint8)].reshape(-1)
    count, width = len(content) // _BYTES_IN_A_LINE, 5 * _BYTES_IN_A_LINE
    lines = np.full((count, 2 + width + 1), ord(" "), np.uint8)
    lines[:, 2:-1] = text[: count * width].reshape(count, width)
    lines[:, -1] = ord("\n")
    rest = text[count * width :].tobytes()
    return lines.tobytes() + (b"  " + rest + b"\n" if rest else b"")


def data_header(
    name: str,
    content: bytes,
    arena: tuple[int, str],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> bytes:
    """`<name>_data.h`, for C and C++: the array, the arena's size, inputs and outputs.

    Args:
        name: A C identifier.
        content: The `.tflite` file.
        arena: Its bytes, and where the number comes from.
        inputs: In the file's order.
        outputs: In the file's order.

    Raises:
        ValueError: For a scale that is not finite.
    """
    upper = name.upper()
    constants = "\n".join((*_tensors(upper, "INPUT", inputs), "", *_tensors(upper, "OUTPUT", outputs)))
    return f"""/* {_what(name, content)} */
#ifndef {upper}_DATA_H_
#define {upper}_DATA_H_

#ifdef __cplusplus
extern "C" {{
#endif

/* The .tflite file, on a 16-byte boundary. */
extern const unsigned char g_{name}_data[{len(content)}];
extern const unsigned int g_{name}_data_size;

#ifdef __cplusplus
}}
#endif

/* Bytes of the tensor arena; put it on a 16-byte boundary too. {arena[1]} */
#define {upper}_ARENA_BYTES {arena[0]}

/* Inputs and outputs: real value = SCALE * (integer - ZERO_POINT). */
{constants}

#endif /* {upper}_DATA_H_ */
""".encode()


def ops_header(name: str, methods: Sequence[str]) -> bytes:
    """`<name>_ops.h`: the resolver with exactly these operators; needs TFLite-Micro's headers."""
    upper = name.upper()
    # A sequence would start where the last one ended.
    reset = "\n//   interpreter.Reset();  // before each sequence" if _KEEPS_STATES in methods else ""
    steps = "\n".join(f"  if (status == kTfLiteOk) status = resolver.{_call(method)};" for method in methods)
    own = any(method.startswith("AddCustom:") for method in methods)
    include = '#include "kc_binary_tflm.h"\n' if own else ""
    return f"""// Operators of {name} for TFLite-Micro. Generated by keras-compress; do not edit.
//
//   {name}_ops::OpResolver resolver;
//   if ({name}_ops::AddOps(resolver) != kTfLiteOk) {{ ... }}
//   alignas(16) static uint8_t arena[{upper}_ARENA_BYTES];
//   tflite::MicroInterpreter interpreter(tflite::GetModel(g_{name}_data), resolver, arena, sizeof(arena));{reset}
#ifndef {upper}_OPS_H_
#define {upper}_OPS_H_

{include}#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

// TFLite-Micro's classes are in tflite, or, in newer versions, in tflite::micro.
namespace tflite {{
namespace micro {{}}
}}  // namespace tflite

namespace {name}_ops {{

using namespace ::tflite;
using namespace ::tflite::micro;

constexpr unsigned int kOpCount = {len(methods)};
using OpResolver = MicroMutableOpResolver<kOpCount>;

// Adds the operators that the model uses, and no others; tells the first failure. A larger resolver takes more.
template <unsigned int kCapacity>
inline TfLiteStatus AddOps(MicroMutableOpResolver<kCapacity>& resolver) {{
  static_assert(kCapacity >= kOpCount, "the resolver is too small");
  TfLiteStatus status = kTfLiteOk;
{steps}
  return status;
}}

}}  // namespace {name}_ops

#endif  // {upper}_OPS_H_
""".encode()


def _call(method: str) -> str:
    name, _, operator = method.partition(":")
    return f'{name}("{operator}", ::keras_compress::Register_{operator}())' if operator else f"{name}()"


def _what(name: str, content: bytes) -> str:
    return f"{name}: a model of {len(content):,} bytes for TFLite-Micro. Generated by keras-compress; do not edit."


def _tensors(upper: str, kind: str, specs: Iterable[TensorSpec]) -> Iterator[str]:
    specs = tuple(specs)
    yield f"#define {upper}_{kind}_COUNT {len(specs)}"
    for number, spec in enumerate(specs):
        prefix = f"{upper}_{kind}_{number}"
        yield f'/* {prefix}: "{_harmless(spec.signature_name or spec.name)}", {spec.dtype} {list(spec.shape)} */'
        yield f"#define {prefix}_ELEMENTS {math.prod(spec.shape)}"
        if spec.scales:
            if not math.isfinite(spec.scales[0]):
                raise ValueError(f"Expected finite scales. Received: {spec.scales[0]} of {spec.name!r}")
            yield f"#define {prefix}_SCALE {np.float32(spec.scales[0])!s}f"
            yield f"#define {prefix}_ZERO_POINT ({spec.zero_points[0]})"


def _harmless(name: str) -> str:
    """A name out of a file as part of a comment, which it must not end."""
    return re.sub(r"[^A-Za-z0-9_.:/; -]", "_", name)[:_LONGEST_NAME]
