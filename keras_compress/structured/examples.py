"""Data to score channels with: batches of inputs and targets, and a loss."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

Batch = tuple[Any, Any]
Loss = Callable[[Any, Any], Any]
BATCH_SIZE = 64


@dataclass(frozen=True)
class Examples:
    """Inputs and targets for criteria that need them.

    Attributes:
        data: `(x, y)` arrays, an array `x` where no targets are needed, or an iterable of such batches that can be
            gone through more than once (a `tf.data.Dataset`, a list).
        loss: Keras loss `(y_true, y_pred) -> loss of each example or their mean`.
    """

    data: Any = None
    loss: Loss | None = None

    @classmethod
    def for_model(cls, model: keras.Model, data: Any, loss: Any, needs: Collection[str], who: str) -> Examples:
        """Checked examples.

        Args:
            model: Whose compiled loss is the default.
            data: See `Examples`.
            loss: Loss or its name, `None` for the compiled one.
            needs: `"inputs"`, `"targets"`, or nothing.
            who: What needs them, for the message.

        Raises:
            ValueError: If what is needed is not there.
        """
        if "inputs" in needs and data is None:
            wanted = "data=(x, y)" if "targets" in needs else "data=x"
            raise ValueError(f"Expected `{wanted}`, which {who} needs to score channels. Received: data=None")
        found = keras.losses.get(loss) if loss is not None else _compiled_loss(model)
        if "targets" in needs:
            if found is None:
                raise ValueError(
                    f"Expected a loss, which {who} needs: compile the model, or pass `loss=`. Received: a model without"
                )
            first = next(iter(cls(data)), None)
            if first is None or first[1] is None:
                raise ValueError(f"Expected `data=(x, y)` with targets, which {who} needs. Received: inputs only")
        return cls(data, found)

    def __iter__(self) -> Iterator[Batch]:
        """`(inputs, targets)` of each batch; targets are `None` where there are none."""
        if isinstance(self.data, np.ndarray) or _is_pair(self.data):
            x, y = self.data if _is_pair(self.data) else (self.data, None)
            for start in range(0, len(x), BATCH_SIZE):
                part = slice(start, start + BATCH_SIZE)
                yield x[part], None if y is None else y[part]
            return
        batches: Iterable[Any] = () if self.data is None else self.data
        for batch in batches:
            yield (batch[0], batch[1]) if isinstance(batch, (tuple, list)) else (batch, None)


def _is_pair(data: Any) -> bool:
    return isinstance(data, tuple) and len(data) == 2 and all(hasattr(part, "shape") for part in data)


def _compiled_loss(model: keras.Model) -> Loss | None:
    loss = getattr(model, "loss", None)
    return None if loss is None or isinstance(loss, (dict, list)) else keras.losses.get(loss)
