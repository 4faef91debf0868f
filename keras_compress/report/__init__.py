"""What a compression did, as tables, plots and a page. This package can be called: `kc.report` is the function."""

from __future__ import annotations

from keras_compress.core.callable_package import make_callable

make_callable(__name__, f"{__name__}.page.report")
