"""What each kind of layer or operation does with channels: one rule for each, found by what it `handles`."""

from keras_compress.core.registry import import_methods

import_methods(__name__, __path__)
