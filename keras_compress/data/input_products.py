"""What layers read while a model runs over some samples, as Gram matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_compress.data.batches import first_samples
from keras_compress.data.samples import LARGEST_BATCH, cut, fixed_batch
from keras_compress.graph import graph as keras_graph
from keras_compress.graph.as_matrix import AsMatrix, hessian

Array = NDArray[np.float64]


def input_products(
    model: keras.Model, forms: Mapping[int, tuple[str, AsMatrix]], data: Any, samples: int
) -> dict[str, Array]:
    """Path -> `2 X^T X` of what a layer reads, `(groups, inputs, inputs)`, a sample's share summed over the samples.

    Args:
        model: Functional or Sequential model.
        forms: `id(layer)` -> its path, and the layer as a product with a matrix.
        data: Inputs without labels, see `keras_compress.data.batches.batches`.
        samples: How many of the first samples are used.

    Raises:
        ValueError: For data that do not fit, or give NaN or infinite values.
    """
    found: dict[str, Array] = {}

    def visit(call: keras_graph.Call) -> Any:
        if id(call.operation) in forms:
            path, form = forms[id(call.operation)]
            gram = len(call.args[0]) * hessian(form, call.args[0])
            found[path] = found[path] + gram if path in found else gram
        return call.run()

    fixed = fixed_batch(model)
    for arrays in cut(first_samples(data, model, samples), fixed or LARGEST_BATCH):
        if fixed not in (None, len(arrays[0])):
            continue
        tensors = [tf.convert_to_tensor(a, t.dtype) for a, t in zip(arrays, model.inputs, strict=True)]
        keras_graph.Rebuild(visit, flat=True).run(model, tensors, "", 0)
    spoilt = [path for path, gram in found.items() if not np.isfinite(gram).all()]
    if spoilt:
        raise ValueError(f"Expected data that give finite values. Received: NaN or infinity in front of {spoilt[:10]}")
    return found
