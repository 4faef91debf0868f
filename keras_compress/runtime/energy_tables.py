"""Energies of operations and memory accesses, and powers of boards, with where each figure comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = (
    "M. Horowitz, Computing's energy problem (and what we can do about it), ISSCC 2014, pp. 10-14, figure 1.1.9: "
    "rough energies in 45 nm at 0.9 V"
)
# Picojoules of one operation, by bits.
INTEGER_ADD: Mapping[int, float] = {8: 0.03, 32: 0.1}
INTEGER_MULTIPLY: Mapping[int, float] = {8: 0.2, 32: 3.1}
FLOAT_ADD: Mapping[int, float] = {16: 0.4, 32: 0.9}
FLOAT_MULTIPLY: Mapping[int, float] = {16: 1.1, 32: 3.7}
# Picojoules of an access of 64 bits, by the bytes of the memory; of DRAM the least and the most.
CACHE: Mapping[int, float] = {8 * 1024: 10.0, 32 * 1024: 20.0, 1024 * 1024: 100.0}
DRAM = (1300.0, 2600.0)
ACCESS_BYTES = 8


def integer_add(bits: int) -> float:
    """Picojoules of an addition of two integers: the straight line through 8 and 32 bits.

    >>> round(integer_add(8), 6), round(integer_add(32), 6)
    (0.03, 0.1)
    """
    slope = (INTEGER_ADD[32] - INTEGER_ADD[8]) / 24
    return INTEGER_ADD[8] + slope * (bits - 8)


def integer_multiply(bits: int, other_bits: int) -> float:
    """Picojoules of a product of two integers.

    An array multiplier has a cell for each pair of bits and a row or column for each bit: `a n m + b (n + m) / 2`, with
    the a and b that give the published 8 by 8 and 32 by 32. (QKeras's qenergy has the same curve for n = m.)

    >>> round(integer_multiply(8, 8), 6), round(integer_multiply(32, 32), 6)
    (0.2, 3.1)
    """
    cell = (INTEGER_MULTIPLY[32] / 32 - INTEGER_MULTIPLY[8] / 8) / 24
    line = INTEGER_MULTIPLY[8] / 8 - 8 * cell
    return cell * bits * other_bits + line * (bits + other_bits) / 2


def sram_access(memory_bytes: int) -> float:
    """Picojoules of an access of 64 bits: straight lines through the logarithms of the three published sizes.

    Memory below 8 kB takes what 8 kB does.

    Raises:
        ValueError: For more than 1 MB, which is not in the table.

    >>> [round(sram_access(size), 6) for size in (4096, 32768, 1048576)]
    [10.0, 20.0, 100.0]
    """
    sizes = sorted(CACHE)
    if memory_bytes <= sizes[0]:
        return CACHE[sizes[0]]
    for low, high in zip(sizes, sizes[1:], strict=False):
        if memory_bytes <= high:
            share = math.log(memory_bytes / low) / math.log(high / low)
            return CACHE[low] * math.exp(share * math.log(CACHE[high] / CACHE[low]))
    raise ValueError(f"Expected at most {sizes[-1]:,} bytes of SRAM (more is DRAM here). Received: {memory_bytes:,}")


@dataclass(frozen=True)
class BoardPower:
    """What a board takes while it runs int8 networks, as MLPerf Tiny's energy runs published it.

    Attributes:
        board: Board and core.
        source: Repository and folder; each network's figures are in `.../NETWORK/energy/results.txt`.
        clock_mhz: Clock of the runs.
        milliwatts: Network -> mean power (median window).
        microjoules_published: Network -> median energy of an inference.
    """

    board: str
    source: str
    clock_mhz: float
    milliwatts: Mapping[str, float]
    microjoules_published: Mapping[str, float]

    @property
    def picojoules_per_cycle(self) -> float:
        """The mean of the networks' powers over the clock."""
        return 1e3 * sum(self.milliwatts.values()) / len(self.milliwatts) / self.clock_mhz

    def said(self) -> str:
        """Where an energy comes from, as a note."""
        return (
            f"energy_uj is cycles times {self.picojoules_per_cycle:.0f} pJ of the {self.board} at {self.clock_mhz:g} "
            f"MHz ({self.source}); it is that board's, whatever the clock given"
        )

    def microjoules(self, cycles: int) -> float:
        """Energy of so many cycles."""
        return 1e-6 * cycles * self.picojoules_per_cycle


# Core -> a board with it. No energy run of an int8 network was found for the M0+, the M3 and the M55.
BOARD_POWER: Mapping[str, BoardPower] = {
    "m4": BoardPower(
        "NUCLEO-L4R5ZI",
        "mlcommons/tiny_results_v1.0, closed/OctoML/results/microtvm_cmsis_nn/NUCLEO_L4R5ZI",
        120.0,
        {"ad": 51.501, "ic": 51.926, "kws": 52.284, "vww": 51.983},
        {"ad": 443.184, "ic": 20_236.298, "kws": 5_230.273, "vww": 15_531.354},
    ),
    "m33": BoardPower(
        "EK-RA6M4",
        "mlcommons/tiny_results_v0.7, closed/renesas/results/EK-RA6M4",
        200.0,
        {"ad": 71.165, "ic": 71.868, "kws": 74.743, "vww": 73.940},
        {"ad": 324.088, "ic": 17_723.829, "kws": 3_796.957, "vww": 11_851.829},
    ),
    # Inferences a second times energy of an inference, from the submission's own table; at 3.0 V with SMPS.
    "m7": BoardPower(
        "NUCLEO-H7A3ZI-Q",
        "mlcommons/tiny_results_v1.1, closed/Krai/results/README.md, X-CUBE-AI 8.0.0",
        280.0,
        {"ad": 129.056, "ic": 138.714, "kws": 144.060, "vww": 137.645},
        {"ad": 235.833, "ic": 7_615.350, "kws": 2_362.103, "vww": 6_928.315},
    ),
}
