"""Energy of an inference, as a cost."""

from __future__ import annotations

from typing import Any

import keras

from keras_compress.convert.file_bytes import FileBytes
from keras_compress.core.budget import Cost
from keras_compress.core.registry import register
from keras_compress.runtime.cortex_m import estimate_cortex_m
from keras_compress.runtime.cortex_m_costs import CORES
from keras_compress.runtime.energy import estimate_energy
from keras_compress.runtime.energy_tables import BOARD_POWER


@register("cost")
class Energy(Cost):
    """Microjoules of one inference by a model of the hardware, not measured: see `kc.estimate`.

    Args:
        core: A Cortex-M with a published power (`"m4"`, `"m7"`, `"m33"`), for an integer file: cycles times energy of a
            cycle. `None`: operations and memory traffic by Horowitz's table for 45 nm.
        mode: As for `kc.convert`.
        representative_dataset: Data for `mode="int8"`, as for `kc.convert`.

    Raises:
        ValueError: For a core without a published power.
    """

    tolerance = 0.005
    noun = "energy"
    unit = "uJ"
    figure_name = "energy_uj"
    predicted_by = "macs"

    def __init__(self, core: str | None = None, mode: str = "float32", representative_dataset: Any = None) -> None:
        if core is not None and core not in BOARD_POWER:
            known = ", ".join(each for each in CORES if each in BOARD_POWER)
            raise ValueError(
                f"Expected a core with a published power, out of {known}, or None. Received: core={core!r}"
            )
        self.core = core
        self.file = FileBytes(mode, representative_dataset, "litert" if core is None else "tflm")

    def of(self, model: keras.Model) -> float:
        """Microjoules."""
        return energy_uj(self.file.content(model), self.core)


def energy_uj(content: bytes, core: str | None = None) -> float:
    """Microjoules of one inference of a file, by the table, or on a Cortex-M with a published power."""
    found = estimate_energy(content) if core is None else estimate_cortex_m(content, core=core, measure_ram=False)
    return float(found.figures["energy_uj"])
