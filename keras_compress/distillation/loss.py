"""What all distillation losses share: which values they read, and how several heads and hints become one number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, tree

Tensor = Any
Shape = tuple[int | None, ...]
# What an output is: scores of classes one of which is right, scores of labels any of which may be, or numbers.
KINDS = ("softmax", "sigmoid", "linear")
# Huber's: quadratic up to here, linear beyond.
_DELTA = 1.0


class DistillationLoss:
    """A loss between what a teacher and a student make of the same batch.

    The protocol is that of `keras.distillation.DistillationLoss`, whose objects may stand beside these. A subclass
    implements `of_head` (of an output) or `of_pair` (of a hint), and `make_layers` where layers are trained along.

    Class attributes:
        reads: `"outputs"` (logits of the heads), or `"features"` (hints; the outputs where none are named).
        needs_hints: Whether it has no meaning for outputs.
        weighs_samples: Whether weights of samples count. They do where each sample has a loss of its own.
    """

    reads: str = "outputs"
    needs_hints: bool = False
    weighs_samples: bool = False

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        """Constructor arguments of a few examples: what the conformance tests try."""
        return [{}]

    def make_layers(self, teacher: Sequence[Shape], student: Sequence[Shape]) -> list[keras.layers.Layer]:
        """Layers that are trained with the student and thrown away with the distiller. None by default.

        Args:
            teacher: Shapes of the teacher's values, batch first.
            student: Those of the student's.

        Raises:
            ValueError: For shapes that do not fit the method.
        """
        return []

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **kwargs: Any) -> Tensor:
        """The loss of a batch.

        Args:
            teacher_outputs: Its values, structured as the student's: tensors of the batch, no gradient goes there.
            student_outputs: Logits of heads for `reads = "outputs"`, else a list of features.
            **kwargs: `kinds` of the heads (`"softmax"`, `"sigmoid"`, `"linear"`), `labels`, the `layers` of
                `make_layers`, and `sample_weights`, one entry for each head, each where there are any.

        Returns:
            A float32 scalar, the mean over the samples and the sum over heads or hints.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `compute_loss`.")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> DistillationLoss:
        """The object that `get_config` describes."""
        return cls(**config)


