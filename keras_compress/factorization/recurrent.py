"""The input kernel of a recurrent layer: a Dense over all steps, then the layer with fewer inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_compress.factorization.cells import cells_of, directions_of
from keras_compress.factorization.scheme import Array, Rank
from keras_compress.factorization.whitening import Truncated
from keras_compress.graph.configuration import configuration


def dropouts(layer: Any) -> set[float]:
    """Rates at which the cells of a layer drop inputs."""
    return {float(cell.dropout) for cell in cells_of(layer)}


class InputKernel(Truncated):
    """`x_t W ~ (x_t A) B`: A is a Dense without bias that all steps share, B the input kernel of the layer behind it.

    The recurrent kernel stays: it multiplies a state that only the loop inside the layer knows. Both directions of a
    Bidirectional read one A. Dropout of inputs moves in front of A, where it drops what it dropped before: a feature in
    all steps.

    Args:
        place: An LSTM, GRU or SimpleRNN, or a Bidirectional of them.
        gram: `X^T X` of the steps' inputs.
    """

    last_takes_arguments = True

    def _matrix(self) -> Array:
        return self._place.kernel[None]

    def arrays(self, rank: Rank) -> list[Array]:
        first, second = self._matrices(rank)
        return [first[0], second[0]]

    def merged(self, rank: Rank) -> Array:
        first, second = self.arrays(rank)
        merged: Array = first @ second
        return merged

    def layers(self, rank: Rank) -> list[keras.layers.Layer]:
        layer = self._place.layer
        own = {"dtype": layer.dtype_policy, "trainable": layer.trainable}
        made = [keras.layers.Dense(rank[0], use_bias=False, name=f"{layer.name}_basis", **own), _again(layer)]
        if any(rates := dropouts(layer)):
            made.insert(0, keras.layers.SpatialDropout1D(max(rates), name=f"{layer.name}_dropout", dtype=own["dtype"]))
        for cell in cells_of(made[-1]):
            cell.dropout = 0.0
        return made

    def fill(self, layers: Sequence[Any], rank: Rank) -> None:
        basis, last = layers[-2:]
        first, second = self.arrays(rank)
        basis.kernel.assign(first)
        ends = np.cumsum([int(cell.kernel.shape[1]) for cell in cells_of(last)])
        parts = np.split(second, ends[:-1], axis=1)
        for old, new, part in zip(directions_of(self._place.layer), directions_of(last), parts, strict=True):
            new.cell.kernel.assign(part)
            # States of a stateful layer are none of its variables.
            held = [[*each.variables, *keras.tree.flatten(each.states or [])] for each in (old, new)]
            for before, after in zip(*held, strict=True):
                if after is not new.cell.kernel:
                    after.assign(before)


def _again(layer: Any) -> Any:
    """The layer, not built yet."""
    with configuration(layer) as config:
        # Keras would build the directions of a Bidirectional for as many inputs as they had.
        held = {key: config[key] for key in ("layer", "backward_layer") if isinstance(config.get(key), dict)}
        unbuilt = {key: {name: v for name, v in each.items() if name != "build_config"} for key, each in held.items()}
        return type(layer).from_config({**config, **unbuilt})
