"""GraSP: which weights the flow of gradients needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_compress.core.registry import register
from keras_compress.data.examples import Examples, Loss
from keras_compress.pruning.criteria.gradients import LossGradients, as_arrays, size_of, weighted_mean
from keras_compress.pruning.criteria.saliency import Saliency, Scores, check_number
from keras_compress.pruning.scored import ScoredModel

_LEAST = 1e-7


@register("weight_criterion")
class GraSP(Saliency):
    """`w (H g)`: by how much less the gradient's square would be without the weight, to first order.

    g is the gradient of the mean loss over all examples and H its Hessian. The paper gives a weight `S = -w (H g)` and
    removes those where S is largest, which are the lowest here: what hinders the gradient most goes first. Scores may
    be below 0. Meant for a network before it is trained.

    Args:
        temperature: What the logits are divided by before a crossentropy, > 0; probabilities are turned into logits
            first. Other losses are taken as they are.

    **Reference**: Wang, Zhang and Grosse, "Picking winning tickets before training by preserving gradient flow" (2020),
    equation 8 and algorithm 1; temperature 200 as in the authors' code.
    **Deviations**: g is that of all examples in both factors; BatchNormalization as in inference.
    """

    needs = frozenset({"inputs", "targets"})

    def __init__(self, temperature: float = 200.0) -> None:
        self.temperature = check_number("temperature", temperature)

    def scores(self, scored: ScoredModel, examples: Examples) -> Scores:
        tempered = replace(examples, loss=_tempered(examples.loss, self.temperature))
        gradients = LossGradients(scored, tempered.loss)
        vector = gradients.mean(tempered)
        products = weighted_mean((gradients.times(batch, vector), size_of(batch)) for batch in tempered)
        return [each.values() * p for each, p in zip(scored.weights, as_arrays(products), strict=True)]

    def get_config(self) -> dict[str, Any]:
        return {"temperature": self.temperature}


def _tempered(loss: Loss | None, temperature: float) -> Loss | None:
    """A loss whose logits are divided by the temperature; the loss itself where it has none."""
    name = str(getattr(loss, "__name__", type(loss).__name__)).replace("_", "").lower()
    if loss is None or "crossentropy" not in name or temperature == 1.0:
        return loss
    own = loss.get_config() if isinstance(loss, keras.losses.Loss) else {}
    divide = _divided_logits if own.get("from_logits") else _divided_sigmoid if "binary" in name else _divided_softmax
    return lambda targets, outputs: loss(targets, divide(outputs, temperature))


def _divided_logits(logits: Any, temperature: float) -> Any:
    return ops.divide(logits, temperature)


def _divided_softmax(probabilities: Any, temperature: float) -> Any:
    # The logarithms are logits but for a number that is the same for all classes.
    return ops.softmax(ops.log(ops.maximum(probabilities, _LEAST)) / temperature)


def _divided_sigmoid(probabilities: Any, temperature: float) -> Any:
    inside = tf.clip_by_value(probabilities, _LEAST, 1.0 - _LEAST)
    return ops.sigmoid((ops.log(inside) - ops.log1p(-inside)) / temperature)
