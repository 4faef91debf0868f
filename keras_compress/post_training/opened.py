"""A quantized model as one graph of its own layers, whose calls can be run one by one."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core import keras_private
from keras_compress.core.wrapper import Compressed
from keras_compress.data.batches import first_samples
from keras_compress.data.samples import first_of
from keras_compress.graph import graph
from keras_compress.graph.flat import flat_graph
from keras_compress.graph.trace import as_graph

Array = NDArray[Any]
# Values that are held at once of one tensor, and samples that are enough for all methods.
LARGEST_VALUES_BYTES = 256_000_000
SAMPLES = 1024


def opened(model: keras.Model, data: Any = None) -> keras.Model:
    """A Functional model without nested models, of the very layers of `model`: what is set in it is set in both.

    Layers and models that users wrote are traced, as far as their `call` runs on symbolic tensors.

    Args:
        model: Functional, Sequential or subclassed.
        data: Data, which tell the shapes of a subclassed model's inputs.
    """
    return flat_graph(model, first_of(data))


def samples_for(model: keras.Model, flat: keras.Model, data: Any, most: int = SAMPLES) -> list[Array]:
    """The first samples of some data, one array for each input.

    Args:
        model: The model, by whose inputs the data are known.
        flat: What `opened` made of it; no tensor of it will take more than `LARGEST_VALUES_BYTES`.
        data: See `keras_compress.data.batches.batches`; iterators are read as far as is needed.
        most: How many samples are wanted.

    Raises:
        ValueError: For data that do not fit, are empty, or are not finite.
    """
    outer = as_graph(model, first_of(data))
    tensors = [tensor for node in graph.nodes(flat) for tensor in node.outputs]
    largest = max((int(np.prod([n or 1 for n in tensor.shape[1:]])) for tensor in tensors), default=1)
    count = max(1, min(most, LARGEST_VALUES_BYTES // (4 * largest)))
    return first_samples(data, outer, count)


def wrappers_of(node: Any) -> list[Compressed]:
    """Wrappers in the operation of a call."""
    operation = node.operation
    if isinstance(operation, Compressed):
        return [operation]
    if not isinstance(operation, keras.layers.Layer):
        return []
    return [each for each in keras_private.flattened(operation) if isinstance(each, Compressed)]
