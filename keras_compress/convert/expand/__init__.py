"""Layers that no single kernel runs, as graphs of layers that one does."""

from keras_compress.core.registry import import_methods

import_methods(__name__, __path__)
