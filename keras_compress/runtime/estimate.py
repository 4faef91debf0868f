"""`estimate`: what a device that is not here would need, by a model of it. Nothing in it is measured on the device."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from keras_compress.convert.artifact import Artifact
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.outputs import check_output
from keras_compress.core.registry import entries
from keras_compress.core.shown import Shown, names
from keras_compress.core.suggest import did_you_mean
from keras_compress.runtime.deployed import content_of
from keras_compress.tflite.inspection import FileStats, inspect_tflite

Model = Artifact | bytes | str | os.PathLike[str]
# The operator that Vela puts in the place of what it compiled.
COMPILED = "ethos-u"


@dataclass(frozen=True, repr=False)
class Estimate(Shown):
    """What a model of a device says of one file.

    Attributes:
        target: Name of the device's family, such as `"ethos_u"`.
        kind: What produced the figures, such as `"Vela 5.2.0's performance model, not a measurement"`.
        options: The device that was asked for: accelerator or core, clock, ...
        flash_bytes: Read-only memory that the model's constants take.
        ram_bytes: Memory for activations and scratch; `None` where it is not known.
        macs: Multiplications with an addition of one inference.
        cycles: Of one inference; `None` for a model without a clock.
        clock_mhz: Clock that times are given for; `None`: no times.
        figures: What only this target has, by name; the unit ends the name.
        layers: One row for each operator.
        cpu_operators: Operators that an accelerator leaves to the processor: kind and name of the output.
        notes: What the figures leave out, and where they come from.
    """

    target: str
    kind: str
    options: Mapping[str, Any]
    flash_bytes: int
    ram_bytes: int | None
    macs: int
    cycles: int | None
    clock_mhz: float | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[Mapping[str, Any], ...] = ()
    cpu_operators: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def time_ms(self) -> float | None:
        """Time of one inference in milliseconds; `None` without a clock."""
        return None if self.clock_mhz is None or self.cycles is None else self.cycles / (1e3 * self.clock_mhz)

    @property
    def inferences_per_second(self) -> float | None:
        """How many inferences fit into a second; `None` without a clock or without cycles."""
        return 1e3 / self.time_ms if self.time_ms else None

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines."""
        device = ", ".join(f"{key} {value}" for key, value in self.options.items() if value is not None)
        cycles = "" if self.cycles is None else f", {self.cycles:,} cycles"
        speed = "" if self.time_ms is None else f", {self.time_ms:.4g} ms at {self.clock_mhz:g} MHz"
        energy = self.figures.get("energy_uj")
        return f"Estimate for {self.target}: {self.kind}", [
            ("device", device),
            ("flash", f"{self.flash_bytes:,} B"),
            ("RAM", "not known" if self.ram_bytes is None else f"{self.ram_bytes:,} B"),
            ("work", f"{self.macs:,} MACs{cycles}{speed}"),
            ("energy", "" if energy is None else f"{energy:,.4g} uJ an inference"),
            ("on the CPU", names(self.cpu_operators, ".cpu_operators")),
            ("more", f".layers ({len(self.layers)}), .figures ({len(self.figures)}), .notes ({len(self.notes)})"),
        ]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        times = {"time_ms": self.time_ms, "inferences_per_second": self.inferences_per_second}
        plain = {"options": dict(self.options), "figures": dict(self.figures), "layers": [dict(r) for r in self.layers]}
        lists = {"cpu_operators": list(self.cpu_operators), "notes": list(self.notes)}
        return {**asdict(self), **plain, **lists, **times}


def estimator_names() -> tuple[str, ...]:
    """Names that `estimate` takes as `target`: what is registered as `"estimator"`."""
    return tuple(sorted(entries("estimator")))


@global_state_kept()
def estimate(model: Model, target: str, **options: Any) -> Estimate:
    """What a converted model would need on a device, by a model of that device.

    Args:
        model: What `convert` returned, the bytes of a `.tflite` file, or its path.
        target: `"ethos_u"`, Arm's microNPU by its compiler Vela; `"cortex_m"`, a processor by published cycles per
            multiplication; `"energy"`, joules by published energies of operations and memory accesses in 45 nm.
        **options: See `ethos_u.estimate_ethos_u`, `cortex_m.estimate_cortex_m` and `energy.estimate_energy`.

    Raises:
        ValueError: For an unknown target or option value, a damaged file, one that the target cannot run.
        RuntimeError: Where the target's tool is missing, dies or hangs.
        OSError: If the file cannot be read.

    >>> estimator_names()
    ('cortex_m', 'energy', 'ethos_u')
    """
    estimators = entries("estimator")
    if target not in estimators:
        names = estimator_names()
        meant = did_you_mean(target, names)
        raise ValueError(f"Expected a target out of {', '.join(names)}. Received: target={target!r}{meant}")
    known = list(inspect.signature(estimators[target]).parameters)[2:]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"Expected options of {target} out of {', '.join(known)}. Received: {', '.join(unknown)}")
    if options.get("save_to") is not None:
        path = {"model": model} if isinstance(model, (str, os.PathLike)) else {}
        check_output(options["save_to"], ".tflite", path, "save_to")
    content, label = content_of(model)
    made: Estimate = estimators[target](content, label, **options)
    return made


def checked_stats(content: bytes, label: str) -> FileStats:
    """What the file holds; refuses what is damaged or compiled for an accelerator already.

    Raises:
        ValueError: With the cure.
    """
    try:
        stats = inspect_tflite(content)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error
    if COMPILED in stats.operators:
        raise ValueError(f"Expected the file that Vela was given. Received: {label}, which Vela has compiled already")
    return stats
