"""Schedules that go on beyond the training that begins, said when `fit` begins: afterwards it is too late."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_compress.core import keras_private
from keras_compress.core.context import entry_layer, first_time_in_call
from keras_compress.core.warn import warn

_LOOKED = object()
_MARK = "_keras_compress_ends_said"


def warn_of_ends() -> None:
    """Called in a training call of a layer with schedules: one warning for each `fit`, if its steps do not suffice.

    Nothing is said in a training loop of the user's own, which tells nobody how long it will be, and of a `fit` that
    runs a program traced before.
    """
    model = entry_layer()
    history = getattr(model, "history", None)
    # One with epochs in it is of a `fit` that ended, or of one in which a later batch is traced.
    if history is None or getattr(history, "epoch", None) or hasattr(history, _MARK):
        return
    if not first_time_in_call(_LOOKED):
        return
    setattr(history, _MARK, True)
    params = getattr(history, "params", None) or {}
    epochs, steps = params.get("epochs"), params.get("steps")
    if epochs is None or steps is None:  # a data set of unknown length
        return
    # What cannot be read here, on a replica, is said by `convert`.
    late: list[tuple[int, int]] = []
    with contextlib.suppress(Exception), tf.init_scope():
        late = sorted({(end, first) for end, first in _ends(model) if first + epochs * steps <= end})
    if late:
        end, first = late[-1]
        warn(
            f"A schedule's end_step is {end}, and this `fit` of {epochs} epochs of {steps} steps ends before it, at "
            f"step {first + epochs * steps}. Train for longer, or give an earlier end_step, unless another `fit` "
            "follows."
        )


def _ends(model: Any) -> Iterator[tuple[int, int]]:
    """End step of each schedule that has one, and the step it is at."""
    for layer in keras_private.flattened(model):
        for transform in getattr(layer, "transform_list", ()):
            schedule = getattr(transform, "schedule", None) or getattr(transform, "pruning_schedule", None)
            step = getattr(transform, "step", None)
            if schedule is not None and step is not None and schedule.end_step != -1:
                yield int(schedule.end_step), int(keras.ops.convert_to_numpy(step))
