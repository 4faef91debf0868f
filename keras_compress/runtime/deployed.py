"""A `.tflite` file as a function from Keras's inputs to Keras's outputs, on any runtime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_compress.convert.artifact import Artifact
from keras_compress.core.affine import QuantSpec, dequantize, quantize_to_int
from keras_compress.core.registry import register
from keras_compress.data.samples import InputSpec, filled, of_samples, samples
from keras_compress.runtime.process_target import check_header
from keras_compress.runtime.target import Target, TensorSpec
from keras_compress.runtime.target import target as find_target

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
        x: Samples in any form that `keras_compress.data.samples.batches_of` takes.
        specs: The file's inputs.

    Raises:
        ValueError: For a wrong number or names of inputs.
    """
    inputs = [InputSpec(tuple(filter(None, (spec.signature_name, spec.name)))) for spec in specs]
    return [as_input(array, spec) for array, spec in zip(samples(x, inputs), specs, strict=True)]


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
    """Outputs as real numbers, in the file's order; integer inputs and outputs are converted by their scales.

    A file made for several samples at a time runs as many in each call; the last call is filled with the last sample.
    """
    signature = target.describe(content, label)
    arrays = input_arrays(x, signature.inputs)
    batch = _batch(arrays, signature.inputs)
    outputs = target.run(content, _grouped(arrays, batch), label)
    if batch > 1:
        filled_to = batch * -(-len(arrays[0]) // batch)
        outputs = [of_samples(array.reshape(-1, *array.shape[2:]), len(arrays[0]), filled_to) for array in outputs]
    return [_as_real(array, spec) for array, spec in zip(outputs, signature.outputs, strict=True)]


def grouped_inputs(target: Target, content: bytes, x: Any, label: str = "") -> list[Array]:
    """The data as a file's calls take them: axis 0 counts the calls."""
    signature = target.describe(content, label)
    arrays = input_arrays(x, signature.inputs)
    return _grouped(arrays, _batch(arrays, signature.inputs))


def _batch(arrays: Sequence[Array], specs: Sequence[TensorSpec]) -> int:
    """Samples that a file takes in one call: the first axis of its inputs, which the data have for all samples."""
    sizes = {
        spec.shape[0] if spec.shape and a.ndim == len(spec.shape) else 1 for a, spec in zip(arrays, specs, strict=True)
    }
    return sizes.pop() if len(sizes) == 1 else 1


def _grouped(arrays: list[Array], batch: int) -> list[Array]:
    if batch < 2:
        return arrays
    return [array.reshape(-1, batch, *array.shape[1:]) for array in filled(arrays, batch)]


def _as_real(array: Array, spec: TensorSpec) -> Array:
    if spec.dtype not in _INTEGERS or not spec.scales:
        return array
    real = dequantize(array.astype(np.float32), np.float32(spec.scales[0]), float(spec.zero_points[0]))
    return np.asarray(real)


@register("file_runner", "tflite")
def run_file(path: str | os.PathLike[str], x: Any) -> list[Array]:
    """Outputs of a `.tflite` file on LiteRT, as real numbers."""
    content, label = content_of(path)
    return run(find_target("litert"), content, x, label)
