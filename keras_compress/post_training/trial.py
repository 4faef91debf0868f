"""How near a quantized model is to the float model on a few samples, before any range is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from numpy.typing import NDArray

from keras_compress.core import affine
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.graph import graph
from keras_compress.post_training.lockstep import as_floats
from keras_compress.quantizers.activation import QuantizeActivation

Array = NDArray[Any]


def outputs_of(model: keras.Model, data: Sequence[Array]) -> list[Array]:
    """What a plain model gives for some inputs, one array for each."""
    return _run(model, data, graph.Call.values)


def trial_db(exact: Sequence[Array], quantized: keras.Model, data: Sequence[Array]) -> float:
    """Signal to noise of the outputs of a quantized model, the lowest of them.

    Points without a range have that of what they see in these very samples: nothing is cut, and what is measured is
    whether the scales of channels go together. The model stays as it is.

    Args:
        exact: Outputs of the float model.
        quantized: What `quantize_model` gives.
        data: The samples, one array for each input.
    """
    ends: dict[int, tuple[np.float32, np.float32]] = {}

    def see(call: graph.Call) -> Any:
        if _waits(call.operation):
            values = np.asarray(call.args[0], np.float32)
            low, high = ends.get(id(call.operation.quantizer), (np.float32(0.0), np.float32(0.0)))
            ends[id(call.operation.quantizer)] = np.minimum(low, values.min()), np.maximum(high, values.max())
        return as_floats(call)

    def rounded(call: graph.Call) -> Any:
        if not _waits(call.operation):
            return call.values()
        quantizer, values = call.operation.quantizer, call.args[0]
        scale, zero_point = affine.affine_parameters(*ends[id(quantizer)], quantizer.spec)
        made = affine.fake_quantize(np.asarray(values, np.float32), float(scale), float(zero_point), quantizer.spec)
        return tf.constant(made, values.dtype)

    _run(quantized, data, see)
    return min(sqnr_db(e, r) for e, r in zip(exact, _run(quantized, data, rounded), strict=True))


def _waits(operation: Any) -> bool:
    """Whether it is a point without a range."""
    return isinstance(operation, QuantizeActivation) and not operation.quantizer.trained()


def _run(model: keras.Model, data: Sequence[Array], visit: graph.Visitor) -> list[Array]:
    made = graph.Rebuild(visit, flat=True).run(model, [tf.constant(each) for each in data], "", 0)
    return [np.asarray(each) for each in tree.flatten(made)]
