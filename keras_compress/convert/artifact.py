"""What `convert` returns: the file's bytes and what is known of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_compress.convert.distance import Distance
from keras_compress.convert.files import write_atomic
from keras_compress.convert.lower import FloatOp
from keras_compress.core.outputs import check_output
from keras_compress.core.shown import Shown, names
from keras_compress.tflite.arena_plan import largest_decoded
from keras_compress.tflite.inspection import FileStats, inspect_tflite
from keras_compress.tflite.sparse_kernels import BUILT_IN, XNNPACK
from keras_compress.tflite.storage import INT8, Storage


def runtime_of(target: str) -> str:
    """The runtime of a target: an Ethos-U's host runs TFLite-Micro."""
    return "tflm" if target == "ethos_u" else target


@dataclass(frozen=True, repr=False)
class Artifact(Shown):
    """A converted model.

    Attributes:
        content: The `.tflite` file.
        target: `"litert"`, `"tflm"` or `"ethos_u"`.
        mode: `"float32"`, `"float16"`, `"dynamic"`, `"int8"` or `"16x8"`.
        io: Type of inputs and outputs.
        frozen: The Keras model whose integers the file holds; `None` for `"float32"` and `"float16"`.
        points: Activation point -> name of its tensor in the file.
        float_ops: Operators left in float32, with the reason.
        notes: What the conversion did that the Keras model does not show.
        storage: What was asked of the storage of weights, and for which runtime.
        lowered: The file before dead units were cut out, layers split and weights encoded, where that was done: what
            `verify` compares operator by operator.
        distance: From the model that was given to the frozen one, on the first samples of the representative data;
            `None` without data, for a frozen model, and in float modes.
    """

    content: bytes
    target: str
    mode: str
    io: str
    frozen: keras.Model | None = None
    points: Mapping[str, str] = field(default_factory=dict)
    float_ops: tuple[FloatOp, ...] = ()
    notes: tuple[str, ...] = ()
    storage: Storage = INT8
    lowered: bytes | None = None
    distance: Distance | None = None

    @property
    def runtime(self) -> str:
        """Name of the runtime that the file is for: `"litert"` or `"tflm"`."""
        return runtime_of(self.target)

    @property
    def plain(self) -> bytes:
        """The file with an operator for each of the frozen model's: `lowered`, or `content` where they are one."""
        return self.content if self.lowered is None else self.lowered

    @property
    def calibration_samples(self) -> int:
        """How many samples of the representative dataset set ranges of activations; 0 where training set them all."""
        return int(getattr(self.frozen, "calibration_samples", 0))

    @property
    def stats(self) -> FileStats:
        """Sizes, sparsity and distinct values, read back from the file."""
        return inspect_tflite(self.content)

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines: sizes as read back, what is left in float32, notes."""
        stats = self.stats
        operators = ", ".join(f"{count} {name}" for name, count in list(stats.operators.items())[:8])
        return f"Artifact for {self.target}, mode {self.mode}, inputs and outputs {self.io}", [
            ("file", f"{stats.raw_bytes:,} B ({stats.gzip_bytes:,} B gzipped)"),
            ("weights", f"{stats.weight_payload_bytes:,} B, {stats.sparsity:.1%} zeros, {self.storage.wanted} storage"),
            ("sparse", names([f"{row['tensor']} ({row['by']})" for row in self.sparse_layers()], ".sparse_layers()")),
            ("operators", operators + (", ..." if len(stats.operators) > 8 else "")),
            ("in float32", names([f"{op.op} at {op.tensor}" for op in self.float_ops], ".float_ops")),
            ("notes", names(self.notes, ".notes")),
        ]

    def sparse_layers(self) -> list[dict[str, Any]]:
        """Weights in TFLite's sparse form, as read back: tensor, form, share of zeros, and what skips these zeros."""
        found = [weight for weight in self.stats.weights if weight.storage.startswith("sparse")]
        return [
            {
                "tensor": weight.name,
                "storage": weight.storage,
                "sparsity": weight.sparsity,
                # What stands behind DENSIFY has no blocks.
                "by": BUILT_IN if weight.storage != "sparse" else XNNPACK,
            }
            for weight in found
        ]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all.

        Args:
            path: Ends in `.tflite`, so that a slip does not put it in the place of the trained `.keras` model.

        Raises:
            ValueError: For another ending.
            OSError: If it cannot be written; an older file stays.
        """
        write_atomic(check_output(path, ".tflite"), self.content)

    def report(self) -> dict[str, Any]:
        """What a report says of the conversion, as JSON types."""
        stats = self.stats
        decoded = largest_decoded(self.content)
        return {
            "target": self.target,
            "mode": self.mode,
            "io": self.io,
            "raw_bytes": stats.raw_bytes,
            "gzip_bytes": stats.gzip_bytes,
            "weights_storage": self.storage.wanted,
            "weight_payload_bytes": stats.weight_payload_bytes,
            # What the arena has to hold at a time, of weights that are decoded while the model runs.
            "largest_decoded": None if decoded is None else {"tensor": decoded[0], "bytes": decoded[1]},
            "sparsity": stats.sparsity,
            "sparse_layers": self.sparse_layers(),
            "float_ops": [{"op": op.op, "tensor": op.tensor, "reason": op.reason} for op in self.float_ops],
            "calibration_samples": self.calibration_samples,
            "notes": list(self.notes),
            "trained_to_frozen": None if self.distance is None else self.distance.report(),
        }
