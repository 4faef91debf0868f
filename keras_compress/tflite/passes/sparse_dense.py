"""Weights of dense layers stored without their blocks of zeros, for kernels that multiply what is stored only."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.sparse_format import has_blocks, kept_blocks
from keras_compress.tflite.sparse_kernels import SPARSE_KERNELS, SparseKernel

# First versions of LiteRT's FULLY_CONNECTED that read sparse weights.
_VERSIONS = {"float32": 8, "int8": 8}
# A layer with a smaller share of blocks of zeros is far slower sparse than dense, and no smaller.
_FEWEST_BLOCKS = 0.5
# Share of zeros from which on a layer was plainly meant to be sparse, so that one that stays dense is told of.
_MEANT = 0.5


@dataclass(frozen=True)
class SparseLayer:
    """A dense layer's weight, and how it is stored.

    Attributes:
        name: Tensor's name.
        zeros: Share of its weights that are zero.
        blocks: Share of its blocks that hold nothing but zeros; 0 where it cannot be cut into blocks.
        block: Inputs in a block; 0 where no kernel reads such weights.
        reason: Why it stays dense; empty for a sparse one.
    """

    name: str
    zeros: float
    blocks: float
    block: int
    reason: str

    @property
    def told(self) -> bool:
        """Whether the user should hear that it stays dense."""
        return bool(self.reason) and self.zeros >= _MEANT


def sparse_layers(graph: Graph, wanted: str) -> list[tuple[Any, SparseLayer]]:
    """Each dense layer with constant weights, and whether it is stored sparse; nothing is changed.

    Args:
        graph: File for LiteRT.
        wanted: `"auto"`: where the kernel is faster. `"block"`: wherever it takes the weight and half of its
            blocks can be left out.
    """
    found: list[tuple[Any, SparseLayer]] = []
    readers = graph.consumers()
    for op in graph.operators:
        weight = op.inputs[1] if graph.kind(op) == "FULLY_CONNECTED" else -1
        if weight < 0 or not graph.is_constant(weight) or len(graph.shape(weight)) != 2:
            continue
        values = np.asarray(graph.constant(weight))
        kernel = SPARSE_KERNELS.get(("litert", "FULLY_CONNECTED", graph.dtype(weight)))
        zeros = float(np.mean(values == 0))
        blocks = _blocks(values, kernel)
        reason = _refusal(graph, op, kernel, blocks, zeros, wanted)
        shared = [graph.kind(other) for other in readers[weight] if not _reads_as_weight(graph, other, weight)]
        if not reason and (shared or weight in graph.outputs):
            reason = f"{shared[0]} reads it too" if shared else "it is an output of the model too"
        found.append((op, SparseLayer(graph.name(weight), zeros, blocks, kernel.block if kernel else 0, reason)))
    return _alike(found)


def _reads_as_weight(graph: Graph, op: Any, tensor: int) -> bool:
    """Whether a dense layer's kernel reads a tensor as its weight, and as nothing else."""
    return graph.kind(op) == "FULLY_CONNECTED" and [n for n, t in enumerate(op.inputs) if t == tensor] == [1]


def _alike(found: list[tuple[Any, SparseLayer]]) -> list[tuple[Any, SparseLayer]]:
    """Layers that share a weight stay dense together."""
    reasons = {op.inputs[1]: layer.reason for op, layer in found if layer.reason}
    return [(op, replace(layer, reason=layer.reason or reasons.get(op.inputs[1], ""))) for op, layer in found]


def _blocks(values: Any, kernel: SparseKernel | None) -> float:
    if kernel is None or not has_blocks(values, kernel.block):
        return 0.0
    return 1.0 - float(kept_blocks(values, kernel.block).mean())


def _refusal(graph: Graph, op: Any, kernel: SparseKernel | None, blocks: float, zeros: float, wanted: str) -> str:
    weight = op.inputs[1]
    outputs, inputs = graph.shape(weight)
    if kernel is None or graph.dtype(op.inputs[0]) != graph.dtype(weight):
        return f"LiteRT has no sparse kernel for {graph.dtype(weight)} weights with {graph.dtype(op.inputs[0])} inputs"
    if inputs % kernel.block:
        return f"its {inputs:,} inputs are no multiple of {kernel.block}"
    scales = graph.quantization(weight)
    if graph.dtype(weight) == "int8" and (scales is None or scales[1] != 0 or outputs == 1):
        return "the int8 kernel wants a scale for each of several outputs, and the zero point 0"
    if blocks < _FEWEST_BLOCKS:
        size = kernel.block
        return f"{blocks:.0%} of its blocks of {size} inputs are all zeros, not half: prune with block_size=({size}, 1)"
    rows = max(1, math.prod(graph.shape(op.inputs[0])) // inputs)
    least = kernel.least_share(outputs * inputs, rows)
    if wanted == "auto" and blocks < least:
        layer = f"{inputs:,} inputs, {outputs:,} outputs and {rows:,} row{'s' * (rows > 1)} at a time"
        if least > 1:
            return f"the dense kernel is faster with {layer}"
        return f"{blocks:.0%} of its blocks are zeros; {graph.dtype(weight)} gains from {least:.0%} on, with {layer}"
    return ""


def store_sparse_dense(graph: Graph, wanted: str) -> list[SparseLayer]:
    """Store weights of dense layers sparse where a kernel reads them so; see `sparse_layers`.

    Returns:
        All dense layers with constant weights, in order.
    """
    found = sparse_layers(graph, wanted)
    stored: set[int] = set()
    for op, layer in found:
        weight = op.inputs[1]
        if layer.reason:
            continue
        graph.raise_version(op, _VERSIONS[graph.dtype(weight)])
        if weight not in stored:
            _scale_each_output(graph, weight)
            graph.store_sparse(weight, layer.block)
            stored.add(weight)
    return [layer for _, layer in found]


def _scale_each_output(graph: Graph, weight: int) -> None:
    """The int8 kernel reads a scale for each output, whether there is one or not."""
    found = graph.quantization(weight)
    if found is not None and found[0].size == 1:
        graph.set_quantization(weight, np.repeat(found[0], graph.shape(weight)[0]))
