"""The model that trains a student: Keras's distiller, whose student runs once a batch and may be of any kind."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import ops, tree

from keras_compress.core import keras_private
from keras_compress.distillation.heads import Head, agreed, by_output, heads_of, keys_of
from keras_compress.distillation.loss import total
from keras_compress.distillation.outputs import TeacherOutputs, unpacked
from keras_compress.distillation.record import add_lesson
from keras_compress.distillation.teacher import Source
from keras_compress.graph.trace import as_graph
from keras_compress.graph.watch import Watch

Tensor = Any


@dataclass(frozen=True)
class Term:
    """One loss of a distiller.

    Attributes:
        loss: The loss.
        weight: Its weight among the others.
        hints: Which hints it reads, by their place among all; none for the outputs.
        layers: Layers that are trained for it.
    """

    loss: Any
    weight: float
    hints: tuple[int, ...]
    layers: tuple[keras.layers.Layer, ...]

    def value(self, teacher: Sequence[Any], student: Sequence[Any], **of_outputs: Any) -> Tensor:
        """The weighted loss, of `(logits, hints)` of each.

        Args:
            teacher: Its.
            student: Its.
            **of_outputs: `kinds`, `labels`, `sample_weights` and `masks`, see `DistillationLoss.compute_loss`.
        """
        if self.hints:
            chosen = [[hints[n] for n in self.hints] for _, hints in (teacher, student)]
            shares = of_outputs.get("sample_weights")
            of_outputs["sample_weights"] = shares and [_of_hint(shares, student[0], each) for each in chosen[1]]
            of_outputs["masks"] = list(map(keras_private.mask_of, chosen[1]))
        else:
            chosen = [list(teacher[0]), list(student[0])]
        if isinstance(self.loss, getattr(keras, "distillation").DistillationLoss):  # noqa: B009 - not in Keras 3.11
            chosen = [each[0] if len(each) == 1 else each for each in chosen]
        made = self.loss.compute_loss(*chosen, layers=list(self.layers), **of_outputs)
        return self.weight * ops.cast(made, "float32")


def _of_hint(shares: Sequence[Any], outputs: Sequence[Any], hint: Tensor) -> Tensor | None:
    """What a sample counts in a hint, or each of its positions, where these are the positions of an output.

    Args:
        shares: Weights of each output, `(batch, ...)`; `None` where it has none.
        outputs: The student's logits.
        hint: The student's values.
    """
    share = shares[0]
    if not all(each is share for each in shares):
        given = [_of_samples(each) for each in shares if each is not None]
        # An output without weights counts each sample once.
        return (total(given) + float(len(shares) - len(given))) / float(len(shares))
    if share is None or len(share.shape) < 2:
        return share
    sizes = ops.shape(hint)[1:-1]
    alike = [each for each in outputs if sizes and _may_be(each.shape[1:-1], hint.shape[1:-1])]
    if not alike:
        return _of_samples(share)
    share = ops.cast(share, "float32")
    while len(share.shape) >= len(hint.shape):
        share = ops.mean(share, axis=-1)
    return _at_positions(share, sizes[: len(share.shape) - 1])


def _of_samples(share: Tensor) -> Tensor:
    """What a sample counts: the mean of its weights."""
    return ops.mean(ops.cast(share, "float32"), axis=tuple(range(1, len(share.shape))))


def _may_be(some: Sequence[int | None], others: Sequence[int | None]) -> bool:
    """Whether sizes are the same, as far as they are known."""
    return len(some) == len(others) and all(a is None or b is None or a == b for a, b in zip(some, others, strict=True))


def _at_positions(share: Tensor, sizes: Sequence[Any]) -> Tensor:
    """Weights of positions, if there are as many as these, else the mean of each sample at all of them.

    Sizes of sequences may be known only when the graph runs; both results have one shape then.
    """
    picked, same = share, ops.convert_to_tensor(True)
    for axis, size in enumerate(sizes, start=1):
        own = ops.shape(share)[axis]
        same = ops.logical_and(same, ops.equal(own, size))
        picked = ops.take(picked, ops.minimum(ops.arange(size), own - 1), axis=axis)
    mean = ops.mean(share, axis=tuple(range(1, len(share.shape))), keepdims=True)
    return ops.where(same, picked, mean)


class Quiet:
    """A loss as Keras's distiller checks it when it is made; the terms are computed elsewhere."""

    def validate_model_compatibility(self, teacher: Any, student: Any) -> None:
        """Checked before."""


