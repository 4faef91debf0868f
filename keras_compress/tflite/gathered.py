"""Weights that GATHER looks up in a codebook of vectors while the model runs, as a file has them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.tflite.encoding.vectors import BYTE_CODES, LONGEST

_BEHIND, _BEFORE = ("TRANSPOSE", "RESHAPE"), ("ADD", "CAST")
# Whose kernels take a computed weight on TFLite-Micro, with the same integers.
READERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def gather_sources(operators: Sequence[Any]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Weight that is looked up -> the tensors of its codewords and its codes.

    Args:
        operators: Each with `name`, `inputs` and `outputs`.
    """
    read = {op.inputs[1] for op in operators if op.name in READERS and len(op.inputs) > 1}
    made_by = {op.outputs[0]: op for op in operators if len(op.outputs) == 1 and op.inputs}
    for op in operators:
        current = op if op.name in _BEHIND and len(op.outputs) == 1 and op.outputs[0] in read else None
        for _ in _BEHIND:
            if current is not None and current.name in _BEHIND and current.inputs:
                current = made_by.get(current.inputs[0])
        if current is None or current.name != "GATHER" or len(current.inputs) != 2:
            continue
        book, codes = current.inputs
        for name in _BEFORE:
            maker = made_by.get(codes)
            codes = maker.inputs[0] if maker is not None and maker.name == name else codes
        if min(book, codes) >= 0:
            yield op.outputs[0], (book, codes)


def gathered_values(words: NDArray[np.int8], codes: NDArray[Any], size: int, shape: Sequence[int]) -> NDArray[np.int8]:
    """The values of a weight, in the order in which they are looked up.

    Args:
        words: Codewords, one behind the other.
        codes: As they are stored.
        size: Of a codeword.
        shape: Of the weight.

    Raises:
        ValueError: Where these do not fit each other.
    """
    if not 1 <= size <= LONGEST or words.size % size or math.prod(shape) != codes.size * size:
        raise ValueError(f"{codes.size:,} codes of vectors of {size} do not make a tensor of shape {tuple(shape)}")
    numbers = codes.astype(np.int64)
    if numbers.size and numbers.min() < 0:
        numbers += BYTE_CODES // 2
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < words.size // size:
        raise ValueError("a code has no codeword")
    found: NDArray[np.int8] = words.reshape(-1, size)[numbers].reshape(-1)
    return found
