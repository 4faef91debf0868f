"""Which sparse weights LiteRT computes without their zeros, and from where on that is faster.

Its built-in FULLY_CONNECTED reads sparse weights directly: float32 in blocks of 4 consecutive inputs of one output,
int8 in blocks of 16. The kernel multiplies one sample after the other, so several at once gain less, and threads share
samples, never one. Other sparse weights reach their operator through DENSIFY, which fills in the zeros when the file is
loaded.

Timed in turns with the dense file of the same weights (XNNPACK, one thread, ai-edge-litert 2.3.0; an AMD EPYC with
AVX-512 VNNI): dense over sparse time, for layers of as many inputs as outputs.

| zeros | type | rows | 256 | 512 | 1024 | 2048 | 4096 |
|---|---|---|---|---|---|---|---|
| 80 % | float32 | 1 | 0.86 | 0.95 | 0.93 | 1.8 | 2.0 |
| 90 % | float32 | 1 | 1.1 | 1.7 | 1.5 | 2.4 | 3.7 |
| 95 % | float32 | 1 | 1.5 | 2.2 | 2.8 | 5.1 | 6.7 |
| 80 % | float32 | 16 | 0.81 | 0.63 | 0.78 | 0.69 | 0.60 |
| 90 % | float32 | 16 | 0.83 | 1.6 | 1.5 | 1.6 | 1.4 |
| 95 % | float32 | 16 | 1.4 | 2.8 | 3.0 | 3.3 | 2.9 |
| 90 % | int8 | 1 | 0.31 | 0.43 | 0.49 | 0.73 | 1.1 |
| 95 % | int8 | 1 | 0.44 | 0.56 | 1.1 | 1.4 | 1.9 |

A processor with slower caches gains more: a Xeon had 1.6 to 2.6 at 80 % and 1024 to 4096 inputs. `"auto"` takes what
gained on both.
"""

from __future__ import annotations

from dataclasses import dataclass

# What skips zeros: of dense layers on any processor, timed on x86-64; of 1x1 convolutions not on x86 with AVX.
BUILT_IN = "LiteRT, built-in kernels"
XNNPACK = "XNNPACK on Arm, LiteRT.js"
SPARSITIES = ("auto", "none", "block")


@dataclass(frozen=True)
class SparseKernel:
    """A kernel that reads sparse weights.

    Attributes:
        block: Consecutive inputs of one output that are stored or left out together.
        pays: Weights of a layer, rows at a time -> share of blocks that must be zeros, for the first entry that holds.
            Each entry is `(weights at least, rows at most, share)`.
    """

    block: int
    pays: tuple[tuple[int, int, float], ...]

    def least_share(self, weights: int, rows: int) -> float:
        """Share of blocks of zeros from which on the kernel is faster than the dense one; above 1 where it never is."""
        return min((share for least, most, share in self.pays if weights >= least and rows <= most), default=2.0)


_MANY = 64
# (runtime, operator, type) -> kernel.
SPARSE_KERNELS = {
    ("litert", "FULLY_CONNECTED", "float32"): SparseKernel(
        4, ((1 << 22, 1, 0.78), (1 << 18, _MANY, 0.88), (1 << 16, _MANY, 0.945))
    ),
    ("litert", "FULLY_CONNECTED", "int8"): SparseKernel(16, ((1 << 22, 1, 0.945),)),
}
