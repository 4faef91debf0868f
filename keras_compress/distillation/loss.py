"""What all distillation losses share: which values they read, and how several heads and hints become one number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
                `make_layers`, and, each where there are any, `sample_weights` and `masks`, one entry for each head
                or hint. Masks are Keras's, false where a position does not count.

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
        counted = shares_and_masks(kwargs, len(students))
        return total(
            weighted_mean(self.of_head(ops.stop_gradient(t), s, kind, label), share, mask)
            for t, s, kind, label, (share, mask) in zip(teachers, students, kinds, labels, counted, strict=True)
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
            weights, or positions a mask.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `of_head`.")


class FeatureLoss(DistillationLoss):
    """A loss of each pair of hints by itself. Positions that a mask leaves out are zeros."""

    reads = "features"

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **kwargs: Any) -> Tensor:
        teachers, students = float32(tree.flatten(teacher_outputs)), float32(tree.flatten(student_outputs))
        pairs = zip(teachers, students, shares_and_masks(kwargs, len(students)), strict=True)
        return total(
            weighted_mean(
                self.of_pair(ops.stop_gradient(zeroed(t, mask)), zeroed(s, mask)),
                share if self.weighs_samples else None,
            )
            for t, s, (share, mask) in pairs
        )

    def of_pair(self, teacher: Tensor, student: Tensor) -> Tensor:
        """The loss of one pair: `(batch, ...)` each.

        Returns:
            With `weighs_samples` that of each sample, `(batch,)`, else a scalar.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `of_pair`.")


def float32(tensors: Sequence[Any]) -> list[Tensor]:
    """The tensors in float32: half precision has too few digits for sums of squares."""
    return [ops.cast(tensor, "float32") for tensor in tensors]


def shares_and_masks(given: Mapping[str, Any], count: int) -> list[tuple[Any, Any]]:
    """Weights and mask of each head or hint, out of the keywords of `compute_loss`; `None` where there are none."""
    found = [given.get(name) or [None] * count for name in ("sample_weights", "masks")]
    return list(zip(*found, strict=True))


def weighted_mean(values: Tensor, share: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """The mean of losses times their weights, as Keras's losses have it: weights do not change what it is divided by.

    Args:
        values: `(batch, ...)`.
        share: Weights, `(batch,)`, or of the first axes of `values`; of axes that `values` has not, the mean is taken.
        mask: As weights; the mean is that of the values where it is true, 0 where it nowhere is. One of another size
            is that of something else, and left out.

    Raises:
        ValueError: For weights or a mask of what is one number for the whole batch.

    >>> float(weighted_mean(ops.array([[1.0, 3.0], [5.0, 7.0]]), ops.array([1.0, 0.5])))
    2.5
    >>> float(weighted_mean(ops.array([[1.0, 3.0], [5.0, 7.0]]), mask=ops.array([[True, True], [True, False]])))
    3.0
    """
    if share is None and mask is None:
        return ops.mean(values)
    if not len(values.shape):
        raise ValueError(
            "Expected the loss of each sample, which has a weight or a mask. Received: a scalar, from `of_head` or "
            "`of_pair`"
        )
    if share is not None:
        share = ops.cast(share, "float32")
        while len(share.shape) > 1 and not fits(share, values):
            share = ops.mean(share, axis=-1)
        values = values * _of_rank(share, values)
    if mask is None or not fits(mask, values):
        return ops.mean(values)
    valid = ops.broadcast_to(_of_rank(ops.cast(mask, "bool"), values), ops.shape(values))
    # Not a product: what stands in padding may be infinite.
    counted = ops.sum(ops.where(valid, values, 0.0))
    return ops.divide_no_nan(counted, ops.sum(ops.cast(valid, "float32")))


def _of_rank(first: Tensor, values: Tensor) -> Tensor:
    """What is of the first axes of some values, with as many axes."""
    while len(first.shape) < len(values.shape):
        first = ops.expand_dims(first, axis=-1)
    return first


def fits(mask: Tensor, values: Tensor) -> bool:
    """Whether a mask, or weights, can be of the first axes of some values."""
    if len(mask.shape) > len(values.shape):
        return False
    return all(a is None or b is None or a == b or a == 1 for a, b in zip(mask.shape, values.shape, strict=False))


def zeroed(values: Tensor, mask: Tensor | None) -> Tensor:
    """Values with zeros where a mask says that a position does not count; as they are where it is of another size."""
    if mask is None or not fits(mask, values):
        return values
    return ops.where(_of_rank(ops.cast(mask, "bool"), values), values, 0.0)


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
