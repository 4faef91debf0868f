"""Representative data in the forms that users of Keras and of the TFLite converter bring."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

Batch = list[NDArray[Any]]
# Single samples, as the TFLite converter wants them, are put together up to this many.
LARGEST_BATCH = 64


def batches(data: Any, model: keras.Model) -> Iterator[Batch]:
    """Batches of inputs in the model's order, checked.

    Args:
        data: An array (first axis: samples), a list of arrays for several inputs, a mapping from input names to
            arrays, a `tf.data.Dataset`, or an iterable or a function that returns one, each of whose items is a batch
            in one of these forms (with targets as the second of a tuple, if any, left out for datasets).
        model: Functional model to be fed.

    Raises:
        ValueError: For no data, a wrong number, shape or dtype of the inputs, or values that are not finite.
    """
    waiting: list[Batch] = []
    seen = 0
    for item in _items(data, model):
        batch = _checked(item, model, seen)
        seen += 1
        if waiting and (sum(len(b[0]) for b in waiting) + len(batch[0]) > LARGEST_BATCH):
            yield _joined(waiting)
            waiting = []
        waiting.append(batch)
    if waiting:
        yield _joined(waiting)
    if not seen:
        raise ValueError("Expected a representative_dataset with at least one batch. Received: an empty one")


def _joined(waiting: list[Batch]) -> Batch:
    return [np.concatenate(parts) for parts in zip(*waiting, strict=True)]


def _items(data: Any, model: keras.Model) -> Iterable[Any]:
    if isinstance(data, np.ndarray):
        return _slices([data])
    if isinstance(data, Mapping):
        return _slices(_by_name(data, model))
    if isinstance(data, (list, tuple)) and data and len(data) == len(model.inputs) and _are_arrays(data, model):
        return _slices(list(data))
    if isinstance(data, Callable):  # type: ignore[arg-type]
        data = data()
    if not isinstance(data, Iterable):
        raise ValueError(
            "Expected a representative_dataset: an array, a list or mapping of arrays, a tf.data.Dataset, or a "
            f"function that yields batches. Received: {type(data).__name__}"
        )
    is_dataset = hasattr(data, "element_spec")
    return (item[0] if is_dataset and isinstance(item, tuple) else item for item in data)


def _are_arrays(data: Any, model: keras.Model) -> bool:
    """Whether `data` is one array for each input, and not a list of batches."""
    return all(
        isinstance(array, np.ndarray) and array.ndim == len(tensor.shape)
        for array, tensor in zip(data, model.inputs, strict=True)
    ) and (len(model.inputs) > 1 or len(data) == 1)


def _slices(arrays: Batch) -> Iterator[Batch]:
    count = len(arrays[0]) if arrays and arrays[0].ndim else 0
    for start in range(0, count, LARGEST_BATCH):
        yield [array[start : start + LARGEST_BATCH] for array in arrays]


def _by_name(item: Mapping[str, Any], model: keras.Model) -> Batch:
    names = [tensor.name for tensor in model.inputs]
    if set(item) != set(names):
        raise ValueError(f"Expected representative data for the inputs {names}. Received: {sorted(item)}")
    return [np.asarray(item[name]) for name in names]


def _checked(item: Any, model: keras.Model, index: int) -> Batch:
    if isinstance(item, Mapping):
        arrays = _by_name(item, model)
    else:
        arrays = [np.asarray(a) for a in (item if isinstance(item, (list, tuple)) else [item])]
    if len(arrays) != len(model.inputs):
        raise ValueError(
            f"Expected {len(model.inputs)} inputs in each batch of representative data. Received: {len(arrays)}"
        )
    return [_checked_array(a, t, index) for a, t in zip(arrays, model.inputs, strict=True)]


def _checked_array(array: NDArray[Any], tensor: Any, index: int) -> NDArray[Any]:
    expected = tuple(tensor.shape[1:])
    fits = array.ndim == len(expected) + 1 and all(
        e is None or e == n for e, n in zip(expected, array.shape[1:], strict=True)
    )
    where = f"batch {index}, input {tensor.name!r}"
    if not fits or len(array) == 0:
        raise ValueError(
            f"Expected representative data of shape (batch, {', '.join(map(str, expected))}), batch >= 1. "
            f"Received: shape {array.shape} in {where}"
        )
    if array.dtype.kind not in "fiub":
        raise ValueError(f"Expected representative data of dtype {tensor.dtype}. Received: {array.dtype} in {where}")
    if str(tensor.dtype).startswith("float") and array.dtype.kind != "f":
        raise ValueError(
            f"Expected representative data of dtype {tensor.dtype}, prepared as for inference. "
            f"Received: {array.dtype} in {where}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"Expected finite representative data. Received: NaN or infinity in {where}")
    return array.astype(tensor.dtype)
