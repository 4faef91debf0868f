"""What a rule is, and what it is told and can say about one call of an operation."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np
from keras import tree

from keras_compress.core.registry import entries
from keras_compress.structured.channel_ids import Axes, ChannelIds, Ids

Shape = tuple[int | None, ...]
# Methods by which a layer is written down and told of shapes.
_DESCRIBING = {"get_config", "from_config", "compute_output_shape", "compute_output_spec", "get_build_config"}


class Record(Protocol):
    """Where rules write what they find out; see `keras_compress.structured.dependency`."""

    @property
    def ids(self) -> ChannelIds: ...
    @property
    def allow_inexact(self) -> bool: ...
    @property
    def parts(self) -> list[Ids]: ...
    def left_alone(self, path: str, reason: str) -> None: ...
    def made_by(self, operation: Any, count: int, key: str) -> Ids: ...
    def weight(self, path: str, layer: Any, variable: Any, axis: int, ids: Ids | None, role: str) -> None: ...
    def setting(self, operation: Any, key: Any, ids: Ids, default: Ids | None) -> None: ...
    def product(self, constant: int, axes: tuple[Ids, ...]) -> None: ...
    def reading(self, tensor: Any, axis: int, ids: Ids, operation: Any = None) -> None: ...


@dataclass(frozen=True)
class Visit:
    """One call of an operation.

    Attributes:
        operation: Layer or Keras operation.
        path: Its path.
        tensors: Symbolic input tensors, flat.
        inputs: The channel axes of each.
        outputs: Symbolic output tensors, flat.
        arguments: All positional arguments, tensors and others; the first too where it was given by keyword.
        keywords: The other keyword arguments.
        record: Where findings go.
    """

    operation: Any
    path: str
    tensors: list[Any]
    inputs: list[Axes]
    outputs: list[Any]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    record: Record

    @property
    def shape(self) -> Shape:
        """Shape of the first input."""
        return tuple(self.tensors[0].shape)

    @property
    def output_shape(self) -> Shape:
        """Shape of the first output."""
        return tuple(self.outputs[0].shape)

    @property
    def last(self) -> Ids | None:
        """Channels on the last axis of the first input."""
        return self.inputs[0].get(len(self.shape) - 1)

    def only_last(self, what: str) -> Ids | None:
        """Channels on the last axis of the first input; those on other axes are frozen, as `what` mixes them."""
        self.freeze_axes(0, f"{self.path} {what}", but=len(self.shape) - 1)
        return self.last

    def axes_of(self, tensor: Any) -> Axes:
        """The channel axes of one of the input tensors; none of anything else."""
        return next((axes for t, axes in zip(self.tensors, self.inputs, strict=True) if t is tensor), {})

    def argument(self, name: str) -> Any:
        """What was given for an argument of the operation's `call`, or its default."""
        bound = inspect.signature(self.operation.call).bind(*self.arguments, **self.keywords)
        bound.apply_defaults()
        return bound.arguments[name]

    @property
    def parts(self) -> list[Any]:
        """What is in the first argument, where that is a list: tensors, and arrays of fixed widths."""
        return list(tree.flatten(self.arguments[0] if self.arguments else next(iter(self.keywords.values()))))

    def constants(self) -> list[tuple[int, ...]]:
        """Shapes of arrays among the arguments, or in lists of them."""
        others: list[Any] = []
        for each in (*self.arguments, *self.keywords.values()):
            flat = tree.flatten(each)
            mixed = any(isinstance(leaf, keras.KerasTensor) for leaf in flat)
            others += [leaf for leaf in flat if not isinstance(leaf, keras.KerasTensor)] if mixed else [each]
        return [shape for shape in map(shape_of, others) if shape]

    def channels(self, count: int, key: str = "out") -> Ids:
        """Ids of channels that the layer makes: the same in each call of it."""
        return self.record.made_by(self.operation, count, key)

    def weight(self, variable: Any, axis: int, ids: Ids | None, role: str, part: str = "") -> None:
        """Say that indices of an axis of a weight are channels; `None`: that its width is fixed.

        A variable that is `None` (no bias) says nothing. `part` names channels inside the layer, which are not those
        that it gives away.
        """
        if variable is not None:
            path = f"{self.path}/{part}" if part else self.path
            self.record.weight(path, self.operation, variable, axis % len(variable.shape), ids, role)

    def setting(self, key: Any, ids: Ids | None, default: Ids | None = None) -> None:
        """Say that an entry of the configuration, `"filters"` or `("target_shape", 2)`, counts channels.

        An entry that is `None` stays so where as many channels are left as of its `default`, or as there were.
        """
        if ids is not None:
            self.record.setting(self.operation, key, ids, default)

    def product(self, constant: int, *axes: Ids | int | None) -> None:
        """Count multiplications: `constant` times the number of channels on each axis; fixed widths as numbers."""
        counted = int(constant)
        for axis in axes:
            counted *= axis if isinstance(axis, int) else 1
        self.record.product(counted, tuple(axis for axis in axes if isinstance(axis, np.ndarray)))

    def read(self, number: int = 0, axis: int = -1) -> None:
        """Say that the operation sums over the channels of an input."""
        tensor = self.tensors[number]
        axis %= len(tensor.shape)
        if axis in self.inputs[number]:
            self.record.reading(tensor, axis, self.inputs[number][axis], self.operation)

    def tie(self, first: Ids, second: Ids) -> None:
        """Let channels of the same position live and die together."""
        self.record.ids.tie(first, second)

    def fixed(self, count: int) -> Ids:
        """Ids of channels that cannot be removed, where an axis of fixed width meets one of channels."""
        made = self.record.ids.new(count)
        self.record.ids.freeze(made, f"{self.path} joins it to values of fixed width")
        return made

    def freeze(self, ids: Ids | None, reason: str) -> None:
        """Keep channels."""
        if ids is not None:
            self.record.ids.freeze(ids, reason)

    def freeze_axes(self, number: int, reason: str, but: int | None = None) -> None:
        """Keep the channels on all axes of an input, or on all but one."""
        for axis, ids in self.inputs[number].items():
            if axis != but:
                self.freeze(ids, reason)

    def freeze_all(self, reason: str) -> list[Axes]:
        """Keep the channels of all inputs; the outputs have none. A layer with weights is listed with the reason."""
        if getattr(self.operation, "weights", None):
            self.record.left_alone(self.path, f"{self.path} {reason}")
        for number in range(len(self.inputs)):
            self.freeze_axes(number, f"{self.path} {reason}")
        return [{} for _ in self.outputs]

    def positions(self, shape: Shape) -> int:
        """Number of positions of a tensor without its batch and channel axes; unknown lengths count as 1."""
        return int(np.prod([n or 1 for n in shape[1:-1]], dtype=np.int64))


