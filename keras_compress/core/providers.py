"""Which modules register objects of a kind, for layers below them that ask for one: they are imported then.

The package itself fills the table, which knows all its layers; this module imports nothing, so that it may.
"""

from __future__ import annotations

_MODULES: dict[str, tuple[str, ...]] = {}


def provide(kind: str, *modules: str) -> None:
    """Import modules when an object of this kind is asked for.

    Args:
        kind: Kind of the registry.
        modules: Full names; importing one registers what it has.
    """
    _MODULES[kind] = (*_MODULES.get(kind, ()), *modules)


def providers(kind: str) -> tuple[str, ...]:
    """Modules that are to be imported for a kind."""
    return _MODULES.get(kind, ())
