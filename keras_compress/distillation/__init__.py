"""Distillation: a student learns from a teacher's outputs and features."""

from keras_compress.distillation import distill as distill
from keras_compress.distillation import losses as losses
