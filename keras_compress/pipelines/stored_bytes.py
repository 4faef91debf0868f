"""What the weights of each layer take in a file at each width, read from files that `convert` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_compress.convert.convert import convert
from keras_compress.tflite.inspection import TensorStats, inspect_tflite

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


def stored_bytes(models: Mapping[int, keras.Model], paths: Sequence[str], files: Files) -> StoredBytes:
    """What `convert` writes for models all of whose weights have one width.

    One conversion for each width says whether the target takes packed weights of each operator.

    Args:
        models: Bits -> the model with them.
        paths: Layers whose bits are chosen.
        files: How files are written.
    """
    others: list[int] = []
    found: dict[str, dict[int, int]] = {path: {} for path in paths}
    for bits, model in models.items():
        stats = inspect_tflite(files.of(model))
        for path in paths:
            found[path][bits] = sum(_aligned(weight.bytes) for weight in stats.weights if _is_of(weight, path))
        others.append(stats.raw_bytes - sum(taken[bits] for taken in found.values()))
    # Of the widest weights, which have no dead channels that the others lack.
    return StoredBytes(others[list(models).index(max(models))], found)


def _aligned(count: int) -> int:
    """Bytes of a buffer with what is between it and the next, which begins at a multiple."""
    return -(-(count + _BETWEEN) // _ALIGNMENT) * _ALIGNMENT


def _is_of(weight: TensorStats, path: str) -> bool:
    """Whether a tensor of the file is a weight of the layer, or of what the layer was taken apart into."""
    name = path.replace("/", ".")
    return weight.name.startswith((f"{name}/", f"{name}."))
