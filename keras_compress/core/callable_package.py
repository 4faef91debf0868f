"""One name for two things: a function that users call, and the package that it lives in.

Python binds a sub-package's name in its parent whenever it is imported; a function there would be lost, or hide the
package. So the package itself can be called.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from typing import Any


class _CallablePackage(types.ModuleType):
    """A package that is called as its function of the same name."""

    _holder: str

    def _function(self) -> Any:
        # Its module may load much: only when it is used.
        return getattr(importlib.import_module(self._holder), self.__name__.rpartition(".")[2])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function()(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function())

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return inspect.getdoc(self._function())


def make_callable(package: str, holder: str) -> None:
    """Let a package be called as its function of the same name.

    Args:
        package: Its full name, in `sys.modules`.
        holder: Full name of the module that has the function.
    """
    module = sys.modules[package]
    module.__class__ = _CallablePackage
    module._holder = holder  # type: ignore[attr-defined]
