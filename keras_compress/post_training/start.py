"""What every method with data begins with: a copy whose steps can be set, whose ranges are known, and its samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from keras_compress.calibration.calibrate import calibrate, points_to_measure
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.warn import warn
from keras_compress.data.batches import batches, first_samples
from keras_compress.data.samples import first_of, peekable
from keras_compress.graph.graph import walk
from keras_compress.graph.model import rebuild
from keras_compress.graph.trace import as_graph
from keras_compress.post_training.lockstep import as_floats
from keras_compress.post_training.opened import SAMPLES, opened
from keras_compress.post_training.record import carry, record_of
from keras_compress.post_training.steps import with_steps
from keras_compress.quantizers.activation import QuantizeActivation

# Fewer say more of themselves than of the layers.
FEWEST = 16


def held(model: keras.Model, data: Any, most: int = SAMPLES) -> Any:
    """Data that can be gone through more than once: of an iterator the first samples, in the model's order."""
    if not isinstance(data, Iterator):
        return data
    data = peekable(data)
    found = first_samples(data, as_graph(model, first_of(data)), most + 1)
    if len(found[0]) > most:
        warn(
            "Expected data that can be gone through more than once, such as an array, a dataset, or a function that "
            f"gives a generator. Received: an iterator, of which the first {most} samples are used"
        )
    return [array[:most] for array in found]


@global_state_kept()
def with_ranges(
    quantized: keras.Model,
    data: Any,
    observer: Any = "min_max",
    again: bool = False,
    *,
    source: str = "data",
    margin: float = 1.0,
) -> keras.Model:
    """A copy of a quantized model in which the ranges of activations are known: those of the float model.

    Args:
        quantized: What `quantize_model` gives.
        data: See `keras_compress.data.batches.batches`.
        observer: Name of an observer, an object, or `"auto"`; see `keras_compress.calibration.observer`.
        again: Measure ranges that are known, too.
        source: What the data are, for the record.
        margin: Both ends are multiplied by it, >= 1: real inputs go further than a few that were made.

    Raises:
        ValueError: For data that do not fit or give no finite values, or an unknown observer.
    """
    model = carry(rebuild(quantized), record_of(quantized))
    return ranged(model, data, observer, again, source=source, margin=margin)


def ranged(
    model: keras.Model,
    data: Any,
    observer: Any = "min_max",
    again: bool = False,
    *,
    source: str = "data",
    margin: float = 1.0,
) -> keras.Model:
    """`with_ranges` of a model that is nobody else's: the same model."""
    quantizers = set_ranges(model, data, observer, again)
    for quantizer in quantizers if margin != 1.0 else ():
        quantizer.set_range(*(margin * float(end) for end in quantizer.range()))
    return carry(model, record_of(model).noted(f"Ranges from {source}: {len(quantizers)} points"))


def set_ranges(model: keras.Model, data: Any, observer: Any = "min_max", again: bool = False) -> list[Any]:
    """The same, in place; gives the quantizers whose range was set."""
    if not again and all(_is_known(layer) for _, layer in walk(model)):
        return []
    data = peekable(data)
    flat, outer = opened(model, data), as_graph(model, first_of(data))
    points = points_to_measure(flat, again)
    if points:
        calibrate(flat, lambda: batches(data, outer), observer=observer, run=as_floats, again=again)
    # The calls of one layer may share a quantizer.
    return list({id(point.quantizer): point.quantizer for point in points}.values())


def _is_known(layer: Any) -> bool:
    return not isinstance(layer, QuantizeActivation) or layer.quantizer.trained()


def begin(quantized: keras.Model, data: Any, observer: Any = "min_max") -> keras.Model:
    """A copy whose weights have steps, and whose points have ranges."""
    model = with_steps(quantized)
    set_ranges(model, data, observer)
    return model


def warn_of_few(samples: int, who: str) -> None:
    """Say that a method has next to nothing to go by."""
    if samples < FEWEST:
        warn(f"Expected {FEWEST} samples or more for {who}, better some hundreds. Received: {samples}")
