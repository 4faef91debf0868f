"""Whether a training came to an end that is worth keeping."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np

from keras_compress.core import graph


@contextmanager
def finite_training(model: keras.Model, stage: str) -> Iterator[None]:
    """Refuse a model that the training inside has filled with NaN or infinity.

    Args:
        model: The model that is trained.
        stage: What it is trained for, for the message.

    Raises:
        ValueError: Naming the stage and the first layers.
    """
    # A user's constant may be infinite, such as the mask of an attention.
    before = set(_spoilt(model))
    yield
    spoilt = set(_spoilt(model)) - before
    if spoilt:
        layers = [path for path, layer in graph.walk(model) if spoilt & {id(v) for v in layer.variables}]
        raise ValueError(
            f"Expected a training that ends in finite numbers. Received: NaN or infinity after stage {stage!r}, at "
            f"{layers[:10] or model.name}: lower its learning rate, or look for data that are not finite"
        )


def _spoilt(model: keras.Model) -> Iterator[int]:
    for variable in model.variables:
        if str(variable.dtype).startswith(("float", "bfloat")):
            values = keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))
            if not np.isfinite(values).all():
                yield id(variable)
