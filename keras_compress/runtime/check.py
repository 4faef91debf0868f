"""`check`: does a file fit a microcontroller, and what is its peak?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from keras_compress.core.global_state import global_state_kept
from keras_compress.core.shown import Shown
from keras_compress.core.sizes import size_bytes
from keras_compress.runtime.arena_probe import tflm_arena
from keras_compress.runtime.boards import board as board_of
from keras_compress.runtime.cortex_m import estimate_cortex_m
from keras_compress.runtime.cortex_m_costs import CORES
from keras_compress.runtime.deployed import content_of
from keras_compress.runtime.energy_tables import BOARD_POWER
from keras_compress.runtime.estimate import Model, checked_stats
from keras_compress.tflite.arena_plan import bytes_alive
from keras_compress.tflite.flatbuffer import Graph, read_model

# TFLite-Micro's documentation: its core runtime fits into 16 kB on a Cortex-M3.
RUNTIME_CODE_BYTES = 16_000


@dataclass(frozen=True, repr=False)
class Fit(Shown):
    """Whether a file fits.

    Attributes:
        label: The file.
        board: Name of the board; `None` for sizes of one's own.
        file_bytes: The file.
        code_bytes: The runtime beside it.
        flash_limit: Flash there is; `None`: not asked.
        arena_bytes: The smallest arena in which TFLite-Micro starts the file on this computer.
        arena_limit: RAM there is for it; `None`: not asked.
        peak_operator: The operator at which most tensors are in use: kind and name of its output.
        peak_bytes: Bytes of these tensors.
        time_ms: Of an inference by `kc.estimate`'s model of the core; `None` where that has none.
        energy_uj: The same for energy, by the power of another board with this core where the board's own is not known.
        energy_source: What that board is, and its clock; `None` without a figure.
        reasons: What does not fit, empty where all does.
        notes: What the figures leave out.
    """

    label: str
    board: str | None
    file_bytes: int
    code_bytes: int
    flash_limit: int | None
    arena_bytes: int
    arena_limit: int | None
    peak_operator: str
    peak_bytes: int
    time_ms: float | None
    energy_uj: float | None
    energy_source: str | None
    reasons: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether everything that was asked for fits."""
        return not self.reasons

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines."""
        where = self.board or "the sizes given"
        speed = "" if self.time_ms is None else f"about {self.time_ms:.4g} ms (a model, not measured)"
        energy = (
            ""
            if self.energy_uj is None
            else f"about {self.energy_uj:,.4g} uJ (a model by the {self.energy_source}, not measured)"
        )
        flash = f"{self.file_bytes:,} B of file and {self.code_bytes:,} B of code"
        return f"{self.label} {'fits' if self.fits else 'DOES NOT FIT'} {where}", [
            ("flash", flash + _of(self.flash_limit)),
            ("arena", f"{self.arena_bytes:,} B" + _of(self.arena_limit)),
            ("peak", f"{self.peak_bytes:,} B of tensors at {self.peak_operator}"),
            ("time", speed),
            ("energy", energy),
            *(("too much", reason) for reason in self.reasons),
        ]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {**asdict(self), "reasons": list(self.reasons), "notes": list(self.notes), "fits": self.fits}


def _of(limit: int | None) -> str:
    return "" if limit is None else f" of {limit:,} B"


@global_state_kept()
def check(
    model: Model,
    board: str | None = None,
    *,
    flash: int | str | None = None,
    arena: int | str | None = None,
    code: int | str = RUNTIME_CODE_BYTES,
) -> Fit:
    """Whether a converted model fits a microcontroller with TFLite-Micro.

    Args:
        model: What `convert` returned, the bytes of a `.tflite` file, or its path.
        board: One of `keras_compress.runtime.boards.BOARDS`, such as `"nrf52840"`, which gives the limits.
        flash: Flash for file and code: bytes, `"256kB"` (1,000 each) or `"256KiB"`; in place of the board's.
        arena: RAM for the arena, likewise.
        code: What the runtime takes beside the file. By default what TFLite-Micro's documentation says of its core,
            16 kB: kernels, and the program, come on top.

    Raises:
        ValueError: For an unknown board, no limit at all, a size that is none, or a file that TFLite-Micro does
            not run.
        RuntimeError: Where TFLite-Micro is not available.
        OSError: If the file cannot be read.
    """
    limits = limits_of(board, flash, arena)
    code_bytes = size_bytes(code, "code")
    content, label = content_of(model)
    checked_stats(content, label)
    needed = tflm_arena(content)
    operator, alive = _peak(content)
    time_ms, energy_uj = _speed(content, board)
    power = None if board is None or energy_uj is None else BOARD_POWER[board_of(board).core]
    return Fit(
        label,
        board,
        len(content),
        code_bytes,
        limits[0],
        needed,
        limits[1],
        operator,
        alive,
        time_ms,
        energy_uj,
        energy_source=None if power is None else f"{power.board} at {power.clock_mhz:g} MHz",
        reasons=_reasons(len(content) + code_bytes, needed, limits),
        notes=(*_notes(board, code_bytes), *(() if power is None else (power.said(),))),
    )


def limits_of(board: str | None, flash: Any, arena: Any) -> tuple[int | None, int | None]:
    """Bytes of flash and of RAM; sizes that are given count more than the board's.

    Raises:
        ValueError: For an unknown board, no limit at all, or a size that is none.
    """
    if board is None and flash is None and arena is None:
        raise ValueError("Expected `board`, `flash` or `arena`. Received: none of them")
    found = None if board is None else board_of(board)
    flash_limit = size_bytes(flash, "flash") if flash is not None else found.flash_bytes if found else None
    arena_limit = size_bytes(arena, "arena") if arena is not None else found.ram_bytes if found else None
    return flash_limit, arena_limit


def _peak(content: bytes) -> tuple[str, int]:
    graph = Graph(read_model(content))
    operators = [(graph.custom_name(op) or graph.kind(op), op) for op in graph.operators]
    sizes = bytes_alive(graph)
    if not sizes:
        return "no operator", 0
    (kind, op), size = max(zip(operators, sizes, strict=True), key=lambda each: each[1])
    return f"{kind} {graph.name(op.outputs[0])!r}" if len(op.outputs) else kind, size


def _speed(content: bytes, board: str | None) -> tuple[float | None, float | None]:
    """Time and energy by the core's model; float files have none."""
    if board is None or board_of(board).core not in CORES:
        return None, None
    found = board_of(board)
    try:
        made = estimate_cortex_m(content, core=found.core, clock_mhz=found.clock_mhz, measure_ram=False)
    except ValueError:
        return None, None
    return made.time_ms, made.figures.get("energy_uj")


def _reasons(flash: int, arena: int, limits: tuple[int | None, int | None]) -> tuple[str, ...]:
    names = (("flash", flash, limits[0]), ("arena", arena, limits[1]))
    return tuple(
        f"{name}: {needed:,} B are needed, {limit:,} B there are, {needed - limit:,} B too many"
        for name, needed, limit in names
        if limit is not None and needed > limit
    )


def _notes(board: str | None, code_bytes: int) -> tuple[str, ...]:
    code = "TFLite-Micro's documentation says 16 kB for its core; kernels and the program come on top (`code`)"
    return (
        *((code,) if code_bytes == RUNTIME_CODE_BYTES else ()),
        "The arena was measured on this 64-bit host, somewhat less on a 32-bit core; stack and heap come on top",
        *(() if board is None else (f"{board_of(board).title}: {board_of(board).source}",)),
    )
