"""XLA in tests: only where a test is about it.

What the package compiles (`core.ste.compiled`, `elementwise`) takes 0.1 to 0.5 s for each shape, and most tests run it
a few times. So these functions run as operators of TensorFlow there; tests with the marker `xla` compile them as a
training of a user does: those of kernels, and one of each method. What a test itself compiles it always gets. Processes
that tests start are about something else and turn it off too, but for the README's demos and those that compare bytes
of files from two processes: these compile everything.
"""

from __future__ import annotations

import sys
from typing import Any


class Switch:
    """Whether what the package compiles is compiled now. Installed once for a process."""

    def __init__(self) -> None:
        self.compiles = True
        self._installed = False

    def turn(self, compiles: bool) -> None:
        """Say it for what is called from here on."""
        self.compiles = compiles
        if not self._installed and "tensorflow" in sys.modules:
            self._install()

    def _install(self) -> None:
        kind = type(sys.modules["tensorflow"].function(lambda: None))
        call = kind.__call__

        def chosen(function: Any, *arguments: Any, **settings: Any) -> Any:
            python = function.python_function
            of_package = getattr(python, "__module__", "").startswith("keras_compress.")
            if of_package and function._jit_compile and not self.compiles:
                return python(*arguments, **settings)
            return call(function, *arguments, **settings)

        kind.__call__ = chosen
        self._installed = True


xla = Switch()
