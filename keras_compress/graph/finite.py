"""Weights that are numbers, before and after a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from keras_compress.core.kinds_of_layers import is_user_written
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph


def check_finite(model: keras.Model) -> None:
    """Refuse a model with NaN or infinite weights, as a training that diverged leaves them.

    Raises:
        ValueError: Naming the layers.
    """
    layers = list(graph.walk(model))
    if is_user_written(model):
        layers.append((model.name, model))
    found = {path: name for path, layer in layers if (name := _not_finite(layer)) is not None}
    if found:
        listed = ", ".join(f"{name!r} of layer {path!r}" for path, name in list(found.items())[:10])
        raise ValueError(
            "Expected finite weights: train again with a smaller learning rate or `clipnorm`, or go back to a "
            f"checkpoint. Received: NaN or infinite numbers in {listed}"
        )


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
    before = _spoilt(model)
    yield
    spoilt = _spoilt(model) - before
    if spoilt:
        layers = [path for path, layer in graph.walk(model) if spoilt & {id(v) for v in layer.variables}]
        raise ValueError(
            f"Expected a training that ends in finite numbers. Received: NaN or infinity after stage {stage!r}, at "
            f"{layers[:10] or model.name}: lower its learning rate, or look for data that are not finite"
        )


def _spoilt(model: keras.Model) -> set[int]:
    """Identities of the variables that hold other things than numbers."""
    return {id(variable) for variable in model.variables if not _is_finite(variable)}


def _not_finite(layer: keras.layers.Layer) -> str | None:
    """Name of the first variable of a layer, without that of its wrapper, that holds other things than numbers."""
    body = layer.layer if isinstance(layer, Compressed) else layer
    if type(body).__module__.startswith("keras_compress."):
        # Ranges speak for themselves.
        return None
    return next((variable.name for variable in body.variables if not _is_finite(variable)), None)


def _is_finite(variable: Any) -> bool:
    if "float" not in str(variable.dtype):
        return True
    values = np.asarray(variable, np.float32)
    # The sum alone tells in most cases, and takes no memory.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())