class OutputLoss(DistillationLoss):
    """A loss of each head by itself."""

    weighs_samples = True

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **kwargs: Any) -> Tensor:
        teachers, students = float32(tree.flatten(teacher_outputs)), float32(tree.flatten(student_outputs))
        kinds = kwargs.get("kinds") or ["softmax"] * len(students)
        labels = tree.flatten(kwargs.get("labels"))
        labels = labels if len(labels) == len(students) else [None] * len(students)
        shares = kwargs.get("sample_weights") or [None] * len(students)
        return total(
            weighted_mean(self.of_head(ops.stop_gradient(t), s, kind, label), share)
            for t, s, kind, label, share in zip(teachers, students, kinds, labels, shares, strict=True)
        )

    def of_head(self, teacher: Tensor, student: Tensor, kind: str, labels: Tensor | None = None) -> Tensor:
        """The loss of one head.

        Args:
            teacher: Logits or values, `(batch, ..., classes)`.
            student: The same.
            kind: See `KINDS`.
            labels: What is right, `None` where it is not known.

        Returns:
            That of each sample and position, `(batch, ...)`. A scalar, their mean, is refused where samples have
            weights.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `of_head`.")


class FeatureLoss(DistillationLoss):
    """A loss of each pair of hints by itself."""

    reads = "features"

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **kwargs: Any) -> Tensor:
        teachers, students = float32(tree.flatten(teacher_outputs)), float32(tree.flatten(student_outputs))
        return total(self.of_pair(ops.stop_gradient(t), s) for t, s in zip(teachers, students, strict=True))

    def of_pair(self, teacher: Tensor, student: Tensor) -> Tensor:
        """The loss of one pair: `(batch, ...)` each."""
        raise NotImplementedError(f"{type(self).__name__} must implement `of_pair`.")


def float32(tensors: Sequence[Any]) -> list[Tensor]:
    """The tensors in float32: half precision has too few digits for sums of squares."""
    return [ops.cast(tensor, "float32") for tensor in tensors]


def weighted_mean(values: Tensor, share: Tensor | None = None) -> Tensor:
    """The mean of losses times their weights, as Keras's losses have it: weights do not change what it is divided by.

    Args:
        values: `(batch, ...)`.
        share: Weights, `(batch,)`, `(batch, 1)`, or of the first axes of `values`.

    Raises:
        ValueError: For weights of what is one number for the whole batch.

    >>> float(weighted_mean(ops.array([[1.0, 3.0], [5.0, 7.0]]), ops.array([1.0, 0.5])))
    2.5
    """
    if share is None:
        return ops.mean(values)
    rank = len(values.shape)
    if not rank:
        raise ValueError("Expected `of_head` to give the loss of each sample, which has a weight. Received: a scalar")
    share = ops.cast(share, "float32")
    while len(share.shape) > rank and share.shape[-1] == 1:
        share = ops.squeeze(share, axis=-1)
    while len(share.shape) < rank:
        share = ops.expand_dims(share, axis=-1)
    return ops.mean(values * share)


def total(losses: Any) -> Tensor:
    """The sum of scalars, of which there is at least one."""
    first, *others = losses
    for each in others:
        first = first + each
    return first


def squared_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Half the squared Euclidean distance along the last axis."""
    return 0.5 * ops.sum(ops.square(teacher - student), axis=-1)


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Kullback-Leibler divergence of softmax distributions along the last axis, from their logits.

    >>> round(float(divergence(ops.log([[0.5, 0.5]]), ops.log([[0.25, 0.75]]))[0]), 6)
    0.143841
    """
    logs = ops.log_softmax(teacher, axis=-1)
    return ops.sum(ops.exp(logs) * (logs - ops.log_softmax(student, axis=-1)), axis=-1)


def binary_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Kullback-Leibler divergence of Bernoulli distributions, element by element, from their logits."""
    share = ops.sigmoid(teacher)
    yes = ops.log_sigmoid(teacher) - ops.log_sigmoid(student)
    no = ops.log_sigmoid(-teacher) - ops.log_sigmoid(-student)
    return share * yes + (1.0 - share) * no


def rows(features: Tensor) -> Tensor:
    """Features as a matrix `(batch, values)`."""
    return features if len(features.shape) == 2 else ops.reshape(features, (ops.shape(features)[0], -1))


def huber(difference: Tensor) -> Tensor:
    """Huber's loss of each element: `d^2 / 2` up to 1, `|d| - 1/2` beyond."""
    size = ops.abs(difference)
    return ops.where(size <= _DELTA, 0.5 * ops.square(difference), size - 0.5)


def normalized(vectors: Tensor) -> Tensor:
    """Vectors along the last axis with a length of 1; zeros stay zeros, and have a gradient of 0."""
    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    return vectors * ops.rsqrt(ops.maximum(squares, 1e-24))


def check_positive(name: str, value: Any) -> float:
    """A setting as a float.

    Raises:
        ValueError: Where it is no finite number above 0.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value < float("inf"):
        raise ValueError(f"Expected `{name}` > 0. Received: {name}={value!r}")
    return float(value)


def check_same_shape(teacher: Shape, student: Shape, who: str) -> None:
    """Refuse features of different shapes.

    Raises:
        ValueError: Naming both.
    """
    if len(teacher) != len(student) or any(
        None not in (a, b) and a != b for a, b in zip(teacher, student, strict=True)
    ):
        raise ValueError(
            f"Expected features of equal shape for {who}. Received: {_shown(teacher)} of the teacher, "
            f"{_shown(student)} of the student"
        )


def _shown(shape: Shape) -> str:
    return str(tuple(shape))


def channels_of(shape: Shape, who: str) -> int:
    """The known size of the last axis.

    Raises:
        ValueError: Where it is not known.
    """
    if shape[-1] is None:
        raise ValueError(f"Expected features whose last axis has a known size for {who}. Received: {_shown(shape)}")
    return int(shape[-1])
