"""Whether data for calibration are on the scale of the data that a model was trained with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_compress.data.samples import Batch, filled, fixed_batch
from keras_compress.graph import graph
from keras_compress.graph.model import inner
from keras_compress.quantizers.activation import QuantizeActivation

# Standard deviations as many times as large, or as small, as in training: pixels to 255 for pixels to 1 are 255 times.
FACTOR = 8.0
_FEWEST = 8
_STATISTICS = (keras.layers.BatchNormalization, keras.layers.Normalization)


def mismatch(model: keras.Model, batch: Batch) -> str | None:
    """Why some data cannot be what a model was trained with, in words; `None` where nothing speaks against them.

    The model's first statistics are asked: a `Normalization` or BatchNormalization that stands next behind an input,
    with at most one layer with weights between them, or a trained range at an input.

    Args:
        model: Functional model.
        batch: Some samples in its order.
    """
    for node in _first_statistics(model):
        ratio = _ratio(inner(node.operation), _values(model, node.input_tensors[0], batch))
        if ratio is not None and not 1 / FACTOR < ratio < FACTOR:
            return (
                f"Expected data for calibration on the scale of the training data, prepared alike. Received: at "
                f"{node.operation.name!r} they are {ratio:.3g} times as wide as what the model was trained with"
            )
    return None


def _first_statistics(model: keras.Model) -> Iterator[Any]:
    """Calls of layers with statistics whose inputs come from a model input through at most one layer with weights."""
    weighted = {id(tensor): 0 for tensor in graph.functional(model).inputs}
    for node in graph.nodes(model):
        operation = inner(node.operation) if isinstance(node.operation, keras.layers.Layer) else node.operation
        before = max((weighted.get(id(tensor), 2) for tensor in node.input_tensors), default=2)
        # Ranges behind layers follow the weights: of the inputs' alone the data decide.
        if (before <= 1 and isinstance(operation, _STATISTICS)) or (
            before == 0 and isinstance(operation, QuantizeActivation)
        ):
            yield node
        own = isinstance(operation, keras.layers.Layer) and bool(operation.weights)
        weighted.update((id(tensor), before + own) for tensor in node.outputs)


def _ratio(operation: Any, values: NDArray[Any]) -> float | None:
    """How many times as wide the values are as in training; `None` where that is not known."""
    if isinstance(operation, QuantizeActivation):
        if not operation.quantizer.trained() or not hasattr(operation.quantizer, "range"):
            return None
        low, high = (float(end) for end in operation.quantizer.range())
        return float(np.ptp(values)) / (high - low) if high > low and np.ptp(values) else None
    if isinstance(operation, keras.layers.Normalization):
        spread = float(np.std(ops.convert_to_numpy(operation(values))))
        return spread or None
    variance, mean = (ops.convert_to_numpy(v) for v in (operation.moving_variance, operation.moving_mean))
    rows = np.moveaxis(values, operation.axis, -1).reshape(-1, len(variance))
    seen = np.std(rows, axis=0) / np.sqrt(variance + operation.epsilon)
    # As they began, they were never trained; of few or equal samples nothing follows.
    trained = bool(np.any(mean != 0) or np.any(variance != 1))
    return float(np.median(seen)) if trained and len(rows) >= _FEWEST and np.any(seen) else None


def _values(model: keras.Model, tensor: Any, batch: Batch) -> NDArray[Any]:
    fed = filled([array[: fixed_batch(model) or len(array)] for array in batch], fixed_batch(model) or 1)
    before = keras.Model(graph.functional(model).inputs, tensor)
    found = graph.Rebuild(_real).run(before, [ops.convert_to_tensor(array) for array in fed], "", 0)
    return np.asarray(ops.convert_to_numpy(found))


def _real(call: graph.Call) -> Any:
    """Real numbers: ranges on the way may not be known yet, and would say so."""
    return call.args[0] if isinstance(call.operation, QuantizeActivation) else call.values()
