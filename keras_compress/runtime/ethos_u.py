"""What Arm's compiler Vela says of a `.tflite` file on an Ethos-U microNPU: its model of it, not a measurement."""

from __future__ import annotations

import configparser
import csv
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_compress.convert.files import write_atomic
from keras_compress.core.printable import printable
from keras_compress.core.registry import register
from keras_compress.runtime.child import RuntimeCrash, RuntimeTimeout
from keras_compress.runtime.estimate import COMPILED, Estimate, checked_stats
from keras_compress.tflite.encoding.known import DECODE
from keras_compress.tflite.flatbuffer import PACKED_BITS, Graph, read_model
from keras_compress.tflite.inspection import check_dense

_SIZES = {"u55": (32, 64, 128, 256), "u65": (256, 512), "u85": (128, 256, 512, 1024, 2048)}
ACCELERATORS = tuple(f"ethos-{family}-{macs}" for family, sizes in _SIZES.items() for macs in sizes)
# Constants in flash outside the chip at 0.5 GB/s, activations in SRAM, 500 MHz.
_SYSTEMS = {
    "u55": "Ethos_U55_High_End_Embedded",
    "u65": "Ethos_U65_Embedded",
    "u85": "Ethos_U85_SYS_Flash_High",
}
_MEMORY_MODE = "Shared_Sram"
_CONFIG_FILE = "Arm/vela.ini"
_OPTIMISE = ("Performance", "Size")
_MEMORIES = ("sram", "dram", "on_chip_flash", "off_chip_flash")
# What Vela calls the columns of its table of operators; the name is last, and not quoted.
_LAYER_COLUMNS = {
    "cycles": "Op Cycles",
    "npu_cycles": "NPU",
    "sram_access_cycles": "SRAM AC",
    "dram_access_cycles": "DRAM AC",
    "on_chip_flash_access_cycles": "OnFlash AC",
    "off_chip_flash_access_cycles": "OffFlash AC",
    "macs": "MAC Count",
}


@register("estimator", "ethos_u")
def estimate_ethos_u(
    content: bytes,
    label: str = "model",
    *,
    accelerator: str = "ethos-u55-128",
    system_config: str | None = None,
    memory_mode: str = _MEMORY_MODE,
    optimise: str = "Performance",
    time_limit_s: float = 120.0,
    save_to: str | os.PathLike[str] | None = None,
) -> Estimate:
    """SRAM, flash, cycles and weight compression of an integer model on an Ethos-U, as Vela models them.

    Vela compresses the weights without loss, so zeros and few distinct values make the flash smaller.

    Args:
        content: A `.tflite` file, not one whose weights are stored for `TFLM_DECODE`.
        label: How messages call it.
        accelerator: `"ethos-u55-"` 32, 64, 128 or 256, `"ethos-u65-"` 256 or 512, `"ethos-u85-"` 128 to 2048: the
            multiplications that it does in a cycle.
        system_config: Section of the `vela.ini` that comes with Vela; by default one with off-chip flash and 500 MHz.
        memory_mode: The same: `"Shared_Sram"`, `"Sram_Only"` or one of `"Dedicated_Sram"`.
        optimise: `"Performance"` or `"Size"`.
        time_limit_s: How long Vela may take, in seconds.
        save_to: Where the file that Vela compiled goes.

    Raises:
        ValueError: For an unknown option value, a damaged file, one that Vela refuses or of which nothing runs on the
            NPU.
        RuntimeError: If Vela is not installed, dies (`RuntimeCrash`) or takes too long (`RuntimeTimeout`).
        OSError: If `save_to` cannot be written.
    """
    package = _vela_folder()
    device = _device(package, accelerator, system_config, memory_mode, optimise)
    if not time_limit_s > 0:
        raise ValueError(f"Expected a time limit above 0 seconds. Received: time_limit_s={time_limit_s}")
    stats = checked_stats(content, label)
    if DECODE in stats.operators:
        raise ValueError(
            "Expected the plain file, whose weights Vela compresses itself: kc.expand, or `keras-compress expand`, "
            f"gives it. Received: {label}, with {stats.operators[DECODE]} {DECODE}, which Vela would leave to the CPU"
        )
    check_dense(content, label)
    _check_weights(read_model(content), label)
    compilation = _compile(content, label, device, time_limit_s)
    left = _operators(compilation.compiled)
    cpu = tuple(entry for kind, entry in left if kind != COMPILED)
    if len(cpu) == len(left):
        raise ValueError(
            "Expected operators that the NPU can run (convert with mode='int8'). "
            f"Received: {label}, all of whose operators Vela leaves to the CPU: {', '.join(cpu)[:300]}"
        )
    if save_to is not None:
        write_atomic(save_to, compilation.compiled)
    return _as_estimate(compilation, device, cpu, stats.weight_payload_bytes)


