"""Several models of one task as one: the same inputs for all, their outputs averaged with weights."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import keras
import numpy as np

from keras_compress.core import keras_private
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.suggest import did_you_mean
from keras_compress.graph import graph
from keras_compress.graph.model import check_model, rebuild
from keras_compress.quantizers.activation import MovingAverageRange, QuantizeActivation

Range = tuple[float, float]
VOTES = ("outputs", "softmax")


@global_state_kept()
def join_models(
    models: Sequence[keras.Model], weights: Sequence[float] | None = None, *, vote: str = "outputs"
) -> keras.Model:
    """One model out of several of the same inputs and outputs, such as the members of an ensemble.

    **Forward** `y = sum_k w_k / (sum_j w_j) * f_k(x)`; with `vote="softmax"` of `softmax(f_k(x))`.

    It is made of Keras's own layers: copies of the models, named `member_1`, `member_2`, ..., a Concatenate and a Dense
    layer that is not trained. It is frozen, converted, verified and saved as any model, to one file. Where the models'
    outputs have ranges from training, those of the vote follow from them: it is computed in integers too. An input has
    one range for all, which holds those that training has found. Inputs of one name are one, in whatever order a model
    has them; where each model has a single input, names do not count.

    Args:
        models: Functional or Sequential models with one output, trained or not, with transforms or without. They are
            not changed.
        weights: What each counts, > 0; the same by default.
        vote: `"outputs"`: outputs as they are, logits or probabilities; `"softmax"`: probabilities of models that give
            logits.

    Returns:
        A new model, not compiled.

    Raises:
        ValueError: For no models, inputs of other names, shapes or dtypes than those of the first, other outputs,
            several of them or one whose last axis has no known size, subclassed models, or weights that are not
            above 0.

    **Reference**: Zhu, Dong and Su, "Binary ensemble neural network: more bits per network or more networks per bit?"
    (2019), section 4: the soft vote.
    """
    models = list(models)
    check_members(models, vote)
    shares = shares_of(weights, len(models))
    members = [rebuild(model) for model in models]
    places = [_places(members[0], member) for member in members]
    _share_input_ranges(members, places)
    first = graph.functional(members[0])
    inputs = [keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name.split("/")[0]) for t in first.inputs]
    taken = {t.name for t in inputs}
    outputs, ranges = [], []
    for number, (member, order) in enumerate(zip(members, places, strict=True), 1):
        member.name = _free(f"member_{number}", taken)
        own = [inputs[order.index(position)] for position in range(len(inputs))]
        given = keras.tree.pack_sequence_as(keras_private.inputs_structure(graph.functional(member)), own)
        made = keras.tree.flatten(member(given))[0]
        ranges.append(_range(member))
        outputs.append(
            keras.layers.Softmax(name=_free(f"softmax_{number}", taken))(made) if vote == "softmax" else made
        )
    structure = keras.tree.pack_sequence_as(keras_private.inputs_structure(first), inputs)
    together = _together(ranges, vote)
    return keras.Model(structure, _vote(outputs, shares, together, taken), name="ensemble")


def shares_of(weights: Sequence[float] | None, count: int) -> np.ndarray[Any, Any]:
    """What each of some models counts, of 1 in all.

    Raises:
        ValueError: For weights that are not above 0, or another number of them.
    """
    given = np.ones(count) if weights is None else np.asarray(weights, np.float64)
    if given.shape != (count,) or not np.all(np.isfinite(given) & (given > 0)):
        raise ValueError(f"Expected {count} `weights` > 0. Received: weights={weights}")
    shares: np.ndarray[Any, Any] = given / given.sum()
    return shares


def _vote(outputs: Sequence[Any], shares: np.ndarray[Any, Any], together: Range | None, taken: Collection[str]) -> Any:
    """The weighted average of tensors: one product with a matrix, which every runtime has."""
    if len(outputs) == 1:
        return outputs[0]
    width = outputs[0].shape[-1]
    average = keras.layers.Dense(width, use_bias=False, trainable=False, name=_free("vote", taken))
    average.build((None, width * len(outputs)))
    average.kernel.assign(np.concatenate([share * np.eye(width) for share in shares]))
    joined = keras.layers.Concatenate(name=_free("members", taken))(outputs)
    if together is None:
        return average(joined)
    ends = [_point(together, _free(name, taken)) for name in ("members_range", "vote_range")]
    return ends[1](average(ends[0](joined)))


def _free(name: str, taken: Collection[str]) -> str:
    """A name that no input has.

    >>> _free("vote", {"x"}), _free("vote", {"vote", "vote_1"})
    ('vote', 'vote_2')
    """
    numbered = (f"{name}_{number}" for number in range(1, len(taken) + 2))
    return next(each for each in (name, *numbered) if each not in taken)


def _point(known: Range, name: str) -> QuantizeActivation:
    grid = MovingAverageRange(8, trainable=False)
    grid.set_range(*known)
    return QuantizeActivation(grid, name=name)


def _share_input_ranges(members: Sequence[keras.Model], places: Sequence[Sequence[int]]) -> None:
    """Let what quantizes one input do it alike in all members: on the device it is one tensor."""
    for positions in zip(*places, strict=True):
        pairs = zip(members, positions, strict=True)
        points = [point for member, position in pairs for point in _input_points(member, position)]
        ranges = [found for point in points if (found := _trained_range(point)) is not None]
        if points and len(ranges) == len(points):
            low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
            for point in points:
                point.quantizer.set_range(low, high)


def _input_points(member: keras.Model, position: int) -> list[QuantizeActivation]:
    held = graph.functional(member)
    points = [layer for layer in held.layers if isinstance(layer, QuantizeActivation)]
    return [point for point in points if point.input is held.inputs[position]]


def _range(model: keras.Model) -> Range | None:
    """The range that training has found for a model's output, if it has."""
    point = keras_private.maker(graph.functional(model).outputs[0])
    return _trained_range(point) if isinstance(point, QuantizeActivation) else None


