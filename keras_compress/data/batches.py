"""Representative data in the forms that users of Keras and of the TFLite converter bring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.data.samples import LARGEST_BATCH, Batch, InputSpec, batches_of, cut, input_specs


def batches(data: Any, model: keras.Model) -> Iterator[Batch]:
    """Batches of inputs in the model's order, checked.

    Single samples, as the TFLite converter wants them, are put together.

    Args:
        data: See `keras_compress.data.samples.batches_of`.
        model: Functional model to be fed.

    Raises:
        ValueError: For no data, a wrong number, shape or dtype of the inputs, or values that are not finite.
    """
    waiting: list[Batch] = []
    seen = 0
    for batch in _pieces(data, input_specs(model)):
        seen += 1
        if waiting and sum(len(b[0]) for b in waiting) + len(batch[0]) > LARGEST_BATCH:
            yield [np.concatenate(arrays) for arrays in zip(*waiting, strict=True)]
            waiting = []
        waiting.append(batch)
    if waiting:
        yield [np.concatenate(arrays) for arrays in zip(*waiting, strict=True)]
    if not seen:
        raise ValueError("Expected a representative_dataset with at least one batch. Received: an empty one")


def first_samples(data: Any, model: keras.Model, most: int) -> Batch:
    """The first samples of some data, one array for each input; iterators are read as far as is needed.

    Args:
        data: See `batches`.
        model: Functional model to be fed.
        most: How many samples are wanted, 1 at least.

    Raises:
        ValueError: As `batches` does.
    """
    first = FirstSamples(most)
    for batch in batches(data, model):
        first.add(batch)
        if first.are_enough:
            break
    return first.arrays


class FirstSamples:
    """The first samples of batches that go by.

    Args:
        most: How many to keep.
    """

    def __init__(self, most: int) -> None:
        self._left = most
        self._batches: list[Batch] = []

    @property
    def are_enough(self) -> bool:
        """Whether there is no room for more."""
        return self._left <= 0

    @property
    def arrays(self) -> Batch:
        """One array for each input."""
        return [np.concatenate(arrays) for arrays in zip(*self._batches, strict=True)]

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
