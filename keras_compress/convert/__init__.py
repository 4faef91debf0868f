"""From a Keras model to a `.tflite` file. `kc.convert` is this package, and it can be called: the function `convert`.

`keras_compress.convert` is one name for two things, the function that users call and the package it lives in. Python
binds a sub-package's name in its parent whenever it is imported; a function there would be lost, or hide the package.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from typing import Any


def _function() -> Any:
    # Converting loads much: only when it is used.
    return importlib.import_module(f"{__name__}.convert").convert


class _Convert(types.ModuleType):
    """The package, called as the function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _function()(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(_function())

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return inspect.getdoc(_function())


sys.modules[__name__].__class__ = _Convert
