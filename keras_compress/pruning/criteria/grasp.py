"""GraSP: which weights the flow of gradients needs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_compress.core import keras_private
from keras_compress.core.registry import register
from keras_compress.core.warn import warn
from keras_compress.data.examples import Examples
from keras_compress.data.fit_loss import FitLoss, Loss
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
        temperature: What the logits are divided by before each crossentropy, > 0; probabilities are turned into logits
            first. Other losses are taken as they are: where no output has a crossentropy of Keras's, a warning says
            that the temperature does nothing. 1 leaves all losses as they are.

    **Reference**: Wang, Zhang and Grosse, "Picking winning tickets before training by preserving gradient flow" (2020),
    equation 8 and algorithm 1; temperature 200 as in the authors' code.
    **Deviations**: g is that of all examples in both factors; BatchNormalization as in inference.
    """

    needs = frozenset({"inputs", "targets"})

    def __init__(self, temperature: float = 200.0) -> None:
        self.temperature = check_number("temperature", temperature)

    def scores(self, scored: ScoredModel, examples: Examples) -> Scores:
        losses = _Tempered(self.temperature)
        tempered = replace(examples, loss=losses.of(examples.loss))
        gradients = LossGradients(scored, tempered.loss)
        vector = gradients.mean(tempered)
        products = weighted_mean((gradients.times(batch, vector), size_of(batch)) for batch in tempered)
        losses.say_if_none()
        return [each.values() * p for each, p in zip(scored.weights, as_arrays(products), strict=True)]

    def get_config(self) -> dict[str, Any]:
        return {"temperature": self.temperature}


class _Tempered:
    """Losses whose logits are divided by a temperature, each output's own."""

    def __init__(self, temperature: float) -> None:
        self._temperature, self._found = temperature, False

    def of(self, loss: Loss | None) -> Loss | None:
        """The tempered loss."""
        return loss.changed(self._change) if isinstance(loss, FitLoss) and self._temperature != 1.0 else loss

    def _change(self, loss: Any) -> Callable[[Any], Any] | None:
        kind = _crossentropy(loss)
        if kind is None:
            return None
        self._found = True
        name, of_logits = kind
        divide = _divided_logits if of_logits else _divided_sigmoid if "binary" in name else _divided_softmax
        return lambda outputs: divide(outputs, self._temperature)

    def say_if_none(self) -> None:
        """Warn where no loss was one that has logits."""
        if not self._found and self._temperature != 1.0:
            warn(
                f"GraSP: temperature={self._temperature:g} does nothing, as no loss is a crossentropy of Keras's "
                "(temperature=1 says so)"
            )


def _crossentropy(loss: Any) -> tuple[str, bool] | None:
    """Name of a crossentropy in small letters, and whether it is of logits; `None` for other losses."""
    own = loss.get_config() if isinstance(loss, keras.losses.Loss) and not hasattr(loss, "fn") else {}
    while True:
        if hasattr(loss, "fn"):
            own, loss = {**keras_private.arguments_of_loss(loss), **own}, loss.fn
        elif isinstance(loss, functools.partial):
            own, loss = {**loss.keywords, **own}, loss.func
        elif hasattr(loss, "__wrapped__"):
            loss = loss.__wrapped__
        else:
            break
    name = str(getattr(loss, "__name__", type(loss).__name__)).replace("_", "").lower()
    return (name, bool(own.get("from_logits"))) if "crossentropy" in name else None


def _divided_logits(logits: Any, temperature: float) -> Any:
    return ops.divide(logits, temperature)


def _divided_softmax(probabilities: Any, temperature: float) -> Any:
    # The logarithms are logits but for a number that is the same for all classes.
    return ops.softmax(ops.log(ops.maximum(probabilities, _LEAST)) / temperature)


def _divided_sigmoid(probabilities: Any, temperature: float) -> Any:
    inside = tf.clip_by_value(probabilities, _LEAST, 1.0 - _LEAST)
    return ops.sigmoid((ops.log(inside) - ops.log1p(-inside)) / temperature)
