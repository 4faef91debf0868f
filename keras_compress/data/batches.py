"""Representative data in the forms that users of Keras and of the TFLite converter bring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.data.samples import LARGEST_BATCH, Batch, InputSpec, batches_of, cut, input_specs, joined


def batches(data: Any, model: keras.Model) -> Iterator[Batch]:
    """Batches of inputs in the model's order, checked.

    Single samples, as the TFLite converter wants them, are put together as long as their shapes are the same.

    Args:
        data: See `keras_compress.data.samples.batches_of`.
        model: Functional model to be fed.

    Raises:
        ValueError: For no data, a wrong number, shape or dtype of the inputs, or values that are not finite.
    """
    waiting: list[Batch] = []
    inputs = input_specs(model)
    for batch in _pieces(data, inputs):
        if waiting and not _has_room(waiting, batch):
            yield joined(waiting, inputs)
            waiting = []
        waiting.append(batch)
    if waiting:
        yield joined(waiting, inputs)
    else:
        raise ValueError("Expected a representative_dataset with at least one batch. Received: an empty one")


def _has_room(waiting: list[Batch], batch: Batch) -> bool:
    """Whether a batch can be put together with those that wait: sequences of another length cannot."""
    if any(last.shape[1:] != array.shape[1:] for last, array in zip(waiting[-1], batch, strict=True)):
        return False
    return sum(len(each[0]) for each in waiting) + len(batch[0]) <= LARGEST_BATCH


def first_samples(data: Any, model: keras.Model, most: int) -> Batch:
    """The first samples of some data, one array for each input; iterators are read as far as is needed.

    Args:
        data: See `batches`.
        model: Functional model to be fed.
        most: How many samples are wanted, 1 at least.

    Raises:
        ValueError: As `batches` does, and for samples of different lengths, which no array holds.
    """
    first = FirstSamples(most, input_specs(model))
    for batch in batches(data, model):
        first.add(batch)
        if first.are_enough:
            break
    return first.arrays


class FirstSamples:
    """The first samples of batches that go by.

    Args:
        most: How many to keep.
        inputs: The model's.
    """

    def __init__(self, most: int, inputs: Sequence[InputSpec]) -> None:
        self._left, self._inputs = most, inputs
        self._batches: list[Batch] = []

    @property
    def are_enough(self) -> bool:
        """Whether there is no room for more."""
        return self._left <= 0

    @property
    def arrays(self) -> Batch:
        """One array for each input.

        Raises:
            ValueError: For samples of different lengths.
        """
        return joined(self._batches, self._inputs)

    def add(self, batch: Batch) -> None:
        """Keep samples, while there is room."""
        if not self.are_enough:
            self._batches.append([array[: self._left] for array in batch])
            self._left -= len(batch[0])


def _pieces(data: Any, inputs: Sequence[InputSpec]) -> Iterator[Batch]:
    for index, batch in enumerate(batches_of(data, inputs)):
        for piece in cut(batch, LARGEST_BATCH):
            yield [_checked(a, spec, index) for a, spec in zip(piece, inputs, strict=True)]


def _checked(array: NDArray[Any], spec: InputSpec, index: int) -> NDArray[Any]:
    where = f"batch {index}, input {spec.name!r}"
    if array.dtype.kind not in "fiub":
        raise ValueError(f"Expected representative data of dtype {spec.dtype}. Received: {array.dtype} in {where}")
    if spec.dtype.startswith("float") and array.dtype.kind != "f":
        raise ValueError(
            f"Expected representative data of dtype {spec.dtype}, prepared as for inference. "
            f"Received: {array.dtype} in {where}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"Expected finite representative data. Received: NaN or infinity in {where}")
    return array.astype(spec.dtype)
