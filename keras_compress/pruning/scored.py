"""The weights of a model that are given scores, and the model to find them with: a copy that is nobody else's."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core.slots import Slot
from keras_compress.graph import graph
from keras_compress.graph.model import copy_layer, made_like, rebuild, slots_in, strip_layer

Array = NDArray[Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class ScoredWeight:
    """One weight.

    Attributes:
        path: Path of its layer.
        layer: The layer, in the model that scores are found with.
        slot: Which variable of it.
    """

    path: str
    layer: keras.layers.Layer
    slot: Slot

    @property
    def name(self) -> str:
        """For messages: the layer's path, and the variable of a layer that has several."""
        return self.path if len(slots_in(self.layer)) == 1 else f"{self.path}.{self.slot.name}"

    @property
    def variable(self) -> keras.Variable:
        """The variable."""
        return self.slot.variable(self.layer)

    @property
    def owner(self) -> keras.layers.Layer:
        """The layer that computes with the variable: a layer itself, or one that it is made of."""
        path = self.slot.name.rpartition(".")[0]
        return Slot(path).variable(self.layer) if path else self.layer

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return tuple(int(n) for n in self.variable.shape)

    def values(self) -> Array:
        """The weight now."""
        values: Array = keras.ops.convert_to_numpy(self.variable)
        return values

    def matrix_axes(self) -> tuple[list[int], int]:
        """The axes in the order inputs, outputs, and how many are outputs; as `Pruner.matrix_axes`."""
        axes = range(len(self.shape))
        outputs = tuple(a % len(self.shape) for a in self.slot.channel_axes) or tuple(axes)[:-1]
        return [*(axis for axis in axes if axis not in outputs), *outputs], len(outputs)

    def to_matrix(self, weight: Array) -> Array:
        """A weight, or scores of one, as `(inputs, outputs)`."""
        order, count = self.matrix_axes()
        outputs = math.prod(self.shape[axis] for axis in order[len(order) - count :])
        matrix: Array = weight.transpose(order).reshape(-1, outputs)
        return matrix

    def from_matrix(self, matrix: Array) -> Array:
        """The weight in its own shape again."""
        order, _ = self.matrix_axes()
        weight: Array = matrix.reshape([self.shape[axis] for axis in order]).transpose(np.argsort(order))
        return weight


class ScoredModel:
    """A model and those of its weights that are given scores.

    Args:
        model: A plain model, which is changed while scores are found: masked weights are zero.
        paths: Layers whose weights are scored.
    """

    def __init__(self, model: keras.Model, paths: Collection[str]) -> None:
        self.model, self.paths = model, tuple(paths)
        self.weights: list[ScoredWeight] = []
        seen: set[int] = set()
        for path, layer in graph.walk(model):
            for slot in slots_in(layer) if path in paths else ():
                # Tied layers have one variable.
                if id(slot.variable(layer)) not in seen:
                    seen.add(id(slot.variable(layer)))
                    self.weights.append(ScoredWeight(path, layer, slot))

    def masks(self) -> list[Mask]:
        """Where weights are not zero now."""
        return [each.values() != 0 for each in self.weights]

    def put(self, masks: Sequence[Mask]) -> None:
        """Set weights to zero where masks are."""
        for each, mask in zip(self.weights, masks, strict=True):
            each.variable.assign(each.values() * mask)

    def like(self, model: keras.Model) -> ScoredModel:
        """The same weights of a copy of the model."""
        return ScoredModel(model, self.paths)


def scored_model(model: keras.Model, paths: Collection[str]) -> ScoredModel:
    """A copy of a model that computes in float32, without wrappers: its weights are those that layers see.

    Gradients of float16 would be lost where they are small.
    """
    return ScoredModel(in_dtype(rebuild(model, lambda _, layer: strip_layer(layer)), "float32"), paths)


def in_dtype(model: keras.Model, dtype: str) -> keras.Model:
    """A copy of a model in another dtype, but for layers that cannot be made in it; itself, if it is in it."""
    if all(layer.compute_dtype == dtype for _, layer in graph.walk(model)):
        return model

    def make(_: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.compute_dtype == dtype:
            return copy_layer(layer)
        try:
            made_like(layer, {"dtype": dtype})
        except ValueError:
            return copy_layer(layer)
        return copy_layer(layer, dtype=dtype)

    return rebuild(model, make)