class Frozen(keras.Model):
    """A teacher as Keras's distiller holds one: without variables, so that nothing of it is trained or saved."""

    def __init__(self, source: Source | TeacherOutputs, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source

    @property
    def models(self) -> list[keras.Model]:
        """The models that teach; none where their outputs were kept."""
        return [] if isinstance(self.source, TeacherOutputs) else self.source.models


class Distiller(keras.distillation.Distiller):
    """Trains `student` with labels and a teacher; made by `kc.distill`, compiled and fitted like any model.

    **Loss** `(1 - alpha) task + alpha sum_i w_i term_i`, with the losses of regularizers and layers beside it. The
    logs have `student_loss`, `distillation_loss` and `total_loss`, as Keras's has. Weights of samples and of classes
    count in the task and in the terms that take each sample by itself (`weighs_samples`). Positions that Keras's masks
    leave out, such as the padding of sequences, count in no term.

    Where Keras's distiller differs: it calls the student twice a batch where there are hints (so that masks and moving
    averages move twice), drops sample weights, regularizers and `add_loss`, marks the teacher as not trainable for
    good, tracks its weights, and reads hints of plain graphs only.

    Attributes:
        student: The model that is trained, and that stays.
        teacher: What teaches; `teacher.models` are the models.
        alpha: Share of the terms.
    """

    def __init__(
        self,
        student: keras.Model,
        source: Source | TeacherOutputs,
        terms: Sequence[Term],
        hints: Sequence[str],
        alpha: float,
        kinds: Sequence[str | None],
    ) -> None:
        held = Frozen(source, name="teacher")
        super().__init__(held, student, [Quiet() for _ in terms], [term.weight for term in terms], 1.0 - alpha)
        self.alpha = alpha
        self.terms = tuple(terms)
        # Tracked, so that they are trained and saved in checkpoints.
        self.added = [layer for term in terms for layer in term.layers]
        self._watch = Watch(student, hints)
        self._given_kinds = list(kinds)
        self._graph = [as_graph(student)]
        self._seen = threading.local()
        self._own_heads = heads_of(self._graph[0], self._given_kinds, getattr(student, "loss", None))
        self.built = True

    def call(self, inputs: Any, training: bool | None = None, **kwargs: Any) -> Any:
        outputs, self._seen.hints = self._watch.run(inputs, training=training, **kwargs)
        return outputs

    def compile(self, optimizer: Any = "adam", loss: Any = None, metrics: Any = None, **kwargs: Any) -> None:
        """As of any model: the loss is that of the labels.

        Args:
            optimizer: As for `keras.Model.compile`.
            loss: The same; none is needed with `alpha=1`.
            metrics: The same, of the student's outputs.
            **kwargs: The same.

        Raises:
            ValueError: Without a loss where labels count, or where teacher and student say different kinds of outputs.
        """
        if loss is None and self.alpha < 1.0:
            raise ValueError(
                "Expected `loss` for the labels, or alpha=1 for a training without them. Received: loss=None, "
                f"alpha={self.alpha:g}"
            )
        keras.Model.compile(self, optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)
        if loss is not None:
            self._own_heads = heads_of(self._graph[0], self._given_kinds, loss)
        self._heads()

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """As of any model; `kc.summary` of the student tells of it.

        Raises:
            ValueError: For weights of samples without targets, which Keras would leave out.
        """
        _check_weighed(*args, **kwargs)
        history = super().fit(*args, **kwargs)
        source = self.teacher.source
        kept = isinstance(source, TeacherOutputs)
        names = [f"outputs in {source.folder}"] if kept else [model.name for model in source.models]
        add_lesson(self.student, names, [term.loss for term in self.terms], self.alpha, history.history)
        return history

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As of any model, and as `fit` of weights without targets."""
        _check_weighed(*args, **kwargs)
        return super().evaluate(*args, **kwargs)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Tensor:
        """The whole loss of a batch; see `Distiller`."""
        if y_pred is None:
            y_pred = self(x, training=training)
        hints, self._seen.hints = getattr(self._seen, "hints", None) or [], None
        if len(hints) != len(self._watch.names):
            raise ValueError("Expected `y_pred` of this distiller's own call, which reads the hints. Received: another")
        labels, kept = self._targets(y)
        replicas = self.distribute_strategy.num_replicas_in_sync
        terms = self._of_teacher(x, labels, y_pred, hints, kept, self._shares(sample_weight)) / replicas
        others = total([ops.zeros(()), *(ops.cast(each, "float32") / replicas for each in self.losses)])
        if self.alpha < 1.0:
            task = ops.cast(keras.Model.compute_loss(self, x, labels, y_pred, sample_weight), "float32")
            # The others are in the task's loss too.
            whole = (1.0 - self.alpha) * task + self.alpha * (terms + others)
            self.student_loss_tracker.update_state(task * replicas)
        else:
            whole = terms + others
        self.distillation_loss_tracker.update_state(terms * replicas)
        self.total_loss_tracker.update_state(whole * replicas)
        return whole

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return super().compute_metrics(x, self._targets(y)[0], y_pred, sample_weight)

    def _heads(self) -> tuple[list[Head], list[Head]]:
        """The teachers' heads and the student's: those of one output are of one kind."""
        source = self.teacher.source
        taught_by = [source.heads] if isinstance(source, TeacherOutputs) else source.heads()
        of_outputs = zip(*taught_by, self._own_heads, strict=True)
        pairs = zip(of_outputs, keys_of(self._graph[0]), self._given_kinds, strict=True)
        found = [agreed(heads, name, given) for heads, name, given in pairs]
        # A mean of logits is known but for a number where one of them is.
        unsure = [any(head.probabilities for head in heads[:-1]) for heads in found]
        of_teachers = [
            replace(heads[0], probabilities=probabilities) for heads, probabilities in zip(found, unsure, strict=True)
        ]
        return of_teachers, [heads[-1] for heads in found]

    def _targets(self, y: Any) -> tuple[Any, Any]:
        return unpacked(y) if isinstance(self.teacher.source, TeacherOutputs) else (y, None)

    def _shares(self, sample_weight: Any) -> list[Any] | None:
        """The weights of samples, for each output.

        Raises:
            ValueError: Where nothing would read them.
        """
        if sample_weight is None:
            return None
        if self.alpha == 1.0 and not any(getattr(term.loss, "weighs_samples", False) for term in self.terms):
            names = [type(term.loss).__name__ for term in self.terms]
            raise ValueError(
                "Expected no weights of samples or classes with alpha=1 and losses that take a batch as a whole. "
                f"Received: sample_weight, with {names}"
            )
        found, count = by_output(sample_weight, self._graph[0]), len(self._own_heads)
        if len(found) not in (1, count):
            raise ValueError(f"Expected weights of samples for all outputs or for {count}. Received: {len(found)}")
        return found if len(found) == count else found * count

    def _of_teacher(
        self, x: Any, labels: Any, y_pred: Any, hints: Sequence[Any], kept: Any, shares: list[Any] | None
    ) -> Tensor:
        source = self.teacher.source
        values = (kept, []) if kept is not None else source.values(x)
        of_teacher, own = self._heads()
        both = (values[0], [head.logits(out) for head, out in zip(own, tree.flatten(y_pred), strict=True)])
        pairs = [_comparable(*each) for each in zip(*both, of_teacher, own, strict=True)]
        logits = tuple(zip(*pairs, strict=True))
        labels = by_output(labels, self._graph[0]) if isinstance(labels, Mapping) else labels
        of_outputs: dict[str, Any] = {
            "kinds": [head.kind for head in own],
            "labels": labels,
            "masks": list(map(keras_private.mask_of, tree.flatten(y_pred))),
        }
        if shares is not None:
            of_outputs["sample_weights"] = shares
        return total(term.value((logits[0], values[1]), (logits[1], hints), **of_outputs) for term in self.terms)

    def get_config(self) -> dict[str, Any]:
        """Refused: what is kept of a distillation is the student.

        Raises:
            ValueError: Always, with the cure.
        """
        raise ValueError(
            "Expected `distiller.student` to be saved, or `distiller.save_weights(...)` to go on with. "
            "Received: a distiller, which holds a teacher"
        )


def _check_weighed(x: Any = None, y: Any = None, *_: Any, sample_weight: Any = None, **__: Any) -> None:
    """Refuse what Keras's data adapter drops without a word."""
    if sample_weight is not None and y is None:
        raise ValueError(
            "Expected `y` beside `sample_weight`, which Keras leaves out without targets; with alpha=1 any numbers do. "
            "Received: y=None"
        )


def _comparable(teacher: Tensor, student: Tensor, of_teacher: Head, of_student: Head) -> tuple[Tensor, Tensor]:
    """Logits on one footing: those out of probabilities are known but for a number that is added to all."""
    teacher = ops.cast(teacher, "float32")
    if of_student.kind == "softmax" and (of_teacher.probabilities or of_student.probabilities):
        teacher, student = (each - ops.mean(each, axis=-1, keepdims=True) for each in (teacher, student))
    return teacher, student