def _trained_range(point: QuantizeActivation) -> Range | None:
    grid = point.quantizer
    if not isinstance(grid, MovingAverageRange) or grid.bits != 8 or not grid.trained():
        return None
    low, high = grid.range()
    return float(low), float(high)


def _together(ranges: Sequence[Range | None], vote: str) -> Range | None:
    """The range of all outputs; an average of them lies in it."""
    known = [each for each in ranges if each is not None]
    if len(known) < len(ranges):
        return None
    if vote == "softmax":
        return 0.0, 255 / 256  # the grid of the softmax kernel
    return min(low for low, _ in known), max(high for _, high in known)


def check_members(models: Sequence[Any], vote: Any) -> None:
    """Refuse models that cannot vote, see `join_models`.

    Raises:
        TypeError, ValueError: For what is no such model.
    """
    if vote not in VOTES:
        raise ValueError(f"Expected `vote` out of {VOTES}. Received: vote={vote!r}{did_you_mean(vote, VOTES)}")
    if not models:
        raise ValueError("Expected at least one model. Received: none")
    for model in models:
        check_model(model)
        if not graph.is_graph(model):
            raise ValueError(
                "Expected Functional or Sequential models. "
                f"Received: {model.name!r} of type {type(model).__name__}, whose inputs are in its code"
            )
    for model in models:
        _check_same(models[0], model)


def _check_same(first: keras.Model, model: keras.Model) -> None:
    """Refuse a model of another task than the first one's."""
    shapes = [[tuple(t.shape) for t in graph.functional(each).outputs] for each in (first, model)]
    if shapes[0] != shapes[1] or len(shapes[0]) != 1:
        raise ValueError(
            "Expected models with one output of the same shape. "
            f"Received: {shapes[0]} of {first.name!r}, {shapes[1]} of {model.name!r}"
        )
    (shape,) = shapes[1]
    if len(shape) < 2 or shape[-1] is None:
        raise ValueError(
            "Expected models whose output has a last axis of known size, such as (None, 10). "
            f"Received: {shape} of {model.name!r}"
        )
    places, inputs = _places(first, model), graph.functional(model).inputs
    wanted = [(tuple(t.shape), t.dtype) for t in graph.functional(first).inputs]
    given = [(tuple(inputs[place].shape), inputs[place].dtype) for place in places]
    if given != wanted:
        raise ValueError(
            "Expected models of the same inputs, in shape and dtype. "
            f"Received: {wanted} of {first.name!r}, {given} of {model.name!r}, in the order of {_input_names(first)}"
        )


def _places(first: keras.Model, model: keras.Model) -> list[int]:
    """Where a model has each input of the first one."""
    wanted, names = _input_names(first), _input_names(model)
    if len(wanted) == 1 == len(names):
        return [0]
    if set(wanted) != set(names):
        raise ValueError(
            "Expected models whose inputs have the same names. "
            f"Received: {wanted} of {first.name!r}, {names} of {model.name!r}"
        )
    return [names.index(name) for name in wanted]


def _input_names(model: keras.Model) -> list[str]:
    """Under what a model takes its inputs, in the order of the graph's."""
    held = graph.functional(model)
    structure = keras_private.inputs_structure(held)
    if isinstance(structure, dict) and len(structure) == len(held.inputs):
        return sorted(structure)
    return [t.name for t in held.inputs]
