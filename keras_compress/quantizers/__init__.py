"""Quantizers of weights and of activations, and the points of a graph where activations are quantized."""

from keras_compress.core.registry import import_methods

import_methods(__name__, __path__)
