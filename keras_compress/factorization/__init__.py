"""Low rank: a layer with a large weight becomes plain Keras layers with small ones in a row."""

from keras_compress.core.registry import import_methods

import_methods(__name__, __path__)