def _check_weights(model: Any, label: str) -> None:
    """Vela dies of packed weights."""
    for number in range(len(model.subgraphs)):
        graph = Graph(model, number)
        packed = next((i for i in range(len(graph.tensors)) if graph.dtype(i) in PACKED_BITS), None)
        if packed is not None:
            raise ValueError(
                "Expected int8 weights, which Vela compresses itself (convert with target='ethos_u'). "
                f"Received: {label}, with {graph.dtype(packed).upper()} {graph.name(packed)!r}"
            )


def _vela_folder() -> Path:
    """Folder of Vela's package.

    Raises:
        RuntimeError: If it is not installed; names the extra.
    """
    try:
        found = importlib.util.find_spec("ethosu.vela")
    except ImportError:
        found = None
    if found is None or found.origin is None:
        raise RuntimeError("Expected Vela: `pip install keras-compress[ethos-u]`. Received: none installed")
    return Path(found.origin).parent


def _device(
    package: Path, accelerator: str, system_config: str | None, memory_mode: str, optimise: str
) -> dict[str, str]:
    """The options, checked: Vela itself takes the system of another accelerator without a word."""
    if accelerator not in ACCELERATORS:
        raise ValueError(f"Expected an accelerator out of {', '.join(ACCELERATORS)}. Received: {accelerator!r}")
    if optimise not in _OPTIMISE:
        raise ValueError(f"Expected optimise out of {', '.join(_OPTIMISE)}. Received: {optimise!r}")
    family = accelerator.split("-")[1]
    system_config = _SYSTEMS[family] if system_config is None else system_config
    sections = configparser.ConfigParser()
    sections.read(package.parent / "config_files" / _CONFIG_FILE, encoding="utf-8")
    systems = _names(sections, f"System_Config.Ethos_{family.upper()}_", "System_Config.")
    modes = _names(sections, "Memory_Mode.", "Memory_Mode.")
    for what, value, known in (("system_config", system_config, systems), ("memory_mode", memory_mode, modes)):
        if value not in known:
            raise ValueError(f"Expected {what} for {accelerator} out of {', '.join(known)}. Received: {value!r}")
    return {
        "accelerator": accelerator,
        "system_config": system_config,
        "memory_mode": memory_mode,
        "optimise": optimise,
    }


def _names(sections: configparser.ConfigParser, beginning: str, prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in sections.sections() if name.startswith(beginning)]


@dataclass(frozen=True)
class _Compiled:
    """What Vela wrote.

    Attributes:
        compiled: The file for the device.
        summary: Column -> value of its table of totals.
        layers: Its table of operators, a row each.
    """

    compiled: bytes
    summary: Mapping[str, str]
    layers: tuple[Mapping[str, Any], ...]


def _compile(content: bytes, label: str, device: Mapping[str, str], time_limit_s: float) -> _Compiled:
    """Run Vela in a process and a folder of its own, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="keras_compress-vela-") as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(content)
        command = [
            *(sys.executable, "-m", "ethosu.vela", "model.tflite", "--output-dir=out", f"--config={_CONFIG_FILE}"),
            *(f"--accelerator-config={device['accelerator']}", f"--system-config={device['system_config']}"),
            *(f"--memory-mode={device['memory_mode']}", f"--optimise={device['optimise']}", "--verbose-performance"),
        ]
        with open(folder / "log", "wb") as log:
            try:
                done = subprocess.run(
                    command,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=time_limit_s,
                    check=False,
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                )
            except subprocess.TimeoutExpired:
                raise RuntimeTimeout(f"Vela was not done after {time_limit_s:g} s on {label}") from None
        _check_end(done.returncode, folder / "log", label)
        return _read_back(folder / "out", folder / "log", label)


def _check_end(code: int, log: Path, label: str) -> None:
    if code < 0:
        raise RuntimeCrash(f"Vela crashed (signal {-code}) on {label}: {_last_words(log)}")
    if code:
        raise ValueError(f"Expected a file and options that Vela takes. Received: {label}: {_last_words(log)}")


def _last_words(log: Path) -> str:
    """The last line that Vela wrote, harmless for a terminal."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return printable(lines[-1])[:300] if lines else "it said nothing"


