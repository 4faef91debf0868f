"""What teaches: a model, several, a file, or outputs that were computed before."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from keras import ops, tree

from keras_compress.core.shown import Shown
from keras_compress.distillation.heads import Head, heads_of, keys_of, kinds_given
from keras_compress.distillation.outputs import TeacherOutputs
from keras_compress.graph.trace import as_graph
from keras_compress.graph.watch import Watch

Tensor = Any


@dataclass(frozen=True, repr=False)
class Teacher(Shown):
    """Who teaches and how: what `kc.distill` takes, for trainings of any kind (`kc.Training(teacher=...)`).

    Attributes:
        model: The teacher, see `kc.distill`.
        method: As for `kc.distill`.
        alpha: As for `kc.distill`.
        temperature: As for `kc.distill`.
        hints: As for `kc.distill`.
        weights: As for `kc.distill`.
        heads: As for `kc.distill`.
    """

    model: Any
    method: Any = "soft_targets"
    alpha: float = 0.7
    temperature: float | None = None
    hints: Sequence[Any] = ()
    weights: Sequence[float] | None = None
    heads: Any = None

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines."""
        names = [each.name if isinstance(each, keras.Model) else str(each) for each in listed(self.model)]
        return f"Teacher {', '.join(names)}", [("method", str(self.method)), ("alpha", f"{self.alpha:g}")]


class Source:
    """Teachers as one function, in inference: logits of the heads, and hints.

    Plain: Keras tracks no variable of it, so that none is saved or trained with a student.

    Args:
        models: At least one; several are an ensemble, whose logits are averaged.
        hints: Names of layers of the only one.
        heads: See `kc.distill`.

    Raises:
        ValueError: For hints of an ensemble, or layers that there are not.
    """

    def __init__(self, models: Sequence[keras.Model], hints: Sequence[str] = (), heads: Any = None) -> None:
        if hints and len(models) > 1:
            raise ValueError(f"Expected one teacher for hints. Received: {len(models)}, whose layers differ")
        self.models = list(models)
        self.graphs = [as_graph(model) for model in models]
        self._watches = [Watch(model, hints) for model in models]
        self._heads = heads

    def heads(self) -> list[list[Head]]:
        """The heads of each model."""
        return [
            heads_of(graph, kinds_given(self._heads, len(graph.outputs), keys_of(graph)), getattr(model, "loss", None))
            for graph, model in zip(self.graphs, self.models, strict=True)
        ]

    def shapes(self) -> list[tuple[int | None, ...]]:
        """Shapes of the hints."""
        return self._watches[0].shapes()

    def values(self, inputs: Any) -> tuple[list[Tensor], list[Tensor]]:
        """Logits of the heads in Keras's order, the mean over the teachers, and the hints.

        The mean of logits is the geometric mean of the distributions (Hinton et al. 2015, section 2).
        """
        logits: list[list[Tensor]] = []
        hints: list[Tensor] = []
        for watch, heads in zip(self._watches, self.heads(), strict=True):
            outputs, hints = watch.run(inputs, training=False)
            pairs = zip(heads, tree.flatten(outputs), strict=True)
            logits.append([ops.stop_gradient(head.logits(values)) for head, values in pairs])
        means = [sum(of_head[1:], of_head[0]) / float(len(of_head)) for of_head in zip(*logits, strict=True)]
        return means, [ops.stop_gradient(hint) for hint in hints]


def listed(teacher: Any) -> list[Any]:
    """Teachers as a list."""
    return list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]


def loaded(teacher: Any) -> list[keras.Model] | TeacherOutputs:
    """Teachers as models, read from their files where paths are given.

    Raises:
        TypeError: For anything else.
        ValueError: For a file that runs outside of TensorFlow, or is none.
    """
    if isinstance(teacher, TeacherOutputs):
        return teacher
    found = listed(teacher)
    if not found:
        raise ValueError("Expected at least one teacher. Received: none")
    return [_model(each) for each in found]


def _model(teacher: Any) -> keras.Model:
    if isinstance(teacher, (str, os.PathLike)):
        return _read(Path(os.fspath(teacher)))
    if not isinstance(teacher, keras.Model):
        raise TypeError(
            "Expected a teacher as a keras.Model, a list of them, a .keras file, or kc.teacher_outputs(...). "
            f"Received: {teacher!r} of type {type(teacher).__name__}"
        )
    if not teacher.built:
        raise ValueError(
            f"Expected a built teacher: call it on data, or give it an `Input`. Received: {teacher.name!r}, not built."
        )
    return teacher


def _read(path: Path) -> keras.Model:
    if path.suffix == ".keras" and path.is_file():
        made: keras.Model = keras.models.load_model(path, compile=False)
        return made
    raise ValueError(
        "Expected a teacher in a .keras file; of a .tflite file or a SavedModel give the outputs, "
        f"kc.teacher_outputs(path, x, folder). Received: {str(path)!r}"
    )
