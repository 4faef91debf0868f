"""Accuracy of a classifier on some data, for scans that take it again and again."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_compress.data.examples import Examples


class Accuracy:
    """Share of the examples whose class a model names. The model is traced once, whatever its weights become.

    Args:
        examples: Inputs and targets: class numbers or one-hot rows; 0 and 1 for a model with one output, whose
            probability is compared with 0.5.
    """

    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        self._model: keras.Model | None = None
        self._outputs: Any = None

    def __call__(self, model: keras.Model) -> float:
        if self._model is not model:
            self._model = model
            # The last batch is often smaller: one function for all sizes.
            self._outputs = tf.function(lambda inputs: model(inputs, training=False), reduce_retracing=True)
        right, count = 0, 0
        for inputs, targets in self._examples:
            found = right_ones(self._outputs(inputs), targets)
            right, count = right + int(found.sum()), count + found.size
        if not count:
            raise ValueError("Expected data with at least one example to take the accuracy on. Received: none")
        return right / count


def right_ones(outputs: Any, targets: Any) -> NDArray[np.bool_]:
    """Whether each example is classified rightly; one with NaN among its scores is not.

    Raises:
        ValueError: For several outputs, no targets, or shapes that do not fit.

    >>> right_ones(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1])).tolist()
    [True, False]
    """
    if targets is None or isinstance(outputs, (list, tuple, dict)):
        what = "no targets" if targets is None else f"{len(outputs)} outputs"
        raise ValueError(
            "Expected a model with one output and `data=(x, y)` to take the accuracy on, or `evaluate=`. "
            f"Received: {what}"
        )
    scores, labels = keras.ops.convert_to_numpy(outputs), keras.ops.convert_to_numpy(targets)
    if labels.shape == scores.shape and scores.shape[-1] > 1:
        labels = labels.argmax(-1)
    if labels.ndim == scores.ndim and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if scores.ndim < 2 or labels.shape != scores.shape[:-1]:
        raise ValueError(
            "Expected outputs of shape (..., classes) and as many labels, or `evaluate=`. "
            f"Received: outputs {scores.shape}, targets {tuple(np.shape(targets))}"
        )
    predicted = scores.argmax(-1) if scores.shape[-1] > 1 else scores[..., 0] > 0.5
    # The largest of several NaN would be the first.
    right: NDArray[np.bool_] = (predicted == labels) & ~np.isnan(scores).any(-1)
    return right
