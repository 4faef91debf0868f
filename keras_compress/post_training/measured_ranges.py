"""Ranges of activations from data, set on the points of a quantized model."""

from __future__ import annotations

from typing import Any

import keras

from keras_compress.calibration.calibrate import calibrate, untrained_points
from keras_compress.core.global_state import global_state_kept
from keras_compress.graph import graph as keras_graph
from keras_compress.graph.model import rebuild
from keras_compress.post_training.record import carry, record_of


@global_state_kept()
def ranges_from_data(model: keras.Model, data: Any, source: str = "data", margin: float = 1.0) -> keras.Model:
    """A copy of a quantized model with the ranges that are not known yet set to the extremes over some data.

    Args:
        model: From `quantize_model`.
        data: See `keras_compress.data.batches.batches`.
        source: What the data are, for the note.
        margin: Both ends are multiplied by it, >= 1: real inputs go further than a few that were made.
    """
    made: keras.Model = rebuild(model)
    flat = _flat(made)
    waiting = untrained_points(flat)
    if waiting:
        calibrate(flat, data)
    # The steps of a recurrent layer share a quantizer.
    for quantizer in {id(point.quantizer): point.quantizer for point in waiting}.values():
        quantizer.set_range(*(margin * float(end) for end in quantizer.range()))
    return carry(made, record_of(model).noted(f"Ranges from {source}: {len(waiting)} points"))


def _flat(model: keras.Model) -> keras.Model:
    """A model without nested ones, of the very layers of another."""
    held = keras_graph.functional(model)
    inputs = [keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name) for t in held.inputs]
    outputs = keras_graph.Rebuild(lambda call: call.run(), flat=True).run(model, inputs, "", 0)
    return keras.Model(inputs, outputs)
