"""Pruning: masks that decide which weights are zero."""

from keras_compress.core.registry import import_methods

import_methods(__name__, __path__)
