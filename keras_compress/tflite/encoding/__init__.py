"""Codecs of TFLite-Micro's `TFLM_DECODE`, found by name in the registry."""

from keras_compress.core.registry import import_methods

import_methods(__name__, __path__)
