"""How much each weight matters: one criterion in each file."""

from keras_compress.core.registry import import_methods

import_methods(__name__, __path__)
