"""Weight clustering: few distinct values, shared by all the weights of a layer or a channel."""

from keras_compress.core.registry import import_methods

import_methods(__name__, __path__)
