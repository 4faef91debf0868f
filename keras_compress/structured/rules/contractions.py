"""Products of tensors that are summed over some axes: matrix products, scalar products, Einstein sums."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from keras_compress.core.registry import register
from keras_compress.structured.channel_ids import Axes, Ids
from keras_compress.structured.rules.merges import met_channels
from keras_compress.structured.rules.probe import freeze_mixed
from keras_compress.structured.rules.rule import Rule, Visit, shape_of

# A name for each axis of a tensor: axes of the same name run together.
Names = Sequence[Hashable]


def contracted(visit: Visit, operands: Sequence[tuple[Any, Names]], result: Names) -> Axes:
    """Channel axes of a product of tensors, which is summed over the axes that the result does not have.

    Channels of axes of the same name are tied: a sum over them is the same without those that are 0.
    """
    lengths: dict[Hashable, int] = {}
    for tensor, names in operands:
        for name, length in zip(names, shape_of(tensor), strict=True):
            lengths[name] = max(lengths.get(name, 1), length or 1)
    ids_of: dict[Hashable, Ids] = {}
    for name, length in lengths.items():
        met = [
            visit.axes_of(tensor).get(axis)
            for tensor, names in operands
            for axis, each in enumerate(names)
            if each == name and shape_of(tensor)[axis] == length
        ]
        ids = met_channels(visit, met)
        if ids is not None:
            ids_of[name] = ids
    symbolic = [(tensor, names) for tensor, names in operands if any(tensor is each for each in visit.tensors)]
    for tensor, names in symbolic:
        number = next(number for number, each in enumerate(visit.tensors) if each is tensor)
        for axis in (axis for axis, name in enumerate(names) if name not in result):
            visit.read(number, axis)
    batch = symbolic[0][1][0]
    visit.product(1, *(ids_of.get(name, length) for name, length in lengths.items() if name != batch))
    return {axis: ids_of[name] for axis, name in enumerate(result) if name in ids_of}


@register("channel_rule")
class MatmulRule(Rule):
    """`(..., n, k) @ (..., k, m) -> (..., n, m)`."""

    handles = ("Matmul",)

    def outputs(self, visit: Visit) -> list[Axes]:
        first, second = visit.argument("x1"), visit.argument("x2")
        ranks = len(shape_of(first)), len(shape_of(second))
        if min(ranks) < 2:
            return visit.freeze_all("multiplies it by a vector")
        around: list[Hashable] = list(range(-max(ranks), -2))
        names = ([*around, "row", "sum"], [*around, "sum", "column"])
        operands = [(first, names[0][-ranks[0] :]), (second, names[1][-ranks[1] :])]
        return [contracted(visit, operands, [*around, "row", "column"])]


@register("channel_rule")
class DotRule(Rule):
    """A product of two tensors, summed over one axis of each; the batch runs along."""

    handles = ("Dot",)

    def outputs(self, visit: Visit) -> list[Axes]:
        if not hasattr(visit.operation, "axes"):
            return visit.freeze_all("is a product of NumPy's kind, for which there is no channel rule")
        first, second = visit.tensors
        axes = visit.operation.axes
        axes = [axes, axes] if isinstance(axes, int) else axes
        names: list[list[Hashable]] = []
        for side, (tensor, axis) in enumerate(zip((first, second), axes, strict=True)):
            named: list[Hashable] = ["batch", *((side, each) for each in range(1, len(tensor.shape)))]
            named[axis % len(tensor.shape)] = "sum"
            names.append(named)
        result = [*(n for n in names[0] if n != "sum"), *(n for n in names[1][1:] if n != "sum")]
        return [contracted(visit, list(zip((first, second), names, strict=True)), result[: len(visit.output_shape)])]


@register("channel_rule")
class EinsumRule(Rule):
    """An Einstein sum, by its letters."""

    handles = ("Einsum",)

    def outputs(self, visit: Visit) -> list[Axes]:
        subscripts = visit.operation.subscripts.replace(" ", "")
        if "." in subscripts or "->" not in subscripts:
            return visit.freeze_all("is an Einstein sum whose letters are not all written out")
        inputs, result = subscripts.split("->")
        names = inputs.split(",")
        if any(len(set(each)) < len(each) for each in names):
            return visit.freeze_all("is an Einstein sum over a diagonal")
        operands = [a for a in visit.arguments if shape_of(a) or not isinstance(a, str)]
        return [contracted(visit, list(zip(operands, names, strict=True)), result)]


@register("channel_rule")
class EinsumDenseRule(Rule):
    """A kernel with axes of its own: those that only the result shares are channels that the layer makes."""

    handles = ("EinsumDense",)

    def outputs(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        letters = _letters(layer.equation, len(visit.shape))
        if letters is None:
            return visit.freeze_all("leaves axes at the end of its equation out")
        read, kernel, result = letters
        came = {letter: visit.inputs[0][axis] for axis, letter in enumerate(read) if axis in visit.inputs[0]}
        new = [letter for letter in result if letter in kernel and letter not in read]
        ids_of = dict(came)
        for letter in new:
            ids_of[letter] = visit.channels(layer.kernel.shape[kernel.index(letter)], letter)
        parts = {letter: letter for letter in new[:-1]}
        for axis, letter in enumerate(kernel):
            role = "in" if letter not in result else "through" if letter in read else "out"
            visit.weight(layer.kernel, axis, ids_of.get(letter), role, parts.get(letter, ""))
        axes = {axis: ids_of[letter] for axis, letter in enumerate(result) if letter in ids_of}
        self._bias(visit, result, axes, new, parts)
        self._settings(visit, axes)
        for axis in (axis for axis, letter in enumerate(read) if letter not in result):
            visit.read(axis=axis)
        sizes = {**dict(zip(read, visit.shape, strict=True)), **dict(zip(kernel, layer.kernel.shape, strict=True))}
        visit.product(1, *(ids_of.get(letter, n or 1) for letter, n in sizes.items() if letter != read[0]))
        freeze_mixed(visit, layer.activation, axes)
        return [axes]

    def _bias(self, visit: Visit, result: str, axes: Axes, made: list[str], parts: dict[str, str]) -> None:
        bias = visit.operation.bias
        for axis, ids in axes.items() if bias is not None else ():
            own = axis - len(result) + len(bias.shape)
            if own >= 0 and bias.shape[own] == len(ids):
                visit.weight(bias, own, ids, "out" if result[axis] in made else "through", parts.get(result[axis], ""))

    def _settings(self, visit: Visit, axes: Axes) -> None:
        shape = np.atleast_1d(np.array(visit.operation.partial_output_shape, dtype=object))
        for axis, ids in axes.items():
            place = axis - len(visit.output_shape)
            if -place <= len(shape) and shape[place] is not None:
                visit.setting(("output_shape", place), ids)


def _letters(equation: str, rank: int) -> tuple[str, str, str] | None:
    """Letters of input, kernel and output, with digits for axes at the front that are left out.

    >>> _letters("...a,ab->...b", 3)
    ('01a', 'ab', '01b')
    """
    inputs, result = equation.replace(" ", "").split("->")
    read, kernel = inputs.split(",")
    if read.endswith("..."):
        return None
    if read.startswith("..."):
        front = "".join(str(n) for n in range(rank - len(read) + 3))
        read, result = read.replace("...", front), result.replace("...", front)
    return read, kernel, result
