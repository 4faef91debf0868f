"""Finding activation ranges of a model that was not trained with them."""

from keras_compress.core.registry import import_methods

import_methods(__name__, __path__)
