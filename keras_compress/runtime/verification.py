"""What `verify` found: rows of numbers, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass, field

from keras_compress.convert.distance import Distance
from keras_compress.core.shown import Shown
from keras_compress.runtime.operators import OpRow


@dataclass(frozen=True)
class OutputRow:
    """One output of the whole model on one runtime, beside the frozen model's.

    Attributes:
        name: The output.
        kernel: Runtime.
        max_difference: Largest absolute difference of the real values.
        fraction_differing: Share of values that differ.
        argmax_agreement: Share of samples with the same largest entry; `None` for an output without classes.
    """

    name: str
    kernel: str
    max_difference: float
    fraction_differing: float
    argmax_agreement: float | None


@dataclass(frozen=True, repr=False)
class Verification(Shown):
    """Result of `verify`.

    Attributes:
        rows: One for each operator and kernel, in the order of the model.
        outputs: One for each output and kernel.
        skipped: Kernel -> why it was not run.
        distance: From the trained model to the frozen one; `None` where no trained model was given.
        unexplained: What else than rounding stands between these two, and at which layer; `None` for nothing.
        notes: Where outputs are far from the trained model's, and decisions differ by more than near ties.
    """

    rows: tuple[OpRow, ...]
    outputs: tuple[OutputRow, ...]
    skipped: dict[str, str] = field(default_factory=dict)
    distance: Distance | None = None
    unexplained: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def first_failure(self) -> OpRow | None:
        """The first operator beyond its bound."""
        return next((row for row in self.rows if not row.ok), None)

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines: the verdict on each kernel."""
        return _verdict(self)

    @property
    def ok(self) -> bool:
        """Whether every operator is within its bound, and the frozen model is the trained one but for rounding."""
        return self.first_failure is None and self.unexplained is None


def _verdict(found: Verification) -> tuple[str, list[tuple[str, str]]]:
    """Title and rows: how far operators and outputs are from the frozen model, on each kernel."""
    rows = []
    kernels = [*(row.kernel for row in found.rows), *(row.kernel for row in found.outputs)]
    for kernel in dict.fromkeys(kernels):
        mine = [row for row in found.rows if row.kernel == kernel]
        steps = max((row.max_lsb for row in mine), default=0)
        share = max((row.fraction_differing for row in mine), default=0.0)
        unexplained = max((row.fraction_unexplained for row in mine), default=0.0)
        outputs = [row.argmax_agreement for row in found.outputs if row.kernel == kernel]
        agreements = [agreement for agreement in outputs if agreement is not None]
        argmax = f", argmax equal on {min(agreements):.2%}" if agreements else ""
        differing = f"at most {steps} step in {share:.3%} of the values, {unexplained:.3%} unexplained"
        rows.append((kernel, f"{len(mine)} operators, {differing}{argmax}"))
    failure = found.first_failure
    if failure is not None:
        steps, share = failure.unexplained_lsb, failure.fraction_unexplained
        said = f"{failure.name!r} on {failure.kernel}: {steps} steps, {share:.2%} unexplained"
        rows.append(("first failure", f"{said} (at most {failure.bound:.2%})"))
    rows += [(kernel, f"not run: {reason}") for kernel, reason in found.skipped.items()]
    return f"Verification: {'ok' if found.ok else 'NOT VERIFIED'}", rows
