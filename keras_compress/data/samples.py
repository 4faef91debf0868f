"""What users hand over: samples in any form that Keras or the TFLite converter takes, as arrays in a model's order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import tree
from numpy.typing import NDArray

from keras_compress.core import keras_private
from keras_compress.graph import graph

Batch = list[NDArray[Any]]
# Arrays of all samples are cut into batches of this size.
LARGEST_BATCH = 64


@dataclass(frozen=True)
class InputSpec:
    """One input, as data for it is recognised.

    Attributes:
        names: What a mapping may call it: its key in a model that takes a dict, and its own name.
        shape: Of one sample, `None` where any size fits; `None` where the shape is checked elsewhere.
        dtype: Of the values.
        batch: Size that every batch has, `None` where any fits.
    """

    names: tuple[str, ...]
    shape: tuple[int | None, ...] | None = None
    dtype: str = "float32"
    batch: int | None = None

    @property
    def name(self) -> str:
        """The name that users know it by."""
        return self.names[0]


def input_specs(model: keras.Model) -> list[InputSpec]:
    """The inputs of a graph, in its order."""
    structure = keras_private.inputs_structure(graph.functional(model))
    keys = _keys(structure, len(model.inputs))
    return [
        InputSpec(tuple(dict.fromkeys((*key, t.name))), tuple(t.shape[1:]), str(t.dtype), t.shape[0])
        for key, t in zip(keys, model.inputs, strict=True)
    ]


def _keys(structure: Any, count: int) -> list[tuple[str, ...]]:
    """The key of each input, in Keras's order, where the model takes a dict of tensors."""
    if isinstance(structure, dict) and len(structure) == count:
        return [(key,) for key in sorted(structure)]
    return [()] * count


def samples(data: Any, inputs: Sequence[InputSpec]) -> Batch:
    """All samples at once, one array for each input; see `batches_of`. A list of arrays is one for each input.

    Raises:
        ValueError: For no data, samples of different lengths, or data that do not fit the inputs.
    """
    _refuse_labels(data, inputs)
    arrays = isinstance(data, (list, tuple)) and bool(data) and all(map(_is_array, data))
    found = [in_order(data, inputs)] if arrays else list(batches_of(data, inputs))
    if not found:
        raise ValueError(f"Expected at least one sample for {_listed(inputs)}. Received: none")
    return joined(found, inputs)


def joined(found: Sequence[Batch], inputs: Sequence[InputSpec]) -> Batch:
    """Batches as one, an array for each input.

    Raises:
        ValueError: For samples of different lengths, which no array holds.
    """
    for number, spec in enumerate(inputs):
        shapes = list(dict.fromkeys(batch[number].shape[1:] for batch in found))
        if len(shapes) > 1:
            raise ValueError(
                f"Expected samples of one length: pad or cut them, or hand over those of one length only. "
                f"Received: {shapes[0]} and {shapes[1]} in input {spec.name!r}"
            )
    return found[0] if len(found) == 1 else [np.concatenate(arrays) for arrays in zip(*found, strict=True)]


def batches_of(data: Any, inputs: Sequence[InputSpec]) -> Iterator[Batch]:
    """Batches of arrays in the order of `inputs`, one for each that was handed over; arrays of all samples come whole.

    Args:
        data: An array or tensor (first axis: samples), a list or tuple of one for each input, a mapping from keys or
            names of inputs to arrays, structured as the model's inputs are if those are nested; or a `tf.data.Dataset`,
            a `PyDataset`, an iterable of batches in one of these forms, or a function that returns one. Targets, the
            second of a tuple of two or three in it, are left out where the model does not take as many inputs.
        inputs: The model's.

    Raises:
        ValueError: For another number of inputs, other names, or shapes that do not fit; for `(x, y)` instead of `x`.
    """
    _refuse_labels(data, inputs)
    if _is_array(data) or isinstance(data, Mapping) or is_list_of_inputs(data, inputs):
        yield in_order(data, inputs)
        return
    targets = _has_targets(data)
    for index, item in enumerate(_iterable(data)):
        yield in_order(_without_targets(item, inputs, targets), inputs, f"batch {index}, ")


def in_order(item: Any, inputs: Sequence[InputSpec], where: str = "") -> Batch:
    """One batch as arrays in the order of `inputs`, of fitting shapes.

    Raises:
        ValueError: Where it does not fit.
    """
    values = _by_name(item, inputs) if isinstance(item, Mapping) else item
    arrays = [np.asarray(a) for a in (values if isinstance(values, (list, tuple)) else [values])]
    if len(arrays) != len(inputs):
        raise ValueError(f"Expected {len(inputs)} inputs: {_listed(inputs)}. Received: {len(arrays)}")
    for array, spec in zip(arrays, inputs, strict=True):
        _check_shape(array, spec, f"{where}input {spec.name!r}")
    counts = [len(array) if array.ndim else 0 for array in arrays]
    if len(set(counts)) > 1:
        raise ValueError(f"Expected as many samples for each of the inputs {_listed(inputs)}. Received: {counts}")
    return arrays


def cut(arrays: Batch, size: int) -> Iterator[Batch]:
    """The samples in batches of `size`; the last one may have fewer."""
    for start in range(0, len(arrays[0]) if arrays else 0, size):
        yield [array[start : start + size] for array in arrays]


def filled(arrays: Batch, multiple: int) -> Batch:
    """The samples, the last one repeated until their number is a multiple: what a model of a fixed batch can be fed."""
    missing = -len(arrays[0]) % multiple
    if not missing:
        return arrays
    return [np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) for array in arrays]


