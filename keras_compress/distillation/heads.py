"""What the outputs of a model are: classes, labels or numbers; logits of them, whatever the model gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import ops, tree

from keras_compress.core import keras_private
from keras_compress.core.kinds_of_layers import is_graph
from keras_compress.distillation.loss import KINDS, Shape
from keras_compress.graph.graph import functional

Tensor = Any
# Probabilities closer to 0 (or 1) than this have no logarithm worth learning.
_LEAST = 1e-7
_REGRESSION = {
    *("meansquarederror", "meanabsoluteerror", "meanabsolutepercentageerror", "meansquaredlogarithmicerror"),
    *("mse", "mae", "mape", "msle", "huber", "logcosh", "poisson", "cosinesimilarity"),
}
_OF_LABELS = {"binarycrossentropy", "binaryfocalcrossentropy"}
# Layers that change the form of an output, or its grid, not what it is.
_LOOKED_THROUGH = {"Reshape", "Flatten", "Permute", "Dropout", "Identity", "Cropping1D", "QuantizeActivation"}


@dataclass(frozen=True)
class Head:
    """One output of a model.

    Attributes:
        kind: `"softmax"`, `"sigmoid"` or `"linear"`.
        probabilities: Whether the model gives probabilities, and not the logits of them.
        guessed: Whether neither the model nor its user says the kind, so that another model may.
    """

    kind: str
    probabilities: bool = False
    guessed: bool = False

    def logits(self, values: Tensor) -> Tensor:
        """Logits of an output in float32; numbers as they are.

        Of probabilities it is what the softmax or sigmoid read, where it can be seen: a logarithm knows none below
        1e-7, to which a temperature of 4 gives 2 per cent, and gives them no gradient.

        >>> [round(float(n), 4) for n in Head("softmax", True).logits(ops.array([[0.25, 0.75]]))[0]]
        [-1.3863, -0.2877]
        """
        given, values = values, ops.cast(values, "float32")
        if not self.probabilities or self.kind == "linear":
            return values
        kept = keras_private.logits_of(given)
        if kept is not None:
            return ops.cast(kept, "float32")
        least = ops.clip(values, _LEAST, 1.0 - _LEAST)
        return ops.log(least) if self.kind == "softmax" else ops.log(least) - ops.log(1.0 - least)


def heads_of(graph: keras.Model, kinds: Sequence[str | None], losses: Any = None) -> list[Head]:
    """The heads of a model, in Keras's order.

    Args:
        graph: The model, as a graph.
        kinds: What they are, `None` for one that is to be found: by its activation, by the loss, or else scores of
            classes where there are several, a number where there is one.
        losses: As for `compile`, structured as the outputs where there are several.
    """
    of_losses = _losses_of(losses, graph)
    made = [_activation(tensor) for tensor in graph.outputs]
    for name, kind, loss, each in zip(keys_of(graph), kinds, of_losses, made, strict=True):
        _check_classes_are_last(name, kind, loss, each)
    return [
        _head(each.name, kind, loss, tensor.shape)
        for each, kind, loss, tensor in zip(made, kinds, of_losses, graph.outputs, strict=True)
    ]


def _check_classes_are_last(name: str, kind: str | None, loss: Any, made: _Activation) -> None:
    """Every loss of classes, and the temperature, are along the last axis of an output."""
    axis = loss.get_config().get("axis", -1) if isinstance(loss, keras.losses.Loss) else -1
    of_loss = "crossentropy" in _name(loss) and axis not in (-1, made.rank - 1)
    if kind == "linear" or not (of_loss or (made.name == "softmax" and not made.classes_last)):
        return
    where = f"by its loss on axis {axis}" if of_loss else f"by the softmax of layer {made.layer!r} elsewhere"
    raise ValueError(
        f"Expected the classes of output {name!r} on its last axis; put layers that move them behind the model, "
        f'or say heads="linear" to compare numbers. Received: classes {where}'
    )


def _head(activation: str | None, kind: str | None, loss: Any, shape: Shape) -> Head:
    if activation in ("softmax", "sigmoid"):
        return Head(kind or activation, probabilities=True)
    if kind is not None:
        return Head(kind, probabilities=kind != "linear" and _of_probabilities(loss))
    name = _name(loss)
    if name in _REGRESSION or activation is not None:
        return Head("linear")
    if name in _OF_LABELS:
        return Head("sigmoid", _of_probabilities(loss))
    if "crossentropy" in name or name == "kldivergence":
        return Head("softmax", _of_probabilities(loss))
    return Head("softmax" if shape[-1] is None or shape[-1] > 1 else "linear", guessed=True)


def agreed(heads: Sequence[Head], name: str, given: str | None = None) -> list[Head]:
    """The heads of one output in several models, of one kind: one that is guessed is what the others say.

    Args:
        heads: One of each model; where none says anything, the first one's guess counts.
        name: Of the output, for the message.
        given: What the user says, which counts.

    Raises:
        ValueError: Where they say different kinds.

    >>> [head.kind for head in agreed([Head("sigmoid", True), Head("softmax", guessed=True)], "tags")]
    ['sigmoid', 'sigmoid']
    """
    said = list(dict.fromkeys(head.kind for head in heads if not head.guessed))
    if given is None and len(said) > 1:
        raise ValueError(
            f"Expected output {name!r} to be of one kind in all models, or `heads`, which says it. "
            f"Received: {' and '.join(map(repr, said))} by their activations or losses"
        )
    kind = given or (said[0] if said else heads[0].kind)
    return [replace(head, kind=kind) for head in heads]


def _of_probabilities(loss: Any) -> bool:
    """Whether a loss takes probabilities: then the model gives them, by an activation that is not seen from here."""
    config = loss.get_config() if isinstance(loss, keras.losses.Loss) else {}
    return "crossentropy" in _name(loss) and not config.get("from_logits", False)


def _losses_of(losses: Any, graph: keras.Model) -> list[Any]:
    """The loss of each output, `None` where none is known."""
    count = len(graph.outputs)
    if isinstance(losses, Mapping):
        return [losses.get(name) for name in keys_of(graph)]
    listed = list(losses) if isinstance(losses, (list, tuple)) else [losses] * count
    return listed if len(listed) == count else [None] * count


def _name(loss: Any) -> str:
    """The plain name of a loss, of its function or class: `"meansquarederror"`."""
    loss = type(loss) if isinstance(loss, keras.losses.Loss) else loss
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", "")
    return str(name).replace("_", "").lower()


def keys_of(graph: keras.Model) -> list[str]:
    """The names of the outputs, in Keras's order: keys of a dict, or names of the layers that make them."""
    structure = keras_private.outputs_structure(functional(graph))
    return sorted(structure) if isinstance(structure, dict) else list(functional(graph).output_names)


