"""Which layers are computed without their zeros, on which runtime, and why others are not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

from keras_compress.convert.artifact import Artifact
from keras_compress.convert.convert import convert
from keras_compress.core.shown import Shown, names
from keras_compress.runtime.deployed import content_of
from keras_compress.tflite.flatbuffer import Graph, read_model
from keras_compress.tflite.passes.channels_first import prefer_channels_first
from keras_compress.tflite.passes.sparse_dense import sparse_layers
from keras_compress.tflite.sparse_clusters import Clusters, Step, clusters, dense_values
from keras_compress.tflite.sparse_kernels import BUILT_IN, XNNPACK


@dataclass(frozen=True)
class SparseRow:
    """One dense layer or 1x1 convolution.

    Attributes:
        layer: Name of its weight in the file.
        operator: Such as `"FULLY_CONNECTED"`.
        zeros: Share of its weights that are zero.
        runtime: Where a kernel could skip them: LiteRT's built-in kernels for dense layers, on any processor (timed on
            x86-64); XNNPACK for 1x1 convolutions, on Arm and in LiteRT.js, not on x86 with AVX.
        sparse: Whether one does with `convert(sparsity="block")`.
        auto: Whether one does with `convert(sparsity="auto")`, which takes dense layers that are faster so.
        reason: Why not, or why `"auto"` does not.
    """

    layer: str
    operator: str
    zeros: float
    runtime: str
    sparse: bool
    auto: bool
    reason: str


@dataclass(frozen=True, repr=False)
class SparseReady(Shown):
    """What sparse weights would bring to a model.

    Attributes:
        rows: Dense layers and 1x1 convolutions, in order.
        wrong: What XNNPACK would compute wrong with sparse 1x1 convolutions; `convert(sparsity="block")` refuses it.
        rewritten: What `convert(sparsity="block")` writes otherwise, with the same outputs, so that kernels take it.
        conv_path: `"sparse"`, `"dense"` or `"wrong"`: what XNNPACK would do with the file's 1x1 convolutions.
    """

    rows: tuple[SparseRow, ...]
    wrong: tuple[str, ...]
    rewritten: tuple[str, ...]
    conv_path: str

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines."""
        taken = [row.layer for row in self.rows if row.sparse]
        return f"SparseReady: {len(taken)} of {len(self.rows)} layers are computed without their zeros", [
            ("sparse", names(taken, ".rows")),
            ("dense", names([f"{row.layer}: {row.reason}" for row in self.rows if not row.sparse], ".rows")),
            ("wrong", names(self.wrong, ".wrong")),
            ("rewritten", names(self.rewritten, ".rewritten")),
        ]

    def notes(self) -> list[str]:
        """Lines: why layers are dense, what would be wrong, and what `convert` writes otherwise."""
        by_reason: dict[str, list[str]] = {}
        for row in self.rows:
            if row.reason:
                by_reason.setdefault(row.reason, []).append(row.layer)
        lines = [f"{', '.join(layers)}: {reason}." for reason, layers in by_reason.items()]
        lines += [f"WRONG with sparse 1x1 convolutions: {line}." for line in self.wrong]
        return [*lines, *(f"Written otherwise, with the same outputs: {line}." for line in self.rewritten)]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def sparse_ready(model: keras.Model | Artifact | bytes | str | os.PathLike[str]) -> SparseReady:
    """Which layers of a model can be computed without their zeros, where, and why others cannot.

    Args:
        model: A Keras model, seen as the float32 file for one sample that it converts to; what `convert` returned, the
            bytes of a `.tflite` file for LiteRT, or its path. A file whose 1x1 convolutions are sparse already is
            looked at as it is; for another one, `convert(sparsity="block")` may write some operators otherwise.

    Raises:
        ValueError: Not a `.tflite` file, or a model that cannot be converted.
        TypeError: For anything else.
        OSError: The file cannot be read.
    """
    if isinstance(model, keras.Model):
        model = convert(model, mode="float32", sparsity="none", batch_size=1)
    content, _ = content_of(model)
    graph = Graph(read_model(content))
    rewritten: list[str] = []
    if not any(graph.kind(op) == "DENSIFY" for op in graph.operators):
        better = Graph(read_model(content))
        lines = prefer_channels_first(better)
        if lines and _gains(clusters(graph), clusters(better)):
            graph, rewritten = better, lines
    found = clusters(graph)
    path = "wrong" if found.wrong else "sparse" if any(map(found.sparse, found.steps)) else "dense"
    rows = (*_dense_rows(graph), *_convolution_rows(graph, found))
    return SparseReady(rows, tuple(found.wrong), tuple(rewritten), path)


def _gains(before: Clusters, after: Clusters) -> bool:
    """Whether more is right, or more is sparse."""
    return (len(after.wrong), -len(after.first)) < (len(before.wrong), -len(before.first))


def _dense_rows(graph: Graph) -> Iterator[SparseRow]:
    allowed, chosen = sparse_layers(graph, "block"), sparse_layers(graph, "auto")
    for (op, layer), (_, auto) in zip(allowed, chosen, strict=True):
        if len(graph.shape(op.inputs[0])) == 4 and layer.reason:
            continue  # among the convolutions
        sparse = not layer.reason
        yield SparseRow(
            layer.name, graph.kind(op), layer.zeros, BUILT_IN, sparse, not auto.reason, layer.reason or auto.reason
        )


def _convolution_rows(graph: Graph, found: Clusters) -> Iterator[SparseRow]:
    by_operator = {id(step.op): step for step in found.steps}
    direct = {id(op) for op, layer in sparse_layers(graph, "block") if not layer.reason}
    for op in graph.operators:
        step = by_operator.get(id(op))
        if step is None or id(op) in direct or not _is_pointwise(graph, step):
            continue
        values = dense_values(graph, op.inputs[1])
        zeros = 0.0 if values is None else float(np.mean(values == 0))
        sparse = found.sparse(step) and not found.wrong
        reason = "" if sparse else found.why_dense(step) or "other operators would be computed wrong"
        yield SparseRow(
            _weight_name(graph, op),
            step.kind,
            zeros,
            XNNPACK,
            sparse,
            False,
            reason or "only sparsity='block' takes it",
        )


def _is_pointwise(graph: Graph, step: Step) -> bool:
    if step.kind == "FULLY_CONNECTED":
        return len(graph.shape(step.op.inputs[0])) == 4
    return step.kind == "CONV_2D" and graph.shape(step.op.inputs[1])[1:3] == (1, 1)


def _weight_name(graph: Graph, op: Any) -> str:
    maker = graph.producers().get(op.inputs[1])
    return graph.name(op.inputs[1] if maker is None else maker.inputs[0])
