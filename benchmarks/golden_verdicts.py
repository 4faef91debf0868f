"""How the new record of a model compares with the old one."""

from __future__ import annotations

from dataclasses import dataclass, field

import golden_files as files
from golden_records import Record

STATUSES = ("identical", "equal", "better", "larger", "different", "error")


@dataclass
class Verdict:
    """What became of a model.

    Attributes:
        status: `"identical"` bytes and outputs; `"equal"`: the same integers, grids, outputs and operators;
            `"better"`: the same outputs with fewer operators or bytes, or it was refused and works; `"larger"`: the
            same outputs with more bytes; `"different"`; `"error"`: it worked and does not, or fails otherwise.
        text: Why, in a line.
        details: Line by line.
        told: What differs without making the model different.
        totals: Operators and bytes, old and new.
    """

    status: str
    text: str = ""
    details: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    totals: dict[str, tuple[int, int]] = field(default_factory=dict)


def verdict(old: Record, new: Record) -> Verdict:
    """Compare two records of a model."""
    if "ok" not in (old.status, new.status):
        return _both_failed(old, new)
    if old.status != "ok":
        return Verdict("better", f"works, was {old.status}: {old.message[:160]}", [old.message])
    if new.status != "ok":
        return Verdict("error", f"{new.status}: {new.message[:300]}", [new.message])
    return _files(old, new)


def _both_failed(old: Record, new: Record) -> Verdict:
    details = [f"was: {old.status}: {old.message}", f"now: {new.status}: {new.message}"]
    if (old.status, old.message) == (new.status, new.message):
        return Verdict("identical", f"{new.status} as before: {new.message[:100]}")
    if new.status == "refused":
        status = "equal" if old.status == "refused" else "better"
        text = f"{old.status} -> {new.status}: {new.message[:160]}"
        return Verdict(status, text, details, ["another message of refusal"])
    return Verdict("error", f"{old.status} -> {new.status}: {new.message[:300]}", details)


def _files(old: Record, new: Record) -> Verdict:
    before, after = files.anatomy(old.content), files.anatomy(new.content)
    same_bytes = old.content == new.content
    parts = [*_outputs(old, new, before.steps)]
    if not same_bytes:
        parts += [
            files.operators(before.operators, after.operators),
            files.constants(before.constants, after.constants, len(after.operators) < len(before.operators)),
            files.grids(before, after, (old.points, new.points)),
            files.interface(before.interface, after.interface),
        ]
    parts += [
        files.points(old.points, new.points),
        files.float_operators(old.float_ops, new.float_ops),
        files.notes(old.notes, new.notes),
    ]
    sizes = (before.size, after.size)
    texts = [part.text for part in parts if part.text] + ([] if sizes[0] == sizes[1] else [_sizes(*sizes)])
    return Verdict(
        _status({part.state for part in parts}, same_bytes, sizes),
        "; ".join(texts),
        [line for part in parts for line in part.details],
        [part.text for part in parts if part.state == "told"],
        {"operators": (len(before.operators), len(after.operators)), "bytes": sizes},
    )


def _sizes(before: int, after: int) -> str:
    return f"{before:,} -> {after:,} B"


def _status(states: set[str], same_bytes: bool, sizes: tuple[int, int]) -> str:
    if "changed" in states:
        return "different"
    if "better" in states:
        return "better"
    if same_bytes:
        return "identical"
    return "larger" if sizes[1] > sizes[0] else "better" if sizes[1] < sizes[0] else "equal"


def _outputs(old: Record, new: Record, steps: list[float]) -> list[files.Part]:
    """A part for each kernel."""
    found = []
    for kernel in dict.fromkeys((*old.outputs, *old.refused, *new.outputs, *new.refused)):
        if kernel in new.outputs and kernel in old.outputs:
            found.append(files.outputs(kernel, old.outputs[kernel], new.outputs[kernel], steps))
        elif kernel in new.outputs:
            found.append(files.Part("better", f"{kernel} runs it now", [f"{kernel}: {old.refused.get(kernel)}"]))
        elif kernel in old.outputs:
            reason = new.refused.get(kernel, "not run")
            found.append(files.Part("changed", f"{kernel} refuses it: {reason[:80]}", [f"{kernel}: {reason}"]))
        elif old.refused.get(kernel) != new.refused.get(kernel):
            found.append(files.Part("told", f"{kernel} refuses it otherwise", [new.refused.get(kernel, "")]))
    return found