def by_output(given: Any, graph: keras.Model) -> list[Any]:
    """What is given for the outputs by name or in a list, in Keras's order; `None` for names that are not there."""
    names = keys_of(graph)
    if isinstance(given, Mapping) and set(given) & set(names):
        return [given.get(name) for name in names]
    return list(tree.flatten(given))


@dataclass(frozen=True)
class _Activation:
    """What an output comes out of: the activation's name, `None` where it is linear or not seen.

    Attributes:
        name: The name.
        layer: Name of the layer that has it.
        rank: Of the output.
        classes_last: Whether the axis that a softmax is along is the output's last.
    """

    name: str | None
    layer: str
    rank: int
    classes_last: bool = True


def _activation(tensor: Any) -> _Activation:
    """The activation that an output comes out of."""
    rank, behind = len(tensor.shape), []
    while True:
        operation, node = keras_private.maker(tensor), keras_private.call_node(tensor)
        if is_graph(operation):
            number = next(n for n, each in enumerate(node.outputs) if each is tensor)
            tensor = functional(operation).outputs[number]
            continue
        name = type(operation).__name__
        if name in ("Softmax", "Sigmoid") or name not in _LOOKED_THROUGH or not node.input_tensors:
            break
        behind.append((operation, node))
        tensor = node.input_tensors[0]
    if name in ("Softmax", "Sigmoid"):
        last = _ends_last(getattr(operation, "axis", -1), tensor, behind)
        return _Activation(name.lower(), operation.name, rank, last)
    activation = getattr(operation, "activation", None)
    found = getattr(activation, "__name__", None) if activation is not None else None
    found = None if found in (None, "linear") else found
    return _Activation(found, operation.name, rank, _ends_last(-1, tensor, behind))


