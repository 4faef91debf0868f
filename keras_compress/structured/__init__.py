"""Structured pruning: channels that are removed from a model for good."""

from keras_compress.core.registry import import_methods
from keras_compress.structured import rules as rules

import_methods(__name__, __path__)
