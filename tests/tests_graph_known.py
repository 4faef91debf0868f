"""Faults of random graphs that are known and may stay for now: each with its reason, and matched narrowly."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tests_graphs import Description


@dataclass(frozen=True)
class Known:
    """A fault that may stay.

    Attributes:
        kind: What the whole kind of the finding matches, as a regular expression.
        reason: Why it is there.
        fits: Whether the graph has what the fault needs.
    """

    kind: str
    reason: str
    fits: Callable[[Description], bool] = lambda description: True


KNOWN: tuple[Known, ...] = ()


def known(kind: str, description: Description) -> str:
    """The reason why a finding may stay, or nothing."""
    found = (k.reason for k in KNOWN if re.fullmatch(k.kind, kind, re.DOTALL) and k.fits(description))
    return next(found, "")
