"""A `.tflite` file as a function from Keras's inputs to Keras's outputs, on any runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_compress.convert.artifact import Artifact
from keras_compress.core.affine import QuantSpec, dequantize, quantize_to_int
from keras_compress.runtime.process_target import check_header
from keras_compress.runtime.target import Target, TensorSpec

Array = NDArray[Any]
_INTEGERS = {
    "int8": QuantSpec(8, symmetric=False, narrow_range=False),
    "uint8": QuantSpec(8, signed=False, symmetric=False, narrow_range=False),
    "int16": QuantSpec(16, symmetric=False, narrow_range=False),
}


def content_of(model: Artifact | bytes | str | os.PathLike[str]) -> tuple[bytes, str]:
    """Bytes and label of a converted model, a `.tflite` file's content, or its path.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not a `.tflite` file.
        TypeError: For anything else.
    """
    if isinstance(model, Artifact):
        return model.content, f"{model.target} {model.mode} model"
    if isinstance(model, bytes):
        content, label = model, "model"
    elif isinstance(model, (str, os.PathLike)):
        content, label = Path(model).read_bytes(), os.fspath(model)
    else:
        raise TypeError(
            f"Expected an Artifact, the bytes of a .tflite file, or its path. Received: {type(model).__name__}"
        )
    check_header(content, label)
    return content, label


def input_arrays(x: Any, specs: Sequence[TensorSpec]) -> list[Array]:
    """The data as one array for each input, in the file's order.

    Args:
        x: An array, a list of arrays, or a mapping from input names to arrays.
        specs: The file's inputs.

    Raises:
        ValueError: For a wrong number or names of inputs.
    """
    if isinstance(x, Mapping):
        names = [spec.signature_name or spec.name for spec in specs]
        if set(names) != set(x):
            raise ValueError(f"Expected data for the inputs {names}. Received: {sorted(x)}")
        arrays = [np.asarray(x[name]) for name in names]
    else:
        arrays = [np.asarray(a) for a in (x if isinstance(x, (list, tuple)) else [x])]
    if len(arrays) != len(specs):
        raise ValueError(f"Expected {len(specs)} inputs. Received: {len(arrays)}")
    return [as_input(array, spec) for array, spec in zip(arrays, specs, strict=True)]


def as_input(array: Array, spec: TensorSpec) -> Array:
    """Data as an input takes them: real numbers become the integers of its scale where it holds integers."""
    if spec.dtype in _INTEGERS and spec.scales and array.dtype.kind == "f":
        integers = quantize_to_int(
            array.astype(np.float32), np.float32(spec.scales[0]), float(spec.zero_points[0]), _INTEGERS[spec.dtype]
        )
        return np.asarray(ops.convert_to_numpy(integers)).astype(spec.dtype)
    if spec.dtype.startswith("float") and array.dtype.kind == "f":
        return array.astype(spec.dtype)
    return array


def run(target: Target, content: bytes, x: Any, label: str = "") -> list[Array]:
    """Outputs as real numbers, in the file's order; integer inputs and outputs are converted by their scales."""
    signature = target.describe(content, label)
    outputs = target.run(content, input_arrays(x, signature.inputs), label)
    return [_as_real(array, spec) for array, spec in zip(outputs, signature.outputs, strict=True)]


def _as_real(array: Array, spec: TensorSpec) -> Array:
    if spec.dtype not in _INTEGERS or not spec.scales:
        return array
    real = dequantize(array.astype(np.float32), np.float32(spec.scales[0]), float(spec.zero_points[0]))
    return np.asarray(real)
