"""What an inference of a `.tflite` file takes in joules, by published energies of operations and memory accesses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from keras_compress.core.registry import register
from keras_compress.runtime.energy_tables import (
    ACCESS_BYTES,
    CACHE,
    DRAM,
    FLOAT_ADD,
    FLOAT_MULTIPLY,
    SOURCE,
    integer_add,
    integer_multiply,
    sram_access,
)
from keras_compress.runtime.estimate import Estimate, checked_stats
from keras_compress.runtime.multiplications import Multiplying, multiplied, not_counted
from keras_compress.tflite.arena_plan import tensor_bytes
from keras_compress.tflite.flatbuffer import PACKED_BITS, Graph, read_model

KIND = "published energies in 45 nm times this file's operations and memory traffic, not a measurement"
MEMORIES = ("dram", "sram", "flash")
# They give their input out under another shape.
_FREE = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
# Operators that read some of a table, as much as they write, and which input that is.
_TABLES = {"GATHER": 0, "GATHER_ND": 0, "EMBEDDING_LOOKUP": 1}
_LEAST = (
    "The least an accelerator could take: weights are read once, tensors written once and read once by each operator. "
    "Instructions, control, caches that miss and leakage are not in it; with them a Cortex-M takes ten to a thousand "
    "times as much (target cortex_m)"
)
_UNCOUNTED = "Additions, poolings, activation functions: their memory traffic only"


@dataclass(frozen=True)
class _Memory:
    """Picojoules of an access of 64 bits."""

    weights: float
    activations: float

    def microjoules(self, weight_bytes: int, activation_bytes: int) -> tuple[float, float]:
        each = (weight_bytes * self.weights, activation_bytes * self.activations)
        return each[0] * 1e-6 / ACCESS_BYTES, each[1] * 1e-6 / ACCESS_BYTES


@register("estimator", "energy")
def estimate_energy(
    content: bytes,
    label: str = "model",
    *,
    weights: str = "dram",
    activations: str = "sram",
    sram_bytes: int = max(CACHE),
    flash_pj: float | None = None,
) -> Estimate:
    """Microjoules of one inference: multiplications with their additions by bits, weights, and activations.

    Args:
        content: A `.tflite` file.
        label: How messages call it.
        weights: Memory that they are read from: `"dram"`, `"sram"` or `"flash"`.
        activations: Memory of all other tensors: `"sram"` or `"dram"`.
        sram_bytes: Size of the SRAM, at most 1 MiB: a larger one takes more for each access.
        flash_pj: Picojoules of reading 64 bits from flash, from its datasheet: the table has none.

    Raises:
        ValueError: For an unknown memory, sizes or energies out of range, or a damaged file.

    **Reference**: Horowitz, "Computing's energy problem", ISSCC 2014. A documented peer is QKeras's qenergy (Coelho et
    al., 2021), which reads a Keras model and fits a curve to the same table.
    """
    memory = _memory(weights, activations, sram_bytes, flash_pj)
    operators = checked_stats(content, label).operators
    graph = Graph(read_model(content))
    try:
        rows = tuple(_row(graph, op, memory) for op in graph.operators)
    except (IndexError, ZeroDivisionError) as error:
        raise ValueError(f"Expected operators with all their operands. Received: {label} ({error})") from error
    return Estimate(
        target="energy",
        kind=KIND,
        options={"weights": weights, "activations": activations, "sram_bytes": sram_bytes, "flash_pj": flash_pj},
        flash_bytes=len(content),
        ram_bytes=None,
        macs=sum(row["macs"] for row in rows),
        cycles=None,
        figures=_figures(rows, weights, activations),
        layers=rows,
        notes=(SOURCE, _LEAST, _UNCOUNTED, *not_counted(graph, operators)),
    )


def _memory(weights: str, activations: str, sram_bytes: int, flash_pj: float | None) -> _Memory:
    if weights not in MEMORIES:
        raise ValueError(f"Expected `weights` out of {', '.join(MEMORIES)}. Received: weights={weights!r}")
    if activations not in MEMORIES[:2]:
        raise ValueError(f"Expected `activations` out of dram, sram. Received: activations={activations!r}")
    if isinstance(sram_bytes, bool) or not isinstance(sram_bytes, int) or sram_bytes < 1:
        raise ValueError(f"Expected `sram_bytes` as a number of bytes >= 1. Received: sram_bytes={sram_bytes!r}")
    if (weights == "flash") != (flash_pj is not None):
        raise ValueError(
            "Expected `flash_pj` with weights='flash', from the flash's datasheet: the table has no figure of one. "
            f"Received: weights={weights!r}, flash_pj={flash_pj!r}"
        )
    if flash_pj is not None and not 0 < flash_pj < np.inf:
        raise ValueError(f"Expected `flash_pj` > 0. Received: flash_pj={flash_pj!r}")
    cost = {"dram": DRAM[0], "sram": sram_access(sram_bytes), "flash": flash_pj or 0.0}
    return _Memory(cost[weights], cost[activations])


def _row(graph: Graph, op: Any, memory: _Memory) -> dict[str, Any]:
    found = multiplied(graph, op)
    bits, each = ("", 0.0) if found is None else _arithmetic(graph, op, found[0])
    macs = 0 if found is None else found[1]
    weight_bytes, activation_bytes = _traffic(graph, op)
    weights_uj, activations_uj = memory.microjoules(weight_bytes, activation_bytes)
    return {
        "operator": graph.custom_name(op) or graph.kind(op),
        "name": graph.name(op.outputs[0]) if len(op.outputs) else "",
        "macs": macs,
        "bits": bits,
        "weight_bytes": weight_bytes,
        "activation_bytes": activation_bytes,
        "compute_uj": 1e-6 * macs * each,
        "weights_uj": weights_uj,
        "activations_uj": activations_uj,
    }


def _arithmetic(graph: Graph, op: Any, found: Multiplying) -> tuple[str, float]:
    """What is multiplied, such as `"8x4"` (activation, weight), and picojoules of a product with its addition."""
    data, weight = (graph.dtype(op.inputs[i]) for i in (found.data, found.weights))
    if "float" in data and "float" in weight:
        # Kernels turn half-precision weights into float32 before they multiply.
        width = 16 if data == weight == "float16" else 32
        return f"float{width}", FLOAT_MULTIPLY[width] + FLOAT_ADD[width]
    # Of float activations with integer weights, kernels make int8 first.
    data_bits = 8 if "float" in data else _bits(data)
    weight_bits = _bits(weight)
    accumulator = 64 if data_bits == 16 else 32
    return f"{data_bits}x{weight_bits}", integer_multiply(data_bits, weight_bits) + integer_add(accumulator)


def _bits(dtype: str) -> int:
    return PACKED_BITS.get(dtype) or 8 * np.dtype(dtype).itemsize


def _traffic(graph: Graph, op: Any) -> tuple[int, int]:
    """Bytes of constants, and of all other tensors, that an operator reads and writes."""
    if graph.kind(op) in _FREE:
        return 0, 0
    weights, activations = 0, sum(tensor_bytes(graph, i) for i in op.outputs)
    table = _TABLES.get(graph.kind(op))
    for place, tensor in enumerate(op.inputs):
        if tensor < 0:
            continue
        share = Fraction(1) if place != table else _share_read(graph, tensor, op.outputs[0])
        if graph.is_constant(tensor):
            weights += math.ceil(_stored(graph, tensor) * share)
        else:
            activations += math.ceil(tensor_bytes(graph, tensor) * share)
    return weights, activations


def _share_read(graph: Graph, table: int, output: int) -> Fraction:
    """Rows that are read, repeated ones each time, over those there are."""
    return Fraction(math.prod(graph.shape(output)), math.prod(graph.shape(table)))


def _stored(graph: Graph, tensor: int) -> int:
    """Bytes of a constant as it lies in the file: sparse ones take less than their shape."""
    data = graph.model.buffers[graph.tensors[tensor].buffer].data
    return 0 if data is None else len(data)


def _figures(rows: tuple[Mapping[str, Any], ...], weights: str, activations: str) -> dict[str, Any]:
    parts = {key: sum(row[key] for row in rows) for key in ("compute_uj", "weights_uj", "activations_uj")}
    total = sum(parts.values())
    in_dram = [name for name, place in (("weights_uj", weights), ("activations_uj", activations)) if place == "dram"]
    most = total + (DRAM[1] / DRAM[0] - 1) * sum(parts[name] for name in in_dram)
    macs: Counter[str] = Counter()
    for row in rows:
        macs[row["bits"]] += row["macs"]
    by_bits = {bits: count for bits, count in macs.items() if bits}
    return {"energy_uj": total, "most_uj": most, **parts, "bops": _bops(by_bits), "macs_by_bits": by_bits}


def _bops(by_bits: Mapping[str, int]) -> int:
    """Bit operations, as the cost `bops` counts them."""
    total = 0
    for bits, count in by_bits.items():
        first, _, second = bits.removeprefix("float").partition("x")
        total += count * int(first) * int(second or first)
    return total
