"""What is known of a student beside its weights: who taught it, and how far that came."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import keras

_LESSONS: weakref.WeakKeyDictionary[keras.Model, tuple[str, ...]] = weakref.WeakKeyDictionary()


def lessons(student: keras.Model) -> tuple[str, ...]:
    """A line for each training by a teacher; none for a model that was copied or loaded since."""
    return _LESSONS.get(student, ())


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
    _LESSONS[student] = (*lessons(student), line)


def described(loss: Any) -> str:
    """A loss with its settings: `"SoftTargets(temperature=4)"`."""
    own = type(loss).__module__.startswith("keras_compress")
    settings = (
        ", ".join(f"{key}={value:g}" for key, value in loss.get_config().items() if value is not None) if own else ""
    )
    return f"{type(loss).__name__}({settings})"
