"""Layers of float models only: where there are integers, freezing folds them or takes them apart."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_compress.ir.graph import Tensor
from keras_compress.ir.read.reader import Reader
from keras_compress.ir.read.table import reads


@reads("BatchNormalization")
def batch_normalization(reader: Reader, layer: keras.layers.BatchNormalization, inputs: Tensor) -> Any:
    """A factor and an offset for each channel of the last axis; a pass puts them into the weights before them."""
    if inputs.dtype != "float32" or layer.axis % len(inputs.shape) != len(inputs.shape) - 1:
        return NotImplemented
    mean, variance = np.asarray(layer.moving_mean, np.float64), np.asarray(layer.moving_variance, np.float64)
    factor = 1.0 / np.sqrt(variance + layer.epsilon)
    factor = factor * np.asarray(layer.gamma, np.float64) if layer.scale else factor
    offset = (np.asarray(layer.beta, np.float64) if layer.center else 0.0) - mean * factor
    return reader.add("ADD", reader.add("MUL", inputs, factor.astype(np.float32)), offset.astype(np.float32))


@reads("Rescaling")
def rescaling(reader: Reader, layer: keras.layers.Rescaling, inputs: Tensor) -> Any:
    """One factor and one offset, or one of each for each channel."""
    scale, offset = np.asarray(layer.scale, np.float32), np.asarray(layer.offset, np.float32)
    if inputs.dtype != "float32":
        return NotImplemented
    made = inputs if (scale == 1.0).all() else reader.add("MUL", inputs, scale)
    return reader.add("ADD", made, offset) if offset.any() else made


@reads("LeakyReLU")
def leaky_relu(reader: Reader, layer: keras.layers.LeakyReLU, inputs: Tensor) -> Any:
    """LEAKY_RELU."""
    if inputs.dtype != "float32":
        return NotImplemented
    return reader.add("LEAKY_RELU", inputs, alpha=float(layer.negative_slope))


@reads("ELU")
def elu(reader: Reader, layer: keras.layers.ELU, inputs: Tensor) -> Any:
    """ELU, which has no factor."""
    return NotImplemented if inputs.dtype != "float32" or layer.alpha != 1.0 else reader.add("ELU", inputs)


@reads("PReLU")
def parametric_relu(reader: Reader, layer: keras.layers.PReLU, inputs: Tensor) -> Any:
    """PRELU."""
    return NotImplemented if inputs.dtype != "float32" else reader.add("PRELU", inputs, np.asarray(layer.alpha))


@reads("RPReLU")
def shifted_relu(reader: Reader, layer: Any, inputs: Tensor) -> Any:
    """PRELU between two additions."""
    if inputs.dtype != "float32":
        return NotImplemented
    gamma, beta, zeta = (np.asarray(each, np.float32) for each in (layer.gamma, layer.beta, layer.zeta))
    # A slope for each channel alone: PRELU takes it in the shape of a sample.
    slopes = beta.reshape([1] * (len(inputs.shape) - 2) + [-1])
    return reader.add("ADD", reader.add("PRELU", reader.add("ADD", inputs, -gamma), slopes), zeta)


@reads("XnorPlusPlusScale")
def trained_scale(reader: Reader, layer: Any, inputs: Tensor) -> Any:
    """A product for each factor."""
    if inputs.dtype != "float32":
        return NotImplemented
    for factor in layer.factors:
        inputs = reader.add("MUL", inputs, np.asarray(factor, np.float32))
    return inputs


@reads("Embedding")
def embedding(reader: Reader, layer: keras.layers.Embedding, inputs: Tensor) -> Any:
    """GATHER, without a mask."""
    if layer.mask_zero or inputs.dtype not in ("int32", "float32"):
        return NotImplemented
    numbers = inputs
    if inputs.dtype != "int32":
        numbers = reader.add("CAST", inputs, dtype="int32", in_data_type=inputs.dtype, out_data_type="int32")
    return reader.add("GATHER", np.asarray(layer.embeddings, np.float32), numbers)