def _read_back(out: Path, log: Path, label: str) -> _Compiled:
    summaries, layers = list(out.glob("*_summary_*.csv")), list(out.glob("*_per-layer.csv"))
    compiled = out / "model_vela.tflite"
    if not summaries or not compiled.is_file():
        raise RuntimeError(f"Expected a summary of Vela's. Received: none on {label}: {_last_words(log)}")
    with open(summaries[0], newline="", encoding="utf-8") as file:
        (summary,) = csv.DictReader(file)
    rows = _layer_rows(layers[0].read_text(encoding="utf-8", errors="replace")) if layers else ()
    return _Compiled(compiled.read_bytes(), summary, rows)


def _layer_rows(text: str) -> tuple[Mapping[str, Any], ...]:
    heading, *lines = text.splitlines()
    columns = heading.split(",")
    rows = [dict(zip(columns, line.split(",", len(columns) - 1), strict=True)) for line in lines if line]
    return tuple(
        {
            "operator": row["Original Operator"],
            "name": row["Name"],
            "runs_on": row["Target"],
            **{key: int(row[column]) for key, column in _LAYER_COLUMNS.items()},
        }
        for row in rows
    )


def _operators(compiled: bytes) -> list[tuple[str, str]]:
    """Kind of each operator in the file that Vela wrote, and kind and output's name for a message."""
    graph = Graph(read_model(compiled))
    kinds = [graph.custom_name(op) or graph.kind(op) for op in graph.operators]
    # What writes a variable gives nothing out.
    names = [graph.name(op.outputs[0]) if len(op.outputs) else "" for op in graph.operators]
    return [(kind, printable(f"{kind} {name}".strip())) for kind, name in zip(kinds, names, strict=True)]


def _as_estimate(found: _Compiled, device: Mapping[str, str], cpu: tuple[str, ...], file_weight_bytes: int) -> Estimate:
    summary = found.summary
    memory = {name: round(1024 * float(summary[f"{name}_memory_used"])) for name in _MEMORIES}
    original, encoded = (int(float(summary[f"total_{key}_weights"])) for key in ("original", "npu_encoded"))
    cycles = {
        f"{name}_access_cycles": int(float(summary[f"cycles_{name}_access"]))
        for name in _MEMORIES
        if summary.get(f"cycles_{name}_access")
    }
    return Estimate(
        target="ethos_u",
        kind=f"Vela {importlib.metadata.version('ethos-u-vela')}'s performance model, not a measurement",
        options=device,
        flash_bytes=memory["on_chip_flash"] + memory["off_chip_flash"],
        ram_bytes=memory["sram"],
        macs=int(float(summary["nn_macs"])),
        cycles=int(float(summary["cycles_total"])),
        clock_mhz=float(summary["core_clock"]) / 1e6,
        figures={
            "dram_bytes": memory["dram"],
            "constants_in": summary["weights_storage_area"],
            "compiled_file_bytes": len(found.compiled),
            "npu_cycles": int(float(summary["cycles_npu"])),
            **cycles,
            "file_weight_bytes": file_weight_bytes,
            "original_weight_bytes": original,
            "encoded_weight_bytes": encoded,
            "weight_compression": original / encoded if encoded else None,
            "cpu_operator_count": len(cpu),
        },
        layers=found.layers,
        cpu_operators=cpu,
        notes=_notes(cpu),
    )


def _notes(cpu: tuple[str, ...]) -> tuple[str, ...]:
    counted = (
        "Vela counts pooling among the MACs; original_weight_bytes are those of what runs on the NPU, as it counts them"
    )
    if not cpu:
        return (counted,)
    return (
        counted,
        f"Memory, MACs and cycles cover the NPU; {len(cpu)} operators and their constants are left to the CPU",
    )
