"""How many samples a file takes at a time."""

from __future__ import annotations

from typing import Any

import keras

from keras_compress.data.samples import fixed_batch

# A number, any (None), or what the model and the runtime allow.
BatchSize = int | str | None
AUTO = "auto"


def check_batch_size(batch_size: Any, target: str) -> None:
    """Refuses what is no number of samples, and any number of them for a runtime that plans its memory for one.

    Raises:
        ValueError: With the cure.
    """
    number = isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size > 0
    if not number and batch_size not in (AUTO, None):
        raise ValueError(
            f"Expected `batch_size` as a number from 1 on, None for any, or 'auto'. Received: batch_size={batch_size!r}"
        )
    if batch_size is None and target != "litert":
        raise ValueError(
            "Expected a number, such as batch_size=1, where TFLite-Micro runs the file: it plans its memory for one "
            f"number of samples. Received: batch_size=None, target={target!r}"
        )


def check_frozen_batch(frozen: keras.Model, batch_size: BatchSize) -> None:
    """Refuses another batch size than a frozen model's own.

    Raises:
        ValueError: With the cure.
    """
    own = fixed_batch(frozen)
    if batch_size not in (AUTO, own) and (batch_size, own) != (1, None):
        raise ValueError(
            "Expected the batch size of the frozen model, or the model that it was made from, which takes any. "
            f"Received: batch_size={batch_size}, for {frozen.name!r} with {own or 'any'}"
        )


def batch_of(model: keras.Model, batch_size: BatchSize) -> int | None:
    """The first axis of the inputs that the model is computed with: None for any, and for one sample at a time."""
    if batch_size == AUTO:
        return fixed_batch(model)
    return None if batch_size in (None, 1) else int(batch_size or 1)


def is_free(model: keras.Model, batch_size: BatchSize, target: str) -> bool:
    """Whether the file is to take any number of samples: where its runtime can, and neither user nor model fixes one.

    Args:
        model: The graph that the file is made of, with inputs as `batch_of` gives them.
        batch_size: What was asked for.
        target: Target of `convert`.
    """
    return batch_size is None or (batch_size == AUTO and target == "litert" and fixed_batch(model) is None)


def notes_of_fixed(fixed_by: str, batch_size: BatchSize) -> tuple[str, ...]:
    """A note of what fixes the number of samples in a file that could else take any.

    Raises:
        ValueError: Where any number was asked for.
    """
    if not fixed_by:
        return ()
    if batch_size is None:
        cure = "recurrent='unrolled'" if "SEQUENCE_LSTM" in fixed_by else "a number, such as batch_size=1"
        raise ValueError(f"Expected operators that take any number of samples, or {cure}. Received: {fixed_by}")
    return (f"The file takes one sample at a time: {fixed_by}. `batch_size` sets another number.",)
