"""A model as one graph without nested models and layers that users wrote."""

from __future__ import annotations

from typing import Any

import keras

from keras_compress.core import keras_private
from keras_compress.core.kinds_of_layers import is_user_written
from keras_compress.graph import graph
from keras_compress.graph.trace import as_graph, trace


def flat_graph(model: keras.Model, batch: Any = None) -> keras.Model:
    """A Functional model without nested models, of the very layers of `model`: what is set in it is set in both.

    Layers and models that users wrote are traced, as far as their `call` runs on symbolic tensors.

    Args:
        model: Functional, Sequential or subclassed.
        batch: See `as_graph`.

    Raises:
        ValueError: See `as_graph`.
    """
    outer = as_graph(model, batch)

    def run(*fresh: Any) -> Any:
        return graph.Rebuild(_open, flat=True).run(outer, list(fresh), "", 0)

    return trace(run, outer.inputs, model.name, [tensor.name for tensor in outer.inputs])


def _open(call: graph.Call) -> Any:
    layer = call.operation
    if not is_user_written(layer) or keras_private.own_variables(layer):
        return call.run()
    kwargs = {**call.kwargs, "training": False} if keras_private.takes_training(layer) else call.kwargs
    try:
        return layer.call(*call.args, **kwargs)
    except Exception:
        # Its `call` needs values: it stays one layer.
        return call.run()
