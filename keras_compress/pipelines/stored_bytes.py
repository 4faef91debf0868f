"""What the weights of each layer take in a file at each width, read from files that `convert` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_compress.convert.convert import convert
from keras_compress.pipelines.file_costs import is_of
from keras_compress.tflite.inspection import inspect_tflite

# Of buffers in a file, and what lies between two: the length of the one, the table of the other.
_ALIGNMENT = 16
_BETWEEN = 12


@dataclass(frozen=True)
class StoredBytes:
    """Bytes of a file, as a sum.

    Attributes:
        others: What is no weight of a layer whose bits are chosen.
        weights: Path of a layer -> bits -> bytes of its weights.
    """

    others: int
    weights: Mapping[str, Mapping[int, int]]


@dataclass(frozen=True)
class Files:
    """How files are written.

    Attributes:
        target: As for `kc.convert`.
        storage: Likewise, `weights_storage`.
        samples: Likewise, `representative_dataset`: for layers that integer kernels know as several.
    """

    target: str
    storage: str
    samples: Any

    def of(self, model: keras.Model) -> bytes:
        """The int8 file of a quantized model."""
        options = {"weights_storage": self.storage, "representative_dataset": self.samples}
        return convert(model, self.target, mode="int8", **options).content


def stored_bytes(contents: Mapping[int, bytes], paths: Sequence[str]) -> StoredBytes:
    """What `convert` writes for models all of whose weights have one width.

    One file for each width says whether the target takes packed weights of each operator.

    Args:
        contents: Bits -> the file of the model with them.
        paths: Layers whose bits are chosen.
    """
    others: list[int] = []
    found: dict[str, dict[int, int]] = {path: {} for path in paths}
    for bits, content in contents.items():
        stats = inspect_tflite(content)
        for path in paths:
            found[path][bits] = sum(_aligned(weight.bytes) for weight in stats.weights if is_of(weight.name, path))
        others.append(stats.raw_bytes - sum(taken[bits] for taken in found.values()))
    # Of the widest weights, which have no dead channels that the others lack.
    return StoredBytes(others[list(contents).index(max(contents))], found)


def _aligned(count: int) -> int:
    """Bytes of a buffer with what is between it and the next, which begins at a multiple."""
    return -(-(count + _BETWEEN) // _ALIGNMENT) * _ALIGNMENT
