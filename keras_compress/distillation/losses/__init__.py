"""What is asked of a student beside its labels: one method in each file."""

from keras_compress.core.registry import import_methods

import_methods(__name__, __path__)