class Rule:
    """What a kind of operation does with channels.

    Class attributes:
        handles: Names of Keras's own classes of layers and operations, or a user's classes themselves.
    """

    handles: tuple[str | type, ...] = ()

    def outputs(self, visit: Visit) -> list[Axes]:
        """The channel axes of each output; what weights, settings and products there are is told to `visit`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `outputs(visit)`.")


def rule_of(operation: Any) -> Rule | None:
    """The rule for an operation, found by its class or the nearest base class that has one.

    A class that computes by itself, with a `call` or `build` of its own or another of what its base class computes
    with (`convolution_op`), is not what its base class is.
    """
    by_handle = {handle: rule for rule in entries("channel_rule").values() for handle in rule.handles}
    for cls in type(operation).__mro__:
        name = cls.__name__ if cls.__module__.startswith("keras.") else cls
        if name in by_handle:
            found: Rule = by_handle[name]()
            return found
        if _computes(cls):
            return None
    return None


def _computes(cls: type) -> bool:
    """Whether a class changes what its base classes do, beside how it is made and described."""
    own = vars(cls).keys()
    if cls.__module__.startswith("keras."):
        return not own.isdisjoint(("call", "build"))
    bases = [base for base in cls.__mro__[1:] if base.__module__.startswith("keras.")]
    kinds = bases[: bases.index(keras.layers.Layer)] if keras.layers.Layer in bases else bases
    changeable = {name for base in kinds for name in vars(base) if not name.startswith("__")} - _DESCRIBING
    return not own.isdisjoint({"call", "build", "__call__", *changeable})


def outputs_of(visit: Visit) -> list[Axes]:
    """What the rule for an operation says; where there is none, its inputs have to stay as they are."""
    rule = rule_of(visit.operation)
    if rule is None:
        return visit.freeze_all(f"is a {type(visit.operation).__name__}, for which there is no channel rule")
    if getattr(visit.operation, "lora_enabled", False):
        return visit.freeze_all("has a LoRA, whose factors have no channel rule")
    return rule.outputs(visit)


def shape_of(value: Any) -> tuple[int, ...]:
    """Shape of an argument that is no symbolic tensor: `()` for numbers and all that is no array.

    >>> shape_of(2.0), shape_of([1.0, 2.0]), shape_of("same"), shape_of(None)
    ((), (2,), (), ())
    """
    if hasattr(value, "shape"):
        return tuple(value.shape)
    return np.shape(value) if isinstance(value, (list, tuple)) else ()
