"""What a `.tflite` file would take on a Cortex-M: multiplications, cycles by a table, flash and RAM. An estimate."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from keras_compress.core.registry import register
from keras_compress.runtime.child import RuntimeCrash, RuntimeTimeout
from keras_compress.runtime.cortex_m_costs import CORES, Core
from keras_compress.runtime.energy_tables import BOARD_POWER
from keras_compress.runtime.estimate import Estimate, checked_stats
from keras_compress.runtime.multiplications import MULTIPLYING, multiplied, not_counted
from keras_compress.runtime.target import target as runtime
from keras_compress.tflite.encoding.known import DECODE
from keras_compress.tflite.flatbuffer import Graph, read_model

KIND = "published cycles per multiplication times this file's multiplications, not a measurement"
_CODE = (
    "flash_bytes is the file; code comes on top: TFLite-Micro's documentation says 16 kB for the core on a Cortex-M3, "
    "and the kernels beside it"
)


@register("estimator", "cortex_m")
def estimate_cortex_m(
    content: bytes,
    label: str = "model",
    *,
    core: str = "m4",
    clock_mhz: float | None = None,
    measure_ram: bool = True,
) -> Estimate:
    """Multiplications, cycles, flash and RAM of an integer model on a Cortex-M with CMSIS-NN's kernels.

    TFLite-Micro's reference kernels, without CMSIS-NN, take about ten times as long on an M7 (mit-han-lab/tinyengine's
    README: 587 against 53 ms).

    Args:
        content: A `.tflite` file.
        label: How messages call it.
        core: `"m0+"`, `"m3"`, `"m4"`, `"m7"`, `"m33"` or `"m55"`.
        clock_mhz: Clock that times are given for.
        measure_ram: Let TFLite-Micro's host build measure the arena, where there is one.

    Raises:
        ValueError: For an unknown core, a clock that is none, a damaged file, or one that computes in float32.
    """
    if core not in CORES:
        raise ValueError(f"Expected a core out of {', '.join(CORES)}. Received: core={core!r}")
    if clock_mhz is not None and not 0 < clock_mhz < math.inf:
        raise ValueError(f"Expected a clock above 0 MHz. Received: clock_mhz={clock_mhz}")
    operators = checked_stats(content, label).operators
    graph = Graph(read_model(content))
    try:
        _refuse_float(graph, label)
        rows = tuple(_row(graph, op, CORES[core]) for op in graph.operators)
    except (IndexError, ZeroDivisionError) as error:
        raise ValueError(f"Expected operators with all their operands. Received: {label} ({error})") from error
    ram_bytes, ram_notes = _arena(content, label) if measure_ram else (None, [])
    cycles = sum(row["cycles"] for row in rows)
    return Estimate(
        target="cortex_m",
        kind=KIND,
        options={"core": core, "clock_mhz": clock_mhz},
        flash_bytes=len(content),
        ram_bytes=ram_bytes,
        macs=sum(row["macs"] for row in rows),
        cycles=cycles,
        clock_mhz=clock_mhz,
        figures={"basis": CORES[core].basis, "cycles_per_mac": dict(CORES[core].cycles), **_energy(core, cycles)},
        layers=rows,
        notes=(*_source(core), *_power_source(core), *_left_out(graph, operators), _CODE, *ram_notes),
    )


def _refuse_float(graph: Graph, label: str) -> None:
    for op in graph.operators:
        found = MULTIPLYING.get(graph.kind(op))
        if found is not None and graph.dtype(op.inputs[found.data]).startswith("float"):
            raise ValueError(
                "Expected a model that computes in integers: the table holds int8 kernels only (convert with "
                f"mode='int8'). Received: {label}, with {graph.kind(op)} {graph.name(op.outputs[0])!r} in float32"
            )


def _row(graph: Graph, op: Any, core: Core) -> dict[str, Any]:
    found = multiplied(graph, op)
    macs, cycles = (0, 0) if found is None else (found[1], round(found[1] * core.cycles[found[0].cost]))
    return {
        "operator": graph.custom_name(op) or graph.kind(op),
        "name": graph.name(op.outputs[0]) if len(op.outputs) else "",
        "macs": macs,
        "elements": sum(math.prod(graph.shape(i)) for i in op.outputs),
        "cycles": cycles,
    }


def _source(core: str) -> list[str]:
    found = CORES[core]
    return [
        f"Cycles per multiplication of the {core}, {found.basis}: {found.source}",
        "Operators that do not multiply have no cycles of their own"
        + ("" if found.basis == "measured" else ": in the networks behind the figures they are part of them"),
    ]


def _energy(core: str, cycles: int) -> dict[str, float]:
    """Energy of an inference, where a board's power was published."""
    found = BOARD_POWER.get(core)
    return {} if found is None else {"energy_uj": found.microjoules(cycles)}


def _power_source(core: str) -> list[str]:
    found = BOARD_POWER.get(core)
    if found is None:
        return [f"No energy: no published power of the {core} running int8 networks was found"]
    return [found.said()]


def _left_out(graph: Graph, operators: dict[str, int]) -> list[str]:
    """What the cycles do not cover, and where they are too low."""
    notes = []
    if DECODE in operators:
        decoding = [op for op in graph.operators if graph.custom_name(op) == DECODE]
        decoded = sum(math.prod(graph.shape(i)) for op in decoding for i in op.outputs)
        notes.append(
            f"Not included: {len(decoding)} {DECODE}, which decode {decoded:,} values at each run (no published figure)"
        )
    notes += not_counted(graph, operators)
    types = Counter(
        (graph.dtype(op.inputs[found.data]), graph.dtype(op.inputs[found.weights]))
        for op in graph.operators
        if (found := MULTIPLYING.get(graph.kind(op))) is not None
    )
    for what, count in (
        ("int16 activations", sum(n for (data, _), n in types.items() if data == "int16")),
        ("packed weights", sum(n for (_, weights), n in types.items() if weights in ("int4", "int2"))),
    ):
        if count:
            notes.append(f"{count} operators with {what} are counted as int8: no published figure, likely more")
    return notes


def _arena(content: bytes, label: str) -> tuple[int | None, list[str]]:
    tflm = runtime("tflm")
    if (reason := tflm.available()) is not None:
        return None, [f"RAM not known: {reason}"]
    try:
        arena = tflm.memory(content, label)["arena_bytes"]
    except (ValueError, RuntimeCrash, RuntimeTimeout) as error:
        return None, [f"RAM not known: {' '.join(str(error).split())[:300]}"]
    return arena, ["ram_bytes is TFLite-Micro's arena, measured on this 64-bit host; somewhat less on a 32-bit core"]