def of_samples(values: NDArray[Any], samples: int, fed: int) -> NDArray[Any]:
    """What a model makes of samples, without what it makes of those that fill the batch.

    Args:
        values: An output, the batch first; of rows that the batch was folded into, each sample has as many.
        samples: How many there are.
        fed: How many the model was fed.
    """
    return values if samples == fed else values[: len(values) * samples // fed]


def fixed_batch(model: keras.Model) -> int | None:
    """The batch size that a graph was made for, `None` where it takes any."""
    return next((int(t.shape[0]) for t in model.inputs if t.shape[0] is not None), None)


def _listed(inputs: Sequence[InputSpec]) -> str:
    return str([spec.name for spec in inputs])


def _is_array(data: Any) -> bool:
    return hasattr(data, "__array__") and hasattr(data, "shape")


def is_list_of_inputs(data: Any, inputs: Sequence[InputSpec]) -> bool:
    """Whether `data` is one array for each input, and not a list of batches."""
    if not isinstance(data, (list, tuple)) or len(data) != len(inputs) or not all(map(_is_array, data)):
        return False
    return all(s.shape is None or len(a.shape) == len(s.shape) + 1 for a, s in zip(data, inputs, strict=True))


def _refuse_labels(data: Any, inputs: Sequence[InputSpec]) -> None:
    """Raises for `(x, y)` as it is given to `fit`: a tuple of which the first alone is all inputs."""
    if isinstance(data, tuple) and len(data) in (2, 3) and _are_inputs(data[0], inputs):
        raise ValueError(
            f"Expected inputs without labels for {_listed(inputs)}: `x`, not `(x, y)`; batches go into a list, not "
            f"into a tuple. Received: a tuple of {len(data)}, of which the first is all inputs"
        )


def _are_inputs(item: Any, inputs: Sequence[InputSpec]) -> bool:
    try:
        in_order(item, inputs)
    except (ValueError, TypeError):
        return False
    return True


def _iterable(data: Any) -> Iterable[Any]:
    if isinstance(data, keras.utils.PyDataset):
        return (data[index] for index in range(data.num_batches))
    if isinstance(data, Callable):  # type: ignore[arg-type]
        data = data()
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes)):
        raise ValueError(
            "Expected data as an array, a list or mapping of arrays, a dataset, or a function that yields batches. "
            f"Received: {type(data).__name__}"
        )
    return data


def _has_targets(data: Any) -> bool:
    """Whether a tuple in it is Keras's `(x, y)`: in a dataset it cannot be anything else."""
    return hasattr(data, "element_spec") or isinstance(data, keras.utils.PyDataset)


def _without_targets(item: Any, inputs: Sequence[InputSpec], targets: bool) -> Any:
    if not isinstance(item, tuple):
        return item
    return item[0] if targets or (len(item) != len(inputs) and len(item) in (2, 3)) else item


def _by_name(item: Mapping[str, Any], inputs: Sequence[InputSpec]) -> list[Any]:
    for last in (0, -1):
        names = [spec.names[last] for spec in inputs]
        if set(item) == set(names):
            return [item[name] for name in names]
    leaves: list[Any] = tree.flatten(dict(item))
    if any(isinstance(value, (Mapping, list, tuple)) for value in item.values()) and len(leaves) == len(inputs):
        return leaves
    raise ValueError(f"Expected data for the inputs {_listed(inputs)}. Received: {sorted(map(str, item))}")


def _check_shape(array: NDArray[Any], spec: InputSpec, where: str) -> None:
    if spec.shape is None:
        return
    fits = array.ndim == len(spec.shape) + 1 and all(
        e is None or e == n for e, n in zip(spec.shape, array.shape[1:], strict=True)
    )
    if fits and len(array) == 0:
        raise ValueError(f"Expected at least one sample. Received: an empty array of shape {array.shape} in {where}")
    if not fits:
        wanted = ", ".join(map(str, ("batch", *spec.shape)))
        raise ValueError(f"Expected data of shape ({wanted}). Received: shape {array.shape} in {where}")


class Peekable:
    """An iterator whose first item can be looked at before it is used: a generator is gone through only once."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source
        self._seen: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._seen.pop() if self._seen else next(self._source)

    def peek(self) -> Any:
        """The next item, which stays; `None` at the end."""
        if not self._seen:
            self._seen = [item for item in [next(self._source, None)] if item is not None]
        return self._seen[0] if self._seen else None


def peekable(data: Any) -> Any:
    """`data`, or what stands for an iterator whose first item must be seen."""
    return Peekable(data) if isinstance(data, Iterator) and not isinstance(data, Peekable) else data


def first_of(data: Any) -> Any:
    """A batch of `data` as its user nests it, without targets, where that can be seen without using it up.

    `None` where there are no data, or an iterator that was not made `peekable`.
    """
    if data is None or _is_array(data) or isinstance(data, Mapping):
        return data
    if isinstance(data, (list, tuple)) and data and all(map(_is_array, data)):
        return data[0] if len(data) == 1 else data
    if isinstance(data, Iterator) and not isinstance(data, Peekable):
        return None
    items = _iterable(data)
    item = items.peek() if isinstance(items, Peekable) else next(iter(items), None)
    if isinstance(item, tuple) and (_has_targets(data) or len(item) in (2, 3)):
        item = item[0]
    return item[0] if isinstance(item, (list, tuple)) and len(item) == 1 else item
