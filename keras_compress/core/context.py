"""What a layer can know of the call it runs in. The only file that reads Keras's call context."""

from __future__ import annotations

from typing import Any

from keras.src.backend.common import global_state


def _call_context() -> Any:
    return global_state.get_global_attribute("current_call_ctx")


def entry_layer() -> Any:
    """The outermost layer or model of the running call, `None` outside a call."""
    return getattr(_call_context(), "entry_layer", None)


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
