"""A verification in a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_compress.runtime.verify import Verification


def verdict(found: Verification) -> tuple[str, list[tuple[str, str]]]:
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
