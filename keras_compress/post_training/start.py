"""What every method with data begins with: a copy whose steps can be set, whose ranges are known, and its samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_compress.calibration.calibrate import calibrate, untrained_points
from keras_compress.core.warn import warn
from keras_compress.data.batches import batches
from keras_compress.data.samples import first_of, peekable
from keras_compress.graph.model import rebuild
from keras_compress.graph.trace import as_graph
from keras_compress.post_training.lockstep import as_floats
from keras_compress.post_training.opened import SAMPLES, opened
from keras_compress.post_training.steps import with_steps

# Fewer say more of themselves than of the layers.
FEWEST = 16


def held(model: keras.Model, data: Any, most: int = SAMPLES) -> Any:
    """Data that can be gone through more than once: of an iterator the first samples, in the model's order."""
    if not isinstance(data, Iterator):
        return data
    data = peekable(data)
    outer, taken, count = as_graph(model, first_of(data)), [], 0
    for batch in batches(data, outer):
        taken.append(batch)
        count += len(batch[0])
        if count >= most:
            break
    return [np.concatenate(arrays)[:most] for arrays in zip(*taken, strict=True)]


def with_ranges(quantized: keras.Model, data: Any, observer: Any = "min_max", again: bool = False) -> keras.Model:
    """A copy of a quantized model in which the ranges of activations are known: those of the float model.

    Args:
        quantized: What `quantize_model` gives.
        data: See `keras_compress.data.batches.batches`.
        observer: Name of an observer, an object, or `"auto"`; see `keras_compress.calibration.observer`.
        again: Measure ranges that are known, too.

    Raises:
        ValueError: For data that do not fit or give no finite values, or an unknown observer.
    """
    model = rebuild(quantized)
    set_ranges(model, data, observer, again)
    return model


def set_ranges(model: keras.Model, data: Any, observer: Any = "min_max", again: bool = False) -> None:
    """The same, in place."""
    data = peekable(data)
    flat, outer = opened(model, data), as_graph(model, first_of(data))
    if again or untrained_points(flat):
        calibrate(flat, lambda: batches(data, outer), observer=observer, run=as_floats, again=again)


def begin(quantized: keras.Model, data: Any, observer: Any = "min_max") -> keras.Model:
    """A copy whose weights have steps, and whose points have ranges."""
    model = with_steps(quantized)
    set_ranges(model, data, observer)
    return model


def warn_of_few(samples: int, who: str) -> None:
    """Say that a method has next to nothing to go by."""
    if samples < FEWEST:
        warn(f"Expected {FEWEST} samples or more for {who}, better some hundreds. Received: {samples}")
