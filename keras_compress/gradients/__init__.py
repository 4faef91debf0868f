"""Codecs of gradients: what workers that train together send to each other."""

from keras_compress.core.registry import import_methods

import_methods(__name__, __path__)
