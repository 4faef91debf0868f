"""A loss as `fit` takes it, for what goes through examples by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_compress.core import keras_private

Loss = Callable[[Any, Any], Any]
# From a loss to what its outputs go through first; `None`: nothing.
Change = Callable[[Any], Callable[[Any], Any] | None]


class FitLoss:
    """The loss that `fit` would take of a batch: of each output its own, with their weights, but without regularizers.

    Targets `(N,)` and outputs `(N, 1)` are brought to one rank, also for functions; targets get the dtype of the
    outputs, and masks count. A loss with `reduction="sum"` is divided by the number of examples: the mean over all
    examples then is that of the batches, weighted by their sizes.

    Args:
        losses: A loss, its name or a function; for several outputs a list or dict of them, which needs `model`. A
            function alone is of all outputs, unless there is a model.
        model: Compiled model whose outputs they are of.
        change: From a loss to what its outputs go through first.
    """

    def __init__(self, losses: Any, model: keras.Model | None = None, change: Change | None = None) -> None:
        self.losses, self._model = losses, model
        leaves = _mapped(losses, lambda each: _OfOutput(each, change))
        self._loss: Loss = leaves
        if model is not None:
            names, weights = getattr(model, "output_names", None), keras_private.loss_weights(model)
            self._loss = keras_private.compile_loss(leaves, weights, names)

    def __call__(self, targets: Any, outputs: Any) -> Any:
        return self._loss(targets, outputs)

    def changed(self, change: Change) -> FitLoss:
        """The same of outputs that go through something first."""
        return FitLoss(self.losses, self._model, change)


class _OfOutput(keras.losses.Loss):
    """The loss of one output."""

    def __init__(self, loss: Any, change: Change | None) -> None:
        super().__init__(name=str(getattr(loss, "name", "loss")))
        self._given, self._change = loss, change

    def __call__(self, targets: Any, outputs: Any, sample_weight: Any = None) -> Any:
        if _of_all_outputs(self._given, targets, outputs):
            return self._given(targets, outputs)
        loss = keras_private.loss_of(self._given, targets, outputs)
        change = None if self._change is None else self._change(loss)
        if change is not None:
            outputs = keras_private.with_mask_of(change(outputs), outputs)
        value = loss(targets, outputs, sample_weight)
        if loss.reduction != "sum":
            return value
        count = keras.ops.shape(keras.tree.flatten(outputs)[0])[0]
        return value / keras.ops.cast(count, value.dtype)


def _of_all_outputs(loss: Any, targets: Any, outputs: Any) -> bool:
    """Whether it is a function that is given outputs of another structure than the targets'."""
    if isinstance(loss, (str, keras.losses.Loss)) or not callable(loss) or not keras.tree.is_nested(outputs):
        return False
    try:
        keras.tree.assert_same_structure(targets, outputs)
    except (ValueError, TypeError):
        return True
    return False


def _mapped(losses: Any, make: Callable[[Any], Any]) -> Any:
    """A structure of losses with each one replaced; outputs without a loss stay so."""
    if isinstance(losses, dict):
        return {name: _mapped(each, make) for name, each in losses.items()}
    if isinstance(losses, (list, tuple)):
        return [_mapped(each, make) for each in losses]
    return None if losses is None else make(losses)