def _ends_last(axis: Any, tensor: Any, behind: Sequence[tuple[Any, Any]]) -> bool:
    """Whether an axis of a tensor is the last one behind these layers, the nearest to the output first."""
    if not isinstance(axis, int):
        return False
    place, shape = axis % len(tensor.shape), tuple(tensor.shape)
    for operation, node in reversed(behind):
        name, after = type(operation).__name__, tuple(node.outputs[0].shape)
        if name == "Permute":
            place = (0, *operation.dims).index(place)
        elif name in ("Reshape", "Flatten"):
            # A length that is only known when the model runs is that of positions, in front.
            alone = all(size == 1 for number, size in enumerate(shape) if number not in (0, place))
            if not (place == len(shape) - 1 or alone) or after[-1] != shape[place]:
                return False
            place = len(after) - 1
        shape = after
    return place == len(shape) - 1


def kinds_given(given: Any, count: int, keys: Sequence[str]) -> list[str | None]:
    """What a user says of the heads, one entry for each.

    Args:
        given: A kind for all, a list or dict of kinds, or `None`.
        count: How many heads there are.
        keys: Their names.

    Raises:
        ValueError: For another kind, or another number of them.
    """
    if isinstance(given, Mapping):
        unknown = set(given) - set(keys)
        listed = [given.get(key) for key in keys]
    else:
        unknown = set()
        listed = list(given) if isinstance(given, (list, tuple)) else [given] * count
    if unknown or len(listed) != count or any(each is not None and each not in KINDS for each in listed):
        raise ValueError(
            f"Expected `heads` out of {KINDS} for the outputs {list(keys)}, one for all or one for each. "
            f"Received: heads={given!r}"
        )
    return listed


def check_fit(teacher: keras.Model, student: keras.Model) -> None:
    """Refuse graphs whose outputs cannot be compared.

    Raises:
        ValueError: For another number, other keys or shapes, or a dict beside a list of other names or another order.
    """
    structures = [keras_private.outputs_structure(functional(each)) for each in (teacher, student)]
    keys = [sorted(each) if isinstance(each, dict) else None for each in structures]
    shapes = [[tuple(t.shape) for t in tree.flatten(each)] for each in structures]
    if None not in keys and keys[0] != keys[1]:
        raise ValueError(f"Expected a teacher with the student's outputs {keys[1]}. Received: {keys[0]}")
    # Two lists are compared by place: Keras numbers layers, so that names say nothing.
    if keys.count(None) == 1 and len(shapes[0]) > 1 and (names := keys_of(student)) != keys_of(teacher):
        raise ValueError(
            f"Expected a teacher with outputs of the student's names, in this order: {names}; a dict's are sorted. "
            f"Received: {keys_of(teacher)}"
        )
    if len(shapes[0]) != len(shapes[1]) or any(map(_differ, *shapes)):
        raise ValueError(f"Expected a teacher with outputs of the student's shapes {shapes[1]}. Received: {shapes[0]}")


def _differ(first: Shape, second: Shape) -> bool:
    return len(first) != len(second) or any(None not in (a, b) and a != b for a, b in zip(first, second, strict=True))
