"""What weighted layers are given while a model runs: of layers that are a product with a matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from keras_compress.core import keras_private
from keras_compress.data.examples import Examples
from keras_compress.graph.as_matrix import AsMatrix, as_matrix
from keras_compress.pruning.criteria.gradients import tensors
from keras_compress.pruning.scored import ScoredModel, ScoredWeight

Tensor = Any
See = Callable[[int, Tensor], None]


def forms(scored: ScoredModel) -> dict[int, AsMatrix]:
    """Number of a weight -> its layer as a product, for those that have such a form."""
    found = {}
    for number, each in enumerate(scored.weights):
        form = as_matrix(each.owner) if each.slot.name.rpartition(".")[2] == "kernel" else None
        if form is not None:
            found[number] = form
    return found


def why_no_form(each: ScoredWeight) -> str:
    """For messages."""
    return f"{type(each.owner).__name__} is no product of its inputs with one matrix; taken by magnitude"


def see_inputs(scored: ScoredModel, examples: Examples, numbers: Mapping[int, Any], see: See) -> None:
    """Run a model over all examples, in inference.

    Args:
        scored: Model and weights.
        examples: Inputs.
        numbers: Numbers of the weights whose layers are watched.
        see: Called with the number of a weight and what its layer is given, in each call.
    """
    watched = {number: scored.weights[number].owner for number in numbers}
    with _watched(watched, see):
        for batch in examples:
            inputs, _ = tensors(batch)
            scored.model(inputs, training=False)


@contextmanager
def _watched(layers: Mapping[int, keras.layers.Layer], see: See) -> Iterator[None]:
    try:
        for number, layer in layers.items():
            keras_private.set_call(layer, _seen(number, layer.call, see))
        yield
    finally:
        for layer in layers.values():
            keras_private.reset_call(layer)


def _seen(number: int, call: Callable[..., Any], see: See) -> Callable[..., Any]:
    def watched(*args: Any, **kwargs: Any) -> Any:
        values = tree.flatten((args, kwargs))[0]
        # In a loop of the graph (`TimeDistributed`) there are no values to see.
        if isinstance(values, tf.__internal__.EagerTensor):
            see(number, values)
        return call(*args, **kwargs)

    return watched
