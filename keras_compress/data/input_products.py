"""What layers read while a model runs over some samples, as Gram matrices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_compress.data.batches import first_samples
from keras_compress.data.samples import LARGEST_BATCH, Batch, cut, first_of, fixed_batch, peekable
from keras_compress.graph import graph as keras_graph
from keras_compress.graph.as_matrix import AsMatrix, hessian
from keras_compress.graph.flat import flat_graph
from keras_compress.graph.trace import as_graph

Array = NDArray[np.float64]


def input_products(
    model: keras.Model, forms: Mapping[int, tuple[str, AsMatrix]], data: Any, samples: int
) -> dict[str, Array]:
    """Path -> `2 X^T X` of what a layer reads, `(groups, inputs, inputs)`, a sample's share summed over the samples.

    Args:
        model: Functional, Sequential or subclassed.
        forms: `id(layer)` -> its path, and the layer as a product with a matrix.
        data: Inputs without labels, see `keras_compress.data.batches.batches`.
        samples: How many of the first samples are used, of a model of a larger fixed batch one batch.

    Raises:
        ValueError: For data that do not fit, are fewer than a fixed batch, or give NaN or infinite values.
    """
    found: dict[str, Array] = {}

    def visit(call: keras_graph.Call) -> Any:
        if id(call.operation) in forms:
            path, form = forms[id(call.operation)]
            gram = len(call.args[0]) * hessian(form, call.args[0])
            found[path] = found[path] + gram if path in found else gram
        return call.run()

    data = peekable(data)
    outer = as_graph(model, first_of(data))
    flat = flat_graph(outer)
    for arrays in _batches(data, outer, samples):
        tensors = [tf.convert_to_tensor(a, t.dtype) for a, t in zip(arrays, flat.inputs, strict=True)]
        keras_graph.Rebuild(visit, flat=True).run(flat, tensors, "", 0)
    spoilt = [path for path, gram in found.items() if not np.isfinite(gram).all()]
    if spoilt:
        raise ValueError(f"Expected data that give finite values. Received: NaN or infinity in front of {spoilt[:10]}")
    return found


def _batches(data: Any, model: keras.Model, samples: int) -> Iterator[Batch]:
    """The first samples in batches that a graph takes: whole ones where their size is fixed."""
    fixed = fixed_batch(model)
    arrays = first_samples(data, model, max(samples, fixed or 1))
    count = len(arrays[0])
    if fixed and count < fixed:
        raise ValueError(
            f"Expected data with at least {fixed} samples, a batch of the model {model.name!r}. Received: {count}"
        )
    return cut([array[: count - count % (fixed or 1)] for array in arrays], fixed or LARGEST_BATCH)
