"""How many weights of a model are not zero, as a cost."""

from __future__ import annotations

import keras
import numpy as np

from keras_compress.core.budget import Cost
from keras_compress.core.registry import register
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph
from keras_compress.graph.model import inner, slots_in


@register("cost")
class Nonzeros(Cost):
    """Weights that are not zero, of kernels, recurrent kernels and tables, as their layers see them.

    Biases and normalizations, which no pruner changes, are not counted.
    """

    noun = "weights that are not zero"
    unit = "weights"

    def of(self, model: keras.Model) -> float:
        # Tied layers have one variable.
        found: dict[int, int] = {}
        for _, layer in graph.walk(model):
            for slot in slots_in(layer):
                variable = slot.variable(inner(layer))
                seen = slot.name in layer.slot_names if isinstance(layer, Compressed) else False
                found[id(variable)] = int(np.count_nonzero(layer.weight(slot.name) if seen else variable))
        return float(sum(found.values()))
