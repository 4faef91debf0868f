"""Quantization of trained models without training them: by their own statistics, or by data without labels."""

from keras_compress.core.registry import import_methods

import_methods(__name__, __path__)
