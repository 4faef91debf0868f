"""The table of layers and operations that are known: class name -> what adds their nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_compress.ir.read.reader import Reader

# Adds the nodes of one call; returns its tensors, nested as Keras does, or `NotImplemented` for a use that it does not
# know. Arguments: the reader, the layer or operation, and the arguments of the call with tensors of the graph.
Handler = Callable[..., Any]

_HANDLERS: dict[str, Handler] = {}


def reads(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler of Keras layers or classes of Keras operations with these names.

    Subclasses of a layer by a user are handled too, unless they change `call`.
    """

    def register(handler: Handler) -> Handler:
        for name in names:
            if name in _HANDLERS:
                raise TypeError(f"Expected one handler for {name!r}. Received: two")
            _HANDLERS[name] = handler
        return handler

    return register


def handler_of(operation: Any) -> Handler | None:
    """The handler of an operation's class, or of the Keras class whose `call` it inherits."""
    for cls in type(operation).__mro__:
        if cls.__module__.startswith(("keras.", "keras_compress.")) and cls.__name__ in _HANDLERS:
            return _HANDLERS[cls.__name__]
        if "call" in vars(cls):
            return None
    return None


def known() -> list[str]:
    """Names of all layers and operations in the table."""
    return sorted(_HANDLERS)


__all__ = ["Handler", "Reader", "handler_of", "known", "reads"]
