"""Faults of random graphs that are known and may stay for now: each with its reason, and matched narrowly."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tests_graphs import Description, names_of


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


def _saturated_recurrence(description: Description) -> bool:
    wide = any(node.get("scale", 1.0) >= 10 for node in description)
    return wide and bool({"GRU", "GRUCell", "LSTM", "LSTMCell"} & set(names_of(description)))


KNOWN: tuple[Known, ...] = (
    Known(
        r"float, not finite: .*UnitNormalization.*",
        "TensorFlow's converter moves the lower bound of a square root behind it, where rows of zeros are NaN by then",
    ),
    Known(
        r"verify: VerificationError: .* N steps, N, first at <(rnn|gru|lstm|bidirectional)> on (xnnpack|reference)",
        "gates that are saturated take few values: equal sums meet one tie, which kernels and frozen model round apart",
        _saturated_recurrence,
    ),
)


def known(kind: str, description: Description) -> str:
    """The reason why a finding may stay, or nothing."""
    found = (k.reason for k in KNOWN if re.fullmatch(k.kind, kind, re.DOTALL) and k.fits(description))
    return next(found, "")
