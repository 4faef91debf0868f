"""What a layer can know of the call it runs in. The only file that reads Keras's call context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from keras_compress.core import keras_private


def _call_context() -> Any:
    return keras_private.global_attribute("current_call_ctx")


def entry_layer() -> Any:
    """The outermost layer or model of the running call, `None` outside a call."""
    return getattr(_call_context(), "entry_layer", None)


def in_training() -> bool:
    """Whether the running call is one of training; false outside a call."""
    return bool(getattr(_call_context(), "training", False))


def first_time_in_call(owner: object) -> bool:
    """True once for each outermost call, however often `owner` is used in it.

    A model is called once for a batch, so this is what makes a layer that stands in two places count one step.
    """
    context = _call_context()
    if context is None:
        return True
    seen = getattr(context, "keras_compress_seen", None)
    if seen is None:
        seen = set()
        context.keras_compress_seen = seen
    if id(owner) in seen:
        return False
    seen.add(id(owner))
    return True


def kept_in_call(key: object, make: Callable[[], Any]) -> Any:
    """What `make()` gave when it was first asked for in the running outermost call; `None` outside a call."""
    context = _call_context()
    if context is None:
        return None
    kept = context.__dict__.setdefault("keras_compress_kept", {})
    if key not in kept:
        kept[key] = make()
    return kept[key]


def counter(layer: Any, name: str, start: int = 0) -> Any:
    """A variable of a layer that counts training batches: the same number on every replica."""
    return layer.add_weight(
        name=name,
        shape=(),
        dtype="int64",
        initializer="ones" if start else "zeros",
        trainable=False,
        aggregation="only_first_replica",
    )


def assign(variable: Any, value: Any) -> None:
    """Assign a value to a Keras variable inside a call, on every replica of a distribution strategy."""
    with _losses_kept():
        variable.assign(value)


@contextmanager
def outside_of_tracing() -> Iterator[None]:
    """Make and set variables at once, though Keras only traces the model now, as `fit` and loading do to build it."""
    names = ("stateless_scope", "symbolic_scope")
    kept = {name: keras_private.global_attribute(name) for name in names}
    for name in names:
        keras_private.set_global_attribute(name, None)
    try:
        with tf.init_scope():
            yield
    finally:
        for name, scope in kept.items():
            keras_private.set_global_attribute(name, scope)


@contextmanager
def float32_policy() -> Iterator[None]:
    """New layers compute in float32, whatever policy a program has set to train with; also a decorator."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


@contextmanager
def _losses_kept() -> Iterator[None]:
    """Bring back the losses that this replica's call has added so far.

    Replicas take turns where one of them assigns, and a layer keeps the losses of its call in one list for all of them:
    the next replica would clear this one's, and add its own.
    """
    model = entry_layer()
    if model is None or tf.distribute.get_strategy().num_replicas_in_sync == 1:
        yield
        return
    kept = [(losses, list(losses)) for losses in map(keras_private.losses_of_call, keras_private.flattened(model))]
    yield
    for losses, before in kept:
        losses[:] = before
