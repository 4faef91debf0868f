"""The table of expansions: one small class for each kind of layer or Keras operation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from keras_compress.convert.expand.emitter import Emitter

_EXPANSIONS: dict[str, Expansion] = {}


class Expansion:
    """How the calls of the classes in `handles` become calls of simpler ones.

    A subclass registers itself under each name in its `handles`: names of Keras layers or of classes of Keras
    operations. Subclasses of a layer by a user are handled too, unless they change `call`.
    """

    handles: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in vars(cls).get("handles", ()):
            if name in _EXPANSIONS:
                raise TypeError(
                    f"Expected one expansion for {name!r}. Received: {cls.__name__} beside "
                    f"{type(_EXPANSIONS[name]).__name__}"
                )
            _EXPANSIONS[name] = cls()

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether this call is to be expanded; it stays what it is otherwise."""
        return True

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Put the simpler calls into the new graph; returns what the call gives.

        Args:
            emit: Puts calls into the graph, expanded again where they must be.
            operation: The layer, without its wrapper, or the Keras operation.
            args: Arguments of the call; tensors are those of the new graph.
            kwargs: Likewise.

        Raises:
            ValueError: For a use that has no integer form, by name.
        """
        raise NotImplementedError


def expansion_of(operation: Any) -> Expansion | None:
    """The expansion of an operation's class, or of the Keras class whose `call` it inherits."""
    for cls in type(operation).__mro__:
        if cls.__module__.startswith(("keras.", "keras_compress.")) and cls.__name__ in _EXPANSIONS:
            return _EXPANSIONS[cls.__name__]
        if "call" in vars(cls):
            return None
    return None
