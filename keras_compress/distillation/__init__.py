"""Distillation: a student learns from a teacher's outputs and features."""

from keras_compress.core.registry import import_methods
from keras_compress.distillation import losses as losses

import_methods(__name__, __path__)
