"""Data to score weights or channels with: batches of inputs and targets, and a loss."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras

from keras_compress.core.kinds_of_layers import is_graph
from keras_compress.data.fit_loss import FitLoss, Loss
from keras_compress.data.samples import fixed_batch, input_specs, is_list_of_inputs

Batch = tuple[Any, Any]
BATCH_SIZE = 64


@dataclass(frozen=True)
class Examples:
    """Inputs and targets for criteria that need them.

    Attributes:
        data: `(x, y)`, or `x` where no targets are needed: arrays, or for several inputs or outputs tuples, lists or
            dicts of them, `x` alone a dict. Or batches `(x, y)` that can be gone through more than once: a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a list, a function that returns a generator. Sample weights,
            third in a tuple, are not used.
        loss: `(y_true, y_pred) -> loss of each example or their mean`, as `fit` takes it, see `FitLoss`.
        whole_batches: Size of the batches that arrays are cut into where a model takes no other; what is left over is
            left out.
    """

    data: Any = None
    loss: Loss | None = None
    whole_batches: int | None = None

    def __post_init__(self) -> None:
        if self.loss is not None and not isinstance(self.loss, FitLoss):
            object.__setattr__(self, "loss", FitLoss(self.loss))

    @classmethod
    def fed_to(cls, model: keras.Model, data: Any, loss: Loss | None = None) -> Examples:
        """Examples as a model takes them: one array for each of several inputs are no batches, its batch size is kept.

        Args:
            model: The model.
            data: See `Examples`; or a list or tuple of one array for each input, without targets.
            loss: See `Examples`.
        """
        if not (is_graph(model) and model.built):
            return cls(data, loss)
        if len(model.inputs) > 1 and is_list_of_inputs(data, input_specs(model)):
            data = (list(data),)
        return cls(data, loss, fixed_batch(model))

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
            ValueError: If what is needed is not there, or can be gone through only once.
        """
        if not needs:
            return cls(data, None)
        wanted = "data=(x, y)" if "targets" in needs else "data=x"
        if data is None:
            raise ValueError(f"Expected `{wanted}`, which {who} needs. Received: data=None")
        if isinstance(data, Iterator):
            raise ValueError(
                "Expected data that can be gone through more than once: arrays, a dataset, a list of batches, or a "
                f"function that returns a generator. Received: {type(data).__name__}"
            )
        made = cls.fed_to(model, data)
        first = next(iter(made), None)
        if first is None or _length(first[0]) == 0:
            size = made.whole_batches or 1
            least, received = (
                ("one example", "none") if size == 1 else (f"{size} examples, a batch of the model", "fewer")
            )
            raise ValueError(f"Expected `{wanted}` with at least {least}, which {who} needs. Received: {received}")
        found = None
        if "targets" in needs:
            found = _loss(model, loss, who)
            if first[1] is None:
                raise ValueError(f"Expected `data=(x, y)` with targets, which {who} needs. Received: inputs only")
        return replace(made, loss=found)

    def __iter__(self) -> Iterator[Batch]:
        """`(inputs, targets)` of each batch; targets are `None` where there are none."""
        if self.data is None:
            return
        if _is_arrays(self.data):
            for batch in _slices(*_unpacked(self.data), self.whole_batches or BATCH_SIZE):
                if self.whole_batches in (None, _length(batch[0])):
                    yield batch
            return
        for batch in _batches(self.data):
            yield _unpacked(batch)

    def batches_of(self, size: int) -> Iterator[Batch]:
        """The same in smaller batches: each is cut into parts of `size` examples, its last one may have fewer."""
        for x, y in self:
            yield from _slices(x, y, size)


def _is_arrays(data: Any) -> bool:
    """Whether it is all the data, to be cut into batches, and not batches one by one."""
    return hasattr(data, "shape") or isinstance(data, (tuple, Mapping))


def _unpacked(data: Any) -> Batch:
    """`(x, y)` from what Keras's `fit` takes for a batch."""
    x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
    return x, y


def _batches(data: Any) -> Iterable[Any]:
    if isinstance(data, keras.utils.PyDataset):
        return (data[index] for index in range(data.num_batches))
    data = data() if callable(data) else data
    if not isinstance(data, Iterable):
        raise ValueError(
            "Expected `data` as arrays, a dataset, a list of batches, or a function that returns a generator. "
            f"Received: {type(data).__name__}"
        )
    return data


def _slices(x: Any, y: Any, size: int) -> Iterator[Batch]:
    lengths = {_length(each) for each in keras.tree.flatten((x, y)) if each is not None}
    if len(lengths) > 1:
        raise ValueError(f"Expected as many inputs as targets. Received: arrays of {sorted(lengths)} examples")
    for start in range(0, max(lengths, default=0), size):
        part = slice(start, start + size)
        batch = keras.tree.map_structure(lambda each, part=part: None if each is None else each[part], (x, y))
        yield batch[0], batch[1]


def _length(x: Any) -> int:
    """Number of examples."""
    return int(next((each.shape[0] for each in keras.tree.flatten(x)), 0))


def _loss(model: keras.Model, loss: Any, who: str) -> Loss:
    if isinstance(loss, (list, dict)):
        raise ValueError(
            "Expected `loss` as a loss, its name, or a function of all outputs `(y_true, y_pred)`; or none, and a "
            f"model compiled with one for each output. Received: loss={loss!r}"
        )
    compiled = getattr(model, "loss", None)
    if loss is None and compiled is not None:
        return FitLoss(compiled, model)
    found: Loss | None = keras.losses.get(loss)
    if found is None:
        raise ValueError(
            f"Expected a loss, which {who} needs: compile the model, or pass `loss=`. Received: a model without"
        )
    return found
