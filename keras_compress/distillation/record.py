"""What is known of a student beside its weights: who taught it, and how far that came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_compress.core.history import Record, keep, kept


@dataclass(frozen=True)
class Lessons(Record):
    """Each training by a teacher, a line each."""

    said: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Who taught, with which losses, and how far they came."""
        return [f"Taught by {line}" for line in self.said]


def add_lesson(
    student: keras.Model,
    teachers: Sequence[str],
    losses: Sequence[Any],
    alpha: float,
    logs: Mapping[str, Sequence[float]],
) -> None:
    """Note a training.

    Args:
        student: Who was taught.
        teachers: Names of the teachers.
        losses: What was asked of it.
        alpha: Share of the teacher's losses.
        logs: What `fit` gave, epoch by epoch.
    """
    terms = logs.get("distillation_loss", [])
    if not terms:
        return
    came = f"its loss {terms[0]:.4g} in the first epoch" + (f", {terms[-1]:.4g} in the last" if len(terms) > 1 else "")
    line = f"{', '.join(teachers)} by {' + '.join(map(described, losses))}, alpha {alpha:g}: {came}"
    before = kept(student, Lessons) or Lessons()
    keep(student, Lessons((*before.said, line)))


def described(loss: Any) -> str:
    """A loss with its settings: `"SoftTargets(temperature=4)"`."""
    own = type(loss).__module__.startswith("keras_compress")
    settings = (
        ", ".join(f"{key}={value:g}" for key, value in loss.get_config().items() if value is not None) if own else ""
    )
    return f"{type(loss).__name__}({settings})"
