"""A Keras model as a function of arrays."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_compress.data.samples import cut, filled, fixed_batch, of_samples
from keras_compress.graph import graph
from keras_compress.quantizers.activation import QuantizeActivation

Array = NDArray[Any]
BATCH_SIZE = 64
# So many batches are run layer by layer: tracing a large network takes seconds, a batch a tenth of one.
BATCHES_UNTRACED = 8


def simulation(model: keras.Model, outputs: Sequence[Any]) -> Callable[[Sequence[Array]], list[Array]]:
    """What gives the values of `outputs` for some samples, in batches of 64, or of the model's own fixed size.

    A few batches are run as they are; for more, the model is traced once, whatever the number of samples: `predict`
    would be traced for each model and each size of a last batch, which takes longer than the work, and TensorFlow warns
    of it.

    Args:
        model: Functional model.
        outputs: Keras tensors of it.

    Returns:
        A function from one array for each input, `(samples, ...)`, to one for each output.
    """
    fixed = fixed_batch(model)
    watched = keras.Model(model.inputs, list(outputs))
    signature = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in model.inputs]

    def run(inputs: list[tf.Tensor]) -> Any:
        return tf.nest.flatten(graph.Rebuild(_computed, flat=True).run(watched, inputs, "", 0))

    # Called itself, it would be counted among all that were traced here before, and TensorFlow would warn.
    traced = functools.cache(tf.function(run, input_signature=[signature], autograph=False).get_concrete_function)
    done = itertools.count()

    def simulate(inputs: Sequence[Array]) -> list[Array]:
        batches = []
        for batch in cut(list(inputs), fixed or BATCH_SIZE):
            whole = filled(batch, fixed or 1)
            program = run if next(done) < BATCHES_UNTRACED else traced()
            fed = zip(whole, signature, strict=True)
            found = program([tf.convert_to_tensor(array, spec.dtype) for array, spec in fed])
            batches.append([of_samples(np.asarray(values), len(batch[0]), len(whole[0])) for values in found])
        return [np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*batches, strict=True)]

    return simulate


def _computed(call: graph.Call) -> Any:
    point = call.operation
    return point.values(call.args[0]) if isinstance(point, QuantizeActivation) else call.values()
