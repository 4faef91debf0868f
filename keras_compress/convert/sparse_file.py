"""A converted file's weights without their zeros, where LiteRT computes them so."""

from __future__ import annotations

from dataclasses import dataclass

from keras_compress.tflite.flatbuffer import Graph, read_model, write_model
from keras_compress.tflite.passes.channels_first import prefer_channels_first
from keras_compress.tflite.passes.sparse_convolutions import store_sparse_convolutions
from keras_compress.tflite.passes.sparse_dense import SparseLayer, store_sparse_dense
from keras_compress.tflite.sparse_clusters import clusters

SPARSE_MODES = ("float32", "int8")
# Share of zeros in blocks of zeros, from which on a layer was pruned in blocks: "auto" tells where it is dense.
_IN_BLOCKS = 0.8


@dataclass(frozen=True)
class SparseFile:
    """What became of a file.

    Attributes:
        content: The file; the one given where nothing is sparse.
        notes: What is sparse, and what is not, with the reason.
    """

    content: bytes
    notes: tuple[str, ...] = ()


def check_sparsity(sparsity: str, target: str, mode: str) -> None:
    """Refuses sparse weights where no runtime computes them.

    Raises:
        ValueError: For `"block"` on another target or in another mode.
    """
    if sparsity != "block":
        return
    if target != "litert":
        raise ValueError(
            "Expected target='litert' for sparsity='block': no kernel elsewhere skips zeros; TFLite-Micro stores them "
            "in fewer bytes (weights_storage='auto'), and is faster with fewer channels (prune_channels). "
            f"Received: target={target!r}"
        )
    if mode not in SPARSE_MODES:
        raise ValueError(f"Expected a mode out of {SPARSE_MODES} for sparsity='block'. Received: mode={mode!r}")


def sparse_file(content: bytes, sparsity: str, mode: str, strict: bool = False) -> SparseFile:
    """Store weights sparse where LiteRT's kernels skip their zeros.

    Args:
        content: File for LiteRT.
        sparsity: See `convert`.
        mode: As of `convert`.
        strict: Raise where a layer that was pruned stays dense.

    Raises:
        ValueError: For `"block"` where nothing has such zeros, or XNNPACK would compute the file wrong.
    """
    if sparsity == "none" or mode not in SPARSE_MODES:
        return SparseFile(content)
    graph = Graph(read_model(content))
    layers = store_sparse_dense(graph, sparsity)
    convolutions = False
    said: list[str] = []
    if sparsity == "block" and mode == "float32":
        graph, convolutions, said = _convolutions(graph)
    sparse = [layer for layer in layers if not layer.reason]
    dense = [
        layer for layer in layers if layer.told and (sparsity == "block" or layer.blocks >= _IN_BLOCKS * layer.zeros)
    ]
    notes = (*_sparse_notes(sparse, mode), *said, *_dense_notes(dense))
    if strict and sparsity == "block" and dense:
        raise ValueError(f"Expected pruned layers to be stored sparse (strict=True). Received: {'; '.join(notes)}")
    if not sparse and not convolutions:
        if sparsity == "block":
            raise ValueError(
                "Expected weights whose zeros a kernel of LiteRT skips, for sparsity='block'. "
                f"Received: {_received(layers, said)}"
            )
        return SparseFile(content, notes)
    return SparseFile(write_model(graph.model), notes)


def _convolutions(graph: Graph) -> tuple[Graph, bool, list[str]]:
    """The graph with sparse 1x1 convolutions, whether there are any, and what is to be said."""
    if not any(graph.kind(op) == "CONV_2D" for op in graph.operators):
        return graph, False, []
    if any(_is_free(graph, tensor) for tensor in graph.inputs):
        return graph, False, ["1x1 convolutions stay dense: sparse ones want a number of samples, such as batch_size=1"]
    made = Graph(read_model(write_model(graph.model)))
    rewritten = prefer_channels_first(made)
    found = clusters(made)
    if found.wrong:
        raise ValueError(
            "Expected operators that XNNPACK computes right with sparse 1x1 convolutions, for sparsity='block'. "
            f"Received: {'; '.join(found.wrong)}. kc.sparse_ready tells more; sparsity='auto' leaves convolutions dense"
        )
    names = store_sparse_convolutions(made)
    if not names:
        # What was rewritten is of no use then.
        why = dict.fromkeys(found.why_dense(step) for step in found.steps if step.zeros)
        return graph, False, [f"1x1 convolutions stay dense: {reason}" for reason in why]
    where = "XNNPACK skips their zeros on Arm and in LiteRT.js, not on x86 with AVX"
    said = [f"sparse 1x1 convolutions: {', '.join(names)}; {where}"]
    return made, True, [*said, *(f"written for sparse kernels: {line}" for line in rewritten)]


def _is_free(graph: Graph, tensor: int) -> bool:
    signature = graph.tensors[tensor].shapeSignature
    return signature is not None and -1 in [int(size) for size in signature]


def _sparse_notes(layers: list[SparseLayer], mode: str) -> list[str]:
    if not layers:
        return []
    names = ", ".join(layer.name for layer in layers)
    block = layers[0].block
    return [
        f"sparse in blocks of {block}: {names}; LiteRT's built-in {mode} kernel skips the zeros, one sample at a time "
        "(timed on x86-64; GPU and NPU delegates do not read such weights)"
    ]


def _dense_notes(layers: list[SparseLayer]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for layer in layers:
        by_reason.setdefault(layer.reason, []).append(layer.name)
    return [f"dense, though pruned: {', '.join(names)}: {reason}" for reason, names in by_reason.items()]


def _received(layers: list[SparseLayer], said: list[str]) -> str:
    lines = [*said, *(f"{layer.name}: {layer.reason}" for layer in layers[:5])]
    return "; ".join(lines) if lines else "no dense layer with constant weights, and no 1x1 convolution with zeros"
