"""From a Keras model to a `.tflite` file. This package can be called: `kc.convert` is the function `convert`."""

from __future__ import annotations

from keras_compress.core.callable_package import make_callable

make_callable(__name__, f"{__name__}.convert")
