"""Cycles per multiplication of int8 kernels on Cortex-M, with where each figure comes from.

**Derivation.** The four networks of MLPerf Tiny are known to the last multiplication (`NETWORKS`), and submitters
publish how many inferences a second a board does. Cycles of one inference = clock / inferences per second. The cycles
per multiplication of a convolution, a depthwise convolution and a fully-connected layer are the non-negative least
squares solution of these four equations, each divided by its cycles. It gives each network's cycles to 7 % (M33),
4 % (the others). Whatever else a network does (pooling, additions, softmax, the runtime) is in these costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CONVOLUTION, DEPTHWISE, DENSE = "convolution", "depthwise", "dense"

# Multiplications (convolution, depthwise, dense) of MLPerf Tiny's networks: the autoencoder for anomaly detection,
# ResNet-8 for image classification, DS-CNN for keywords, MobileNetV1 0.25 of 96x96 for visual wake words.
NETWORKS: Mapping[str, tuple[int, int, int]] = {
    "ad": (0, 0, 264_192),
    "ic": (12_500_992, 0, 640),
    "kws": (2_368_000, 288_000, 768),
    "vww": (6_690_816, 798_336, 512),
}


@dataclass(frozen=True)
class Throughput:
    """What a submitter of MLPerf Tiny published for one board.

    Attributes:
        board: Board and core.
        engine: What ran the networks.
        source: Repository and folder; each network's figure is in `.../NETWORK/performance/results.txt`.
        clock_mhz: From the system's description beside it.
        per_second: Network -> median inferences per second.
    """

    board: str
    engine: str
    source: str
    clock_mhz: float
    per_second: Mapping[str, float]


PUBLISHED: Mapping[str, Throughput] = {
    "m4": Throughput(
        "NUCLEO-L4R5ZI, Cortex-M4",
        "microTVM with CMSIS-NN",
        "mlcommons/tiny_results_v1.0, closed/OctoML/results/microtvm_cmsis_nn/NUCLEO_L4R5ZI",
        120.0,
        {"ad": 116.212, "ic": 2.567, "kws": 10.019, "vww": 3.320},
    ),
    "m33": Throughput(
        "EK-RA6M4, Cortex-M33",
        "TFLite-Micro with CMSIS-NN",
        "mlcommons/tiny_results_v0.7, closed/renesas/results/EK-RA6M4",
        200.0,
        {"ad": 216.772, "ic": 4.062, "kws": 19.774, "vww": 6.159},
    ),
    "m0+ hale": Throughput(
        "NUCLEO-G0B1RE, Cortex-M0+",
        "Bosch HALE",
        "mlcommons/tiny_results_v1.2, closed/bosch/results/NUCLEO_G0B1RE_int8",
        64.0,
        {"ad": 24.454, "ic": 0.657, "kws": 2.107, "vww": 0.707},
    ),
    "m4 hale": Throughput(
        "NUCLEO-L4R5ZI, Cortex-M4",
        "Bosch HALE",
        "mlcommons/tiny_results_v1.2, closed/bosch/results/NUCLEO_L4R5ZI_int8",
        120.0,
        {"ad": 171.375, "ic": 5.539, "kws": 16.623, "vww": 5.540},
    ),
    "m7 hale": Throughput(
        "DISCO-F746NG, Cortex-M7",
        "Bosch HALE",
        "mlcommons/tiny_results_v1.2, closed/bosch/results/DISCO_F746NG_int8",
        216.0,
        {"ad": 584.380, "ic": 15.986, "kws": 52.746, "vww": 17.468},
    ),
}


@dataclass(frozen=True)
class Core:
    """What int8 kernels take on one core.

    Attributes:
        cycles: Kind of operator -> cycles per multiplication.
        basis: `"measured"`: published cycles of single operators; `"fitted"` to published times of whole networks on
            this core; `"scaled"` from those to this core; `"bounded"`: scaled by the least cycles of the instructions.
        source: Where the figures come from.
    """

    cycles: Mapping[str, float]
    basis: str
    source: str


def _costs(convolution: float, depthwise: float, dense: float) -> dict[str, float]:
    return {CONVOLUTION: convolution, DEPTHWISE: depthwise, DENSE: dense}


CORES: Mapping[str, Core] = {
    "m0+": Core(
        _costs(7.79, 44.5, 9.91),
        "fitted",
        "MLPerf Tiny v1.2, Bosch on NUCLEO-G0B1RE (64 MHz, HALE, not CMSIS-NN, whose kernels are plain C on this core)",
    ),
    # The least that a multiplication of two int8 in memory takes: on the M0+ two LDRSB of 2 cycles, MULS 1, ADDS 1 (Arm
    # DDI 0484C, table 3-1), so 6; on the M3 two LDRSB of 1 where loads follow loads, MLA 2 (Arm DDI 0337I, section
    # 3.3), so 4. No published run of int8 networks was found for the M3.
    "m3": Core(
        _costs(5.20, 29.6, 6.60),
        "bounded",
        "the M0+'s figures times 4/6, the least cycles that the instructions take (Arm DDI 0337I, DDI 0484C)",
    ),
    "m4": Core(
        _costs(3.74, 12.2, 3.91),
        "fitted",
        "MLPerf Tiny v1.0, OctoML on NUCLEO-L4R5ZI (120 MHz, microTVM with CMSIS-NN)",
    ),
    # CMSIS-NN on the M4, times what Bosch's HALE gained from that M4 to the M7: 0.62, 0.50, 0.53.
    "m7": Core(
        _costs(2.33, 6.13, 2.06),
        "scaled",
        "the M4's figures times Bosch's M7 over M4 (MLPerf Tiny v1.2, DISCO-F746NG and NUCLEO-L4R5ZI, HALE)",
    ),
    "m33": Core(
        _costs(3.94, 4.80, 3.49),
        "fitted",
        "MLPerf Tiny v0.7, Renesas on EK-RA6M4 (200 MHz, TFLite-Micro with CMSIS-NN)",
    ),
    # pytorch/executorch, issue 17651: MobileNetV2 of 224x224, operators 3 to 10, of which five convolutions take
    # 56,040,015 cycles for 54,591,488 multiplications, three depthwise ones 39,322,262 for 10,386,432. The
    # architecture allows 8 int8 multiplications a cycle. Fully-connected layers are not among them.
    "m55": Core(
        _costs(1.03, 3.79, 1.03),
        "measured",
        "executorch issue 17651 (CMSIS-NN on Alif E8, 8 operators of MobileNetV2; none is fully-connected: as "
        "convolution)",
    ),
}
