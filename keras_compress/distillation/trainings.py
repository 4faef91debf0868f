"""Whole ways of teaching: hints first, generations, assistants between a large teacher and a small student."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras

from keras_compress.core.quiet import ignored_warnings
from keras_compress.data.training import Fitting
from keras_compress.distillation.teacher import Teacher


def two_stages(
    student: keras.Model,
    teacher: Any,
    hints: Sequence[Any],
    fitting: Fitting,
    *,
    first: Fitting | None = None,
    **settings: Any,
) -> keras.Model:
    """Train a student up to its guided layer to predict the teacher's hint, then the whole of it by soft targets.

    Args:
        student: Trained in place; it may be deeper and thinner than the teacher.
        teacher: A model, as for `kc.distill`.
        hints: One or more pairs (teacher's layer, student's layer), near the middle of both.
        fitting: The second stage: `kc.Training(...).on(x, y)`.
        first: The first stage, which needs no labels; `fitting` by default.
        **settings: Of the second stage, as for `kc.Teacher`: `method`, `alpha`, `temperature`.

    Returns:
        The student.

    Raises:
        ValueError: As `kc.distill` does.

    **Reference**: Romero et al., "FitNets: hints for thin deep nets" (2015), algorithm 1.
    """
    # What is behind the guided layer has no gradient in the first stage.
    with ignored_warnings("Gradients do not exist"):
        taught_by(first or fitting, Teacher(teacher, "fit_nets", alpha=1.0, hints=tuple(hints)))(student)
    taught_by(fitting, Teacher(teacher, **settings))(student)
    return student


def born_again(
    make: Callable[[], keras.Model], teacher: Any, fitting: Fitting, *, generations: int = 1, **settings: Any
) -> list[keras.Model]:
    """Students of the teacher's own form, each taught by the one before; one generation is self-distillation.

    Args:
        make: Makes a new, untrained student.
        teacher: Teaches the first.
        fitting: `kc.Training(...).on(x, y)`.
        generations: How many, >= 1.
        **settings: As for `kc.Teacher`.

    Returns:
        The students, the last one last. As a list they are an ensemble that can teach.

    Raises:
        ValueError: For no generation, or as `kc.distill` does.

    **Reference**: Furlanello et al., "Born-again neural networks" (2018), section 3.
    """
    if not isinstance(generations, int) or generations < 1:
        raise ValueError(f"Expected `generations` >= 1. Received: generations={generations}")
    students: list[keras.Model] = []
    for _ in range(generations):
        student = make()
        taught_by(fitting, Teacher(students[-1] if students else teacher, **settings))(student)
        students.append(student)
    return students


def teach_down(
    models: Sequence[keras.Model], fitting: Fitting, *, densely: bool = False, **settings: Any
) -> keras.Model:
    """Teach by assistants, each smaller than the one before: a student learns little from one far above it.

    Args:
        models: The trained teacher, assistants from large to small, the student; all but the first are trained.
        fitting: `kc.Training(...).on(x, y)`.
        densely: Whether all models before teach, as an ensemble, not the one before alone.
        **settings: As for `kc.Teacher`.

    Returns:
        The student, the last of `models`.

    Raises:
        ValueError: For fewer than two models, or as `kc.distill` does.

    **Reference**: Mirzadeh et al., "Improved knowledge distillation via teacher assistant" (2020); densely: Son et
    al., "Densely guided knowledge distillation" (2021). **Deviations**: the mean of the teachers' logits; none of them
    is left out by chance.
    """
    if len(models) < 2:
        raise ValueError(f"Expected a teacher and at least one student. Received: {len(models)} models")
    for number, student in enumerate(models[1:], 1):
        before = list(models[:number]) if densely else models[number - 1]
        taught_by(fitting, Teacher(before, **settings))(student)
    return models[-1]


def taught_by(fitting: Fitting, teacher: Teacher) -> Fitting:
    """The same training with a teacher.

    Raises:
        TypeError: For a training without its data.
        ValueError: For one that has a teacher.
    """
    if not isinstance(fitting, Fitting):
        raise TypeError(f"Expected kc.Training(...).on(x, y). Received: {fitting!r} of type {type(fitting).__name__}")
    if fitting.training.teacher is not None:
        raise ValueError("Expected a training without a teacher, which is given here. Received: one with `teacher`")
    return replace(fitting, training=replace(fitting.training, teacher=teacher))
