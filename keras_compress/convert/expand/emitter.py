"""Puts calls into a flat graph, each taken apart until the integer kernels know what is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import ops, tree
from numpy.typing import NDArray

from keras_compress.convert.expand.expansion import expansion_of
from keras_compress.convert.expand.weights import Owners, frozen
from keras_compress.convert.lstm.form import RecurrentForm
from keras_compress.core import keras_private
from keras_compress.core.transform import IntegerWeight
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph
from keras_compress.graph.model import copy_layer, inner, slots_in
from keras_compress.graph.trace import trace
from keras_compress.quantizers.kinds import INFERENCE_IDENTITY

Tensor = Any
# Sizes of a batch that stand for any: a tensor whose length divides by one of them is seldom met.
_BATCHES = (61, 67, 71, 73, 79, 83, 89, 97, 101, 103)


class Emitter:
    """Builds the flat graph of a model, in which every call is one that freezing and lowering know.

    Calling an emitter puts one call into the graph. Layers and operations of the expansion table are expanded;
    layers and models that users wrote are traced, and what they call is put in their place.

    Attributes:
        made: Names of the layers that come out of expansions; the user's model has no points inside them.
        unknown_batch: The number that stands for the size of the batch in what is being traced, if any does.
        recurrent: How recurrent layers are to be computed.
        mode: What was asked of `convert`, which refusals name.
        measures: Whether each point that comes out of an expansion has a range of 8 bits, as the data have it: training
            knew none.
        notes: What was chosen for them.
        without_operator: Why some of them can only be unrolled.
    """

    def __init__(self, recurrent: RecurrentForm | None = None, mode: str = "int8", measures: bool = False) -> None:
        self.mode, self.measures = mode, measures
        self.made: set[str] = set()
        self.recurrent = recurrent or RecurrentForm()
        self.notes: list[str] = []
        self.without_operator: list[str] = []
        self.unknown_batch: int | None = None
        self._owners = Owners()
        self._names: Counter[str] = Counter()
        self._path: list[str] = []

    def visit(self, call: graph.Call) -> Any:
        """Visitor of `keras_compress.graph.graph.Rebuild`."""
        return self._emit(call.operation, call.args, call.kwargs, self.name(call.path.replace("/", ".")))

    def __call__(self, operation: Any, *args: Any, name: str = "", **kwargs: Any) -> Any:
        """Call a layer or Keras operation on tensors of the new graph.

        Args:
            operation: Layer, wrapped or not, or operation.
            args: Its arguments.
            name: Name of the call inside the layer that is being expanded; that of the operation by default.
            kwargs: Its arguments.
        """
        return self._emit(operation, args, kwargs, self.name(name or operation.name))

    def new(self, layer: keras.layers.Layer, *args: Any, name: str = "", **kwargs: Any) -> Any:
        """The same with a layer that was made for this place, in float32: it is called itself, where others are copied.

        Args:
            layer: Nobody else's.
            args: Its arguments.
            name: As above.
            kwargs: Its arguments.
        """
        return self._emit(layer, args, kwargs, self.name(name or layer.name), new=True)

    def name(self, name: str) -> str:
        """Path of something with this name inside the layer that is being expanded."""
        return ".".join(filter(None, [*self._path[-1:], name]))

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Names are inside `name`, itself inside the layer that is being expanded."""
        self._path.append(self.name(name))
        try:
            yield
        finally:
            self._path.pop()

    def weight(self, variable: keras.Variable, channel_axes: tuple[int, ...] = (-1,)) -> IntegerWeight:
        """The integers of a variable: by the transforms of the wrapper around it, or else 8 bits, symmetric.

        Args:
            variable: A weight of the layer that is being expanded.
            channel_axes: Its output-channel axes, where no slot tells them.
        """
        return self._owners.integers(variable, channel_axes)

    def real(self, variable: keras.Variable) -> NDArray[Any] | None:
        """What the layer that is being expanded sees as a variable; `None` where that is on a grid of its own."""
        return self._owners.real(variable)

    def dense(
        self,
        inputs: Tensor,
        weight: IntegerWeight,
        bias: NDArray[Any] | None = None,
        name: str = "dense",
    ) -> Tensor:
        """A Dense layer with these integers, `(inputs, units)`, on the last axis."""
        units = weight.integers.shape[-1]
        # The values follow: nothing is gained by drawing random ones first. A frozen layer has a bias in any case.
        layer = keras.layers.Dense(units, kernel_initializer="zeros", name="dense")
        layer.build(inputs.shape)
        if bias is not None:
            layer.bias.assign(np.asarray(bias, np.float32).reshape(-1))
        return self.new(frozen(layer, weight), inputs, name=name)

    def affine(
        self,
        inputs: Tensor,
        factor: NDArray[Any] | None = None,
        offset: NDArray[Any] | None = None,
        name: str = "affine",
    ) -> Tensor:
        """`factor * inputs + offset`, one number for each channel of the last axis.

        It folds into the layer before it where it can, exactly; else it becomes a 1x1 depthwise convolution.
        """
        layer = keras.layers.BatchNormalization(epsilon=0.0, name="affine")
        layer.build(inputs.shape)
        shape = (inputs.shape[-1],)
        layer.gamma.assign(np.broadcast_to(1.0 if factor is None else np.asarray(factor).reshape(-1), shape))
        layer.beta.assign(np.broadcast_to(0.0 if offset is None else np.asarray(offset).reshape(-1), shape))
        return self.new(layer, inputs, name=name)

    def apply(self, function: Callable[..., Any], *inputs: Tensor, name: str) -> Any:
        """Put what a function of Keras operations does with tensors into the graph."""
        with self.inside(name):
            made = self._single(function, inputs)
            if made is not None:
                return made
            traced = trace(function, inputs, "traced")
            return graph.Rebuild(self.visit, flat=True).run(traced, list(inputs), "", 1)

    def _single(self, function: Callable[..., Any], inputs: Sequence[Tensor]) -> Any:
        """What a function does with tensors, where that is one operation of which nothing is taken apart."""
        with keras_private.names_counted_anew():
            outputs = function(*inputs)
        first = tree.flatten(outputs)[0]
        if keras_private.made_by(first) is None:
            return None
        node = keras_private.call_node(first)
        operation, given = node.operation, tree.flatten((node.arguments.args, node.arguments.kwargs))
        of_inputs = list(map(id, node.input_tensors)) == list(map(id, inputs))
        holds = any(isinstance(each, keras.Variable) for each in given)
        if not of_inputs or holds or isinstance(operation, keras.layers.Layer) or expansion_of(operation) is not None:
            return None
        operation.name = self._unique(self.name(operation.name))
        self.made.add(operation.name)
        return outputs

    def _emit(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str, new: bool = False) -> Any:
        if not any(isinstance(a, keras.KerasTensor) for a in tree.flatten((args, kwargs))):
            return operation(*args, **kwargs)  # of constants only
        body = inner(operation) if isinstance(operation, keras.layers.Layer) else operation
        if type(body).__name__ in INFERENCE_IDENTITY and len(args) == 1:
            return args[0]
        if isinstance(operation, Compressed):
            if operation.input_point is not None:
                # Only in a traced `call`: in graphs it was put before the layer already.
                args = (self._emit(operation.input_point, args[:1], {}, f"{name}.input"), *args[1:])
                operation = operation.remade(operation.transforms, input_point=None)
            self._owners.add(operation)
        expansion = expansion_of(body)
        if expansion is not None and expansion.applies(body, args, kwargs):
            with self._expanding(name):
                return expansion.expand(self, body, *args, **kwargs)
        if graph.is_graph(body):
            # Inside a wrapper such as TimeDistributed; any other nested model was put in line before.
            tensors = [a for a in tree.flatten((args, kwargs)) if isinstance(a, keras.KerasTensor)]
            with self.inside(name.rpartition(".")[2]):
                return graph.Rebuild(self.visit, flat=True).run(body, tensors, "", 1)
        if isinstance(body, keras.layers.Layer) and is_users(body) and not hasattr(body, "plain_operations"):
            return self._traced(body, args, kwargs, name)
        return self._primitive(operation, args, kwargs, name, new)

    @contextmanager
    def _expanding(self, name: str) -> Iterator[None]:
        before, self._path = self._path, [self._unique(name)]
        try:
            yield
        finally:
            self._path = before

    def _primitive(
        self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str, new: bool = False
    ) -> Any:
        if new:
            copied = operation
        elif isinstance(operation, keras.layers.Layer):
            slots = slots_in(operation)
            owned = (
                not isinstance(operation, Compressed)
                and len(slots) == 1
                and self._owners.knows(slots[0].variable(operation))
            )
            viewed = not owned and _may_be_viewed(operation)
            copied = keras_private.view_of(operation) if viewed else _in_float32(operation)
            if owned:
                copied = frozen(copied, self._owners.integers(slots[0].variable(operation), slots[0].channel_axes))
        else:
            copied = type(operation).from_config(operation.get_config())
            # A variable would be left behind when the graph is saved.
            args, kwargs = tree.map_structure(_value, (args, kwargs))
        copied.name = self._unique(name)
        if isinstance(copied, Compressed):
            # Exported without the wrapper, where no other layer may have the name.
            copied.layer.name = copied.name
        if self._path:
            self.made.add(copied.name)
        if isinstance(copied, keras.layers.Layer) and not kwargs:
            return graph.written(copied, *args)
        return copied(*args, **kwargs)

    def _unique(self, name: str) -> str:
        """`name`, or `name.call1`, ... where it is taken."""
        count = self._names[name]
        self._names[name] += 1
        return f"{name}.call{count}" if count else name

    def _traced(self, layer: keras.layers.Layer, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
        """What a user's layer calls, in its place."""
        flat = tree.flatten((args, kwargs))
        symbolic = [a for a in flat if isinstance(a, keras.KerasTensor)]

        def call(*fresh: Any) -> Any:
            tensors = iter(fresh)
            filled = [next(tensors) if isinstance(a, keras.KerasTensor) else a for a in flat]
            given, named = tree.pack_sequence_as((args, kwargs), filled)
            if keras_private.takes_training(layer):
                named = {**named, "training": False}
            with keras.StatelessScope(state_mapping=self._owners.values(layer)):
                return layer.call(*given, **named)

        batch = None
        try:
            traced = trace(call, symbolic, "traced")
        except Exception as error:
            traced, batch = self._traced_with_batch(layer, call, symbolic)
            if traced is None and not layer.variables:
                # Without weights it can stay as it is: a float island, which the report lists.
                return self._primitive(layer, args, kwargs, name)
            if traced is None:
                raise ValueError(
                    "Expected layers that compute with Keras layers and `keras.ops`, so that their parts can be "
                    f"lowered to integers. Received: {type(layer).__name__} at {name!r}, whose `call` fails on symbolic"
                    f" tensors: {_first_line(error)}. Use `keras.ops` in place of `tf` there, or convert with "
                    "mode='float32'."
                ) from error
        with self._expanding(name), self._of_batch(batch):
            return graph.Rebuild(self._visit_traced, flat=True).run(traced, symbolic, "", 1)

    def _traced_with_batch(
        self, layer: keras.layers.Layer, call: Callable[..., Any], symbolic: list[Tensor]
    ) -> tuple[keras.Model | None, int | None]:
        """The same on a batch of a certain size, which a `call` that asks for it (`ops.shape(x)[0]`) may need."""
        sizes = {n for t in (*symbolic, *layer.variables) for n in t.shape if n}
        batch = next((n for n in _BATCHES if not any(size % n == 0 for size in sizes)), None)
        if batch is None or any(t.shape[0] is not None for t in symbolic):
            return None, None
        fresh = [keras.KerasTensor((batch, *t.shape[1:]), t.dtype) for t in symbolic]
        try:
            return trace(call, fresh, "traced"), batch
        except Exception:  # noqa: BLE001 (anything that a user's `call` raises; the first error is told)
            return None, None

    @contextmanager
    def _of_batch(self, batch: int | None) -> Iterator[None]:
        before, self.unknown_batch = self.unknown_batch, batch
        try:
            yield
        finally:
            self.unknown_batch = before

    def _visit_traced(self, call: graph.Call) -> Any:
        if self.unknown_batch is not None:
            args, kwargs = tree.map_structure(self._of_one_sample, (call.args, call.kwargs))
            call = replace(call, args=args, kwargs=kwargs)
        return self.visit(call)

    def _of_one_sample(self, argument: Any) -> Any:
        """A constant that was made for each sample of a batch, once."""
        shape = getattr(argument, "shape", None)
        if isinstance(argument, keras.KerasTensor) or not shape or shape[0] != self.unknown_batch:
            return argument
        values = np.asarray(argument)
        if not (values == values[:1]).all():
            raise ValueError(
                f"Expected constants that are the same for each sample. Received: others, in {self.name('')!r}"
            )
        return values[:1]


def _value(argument: Any) -> Any:
    return ops.convert_to_numpy(argument) if isinstance(argument, keras.Variable) else argument


def is_users(layer: keras.layers.Layer) -> bool:
    """Whether the `call` of a layer was written outside Keras's own layers and this package."""
    if isinstance(layer, keras.layers.Lambda):
        return True
    owner = next((cls for cls in type(layer).__mro__ if "call" in vars(cls)), type(layer))
    in_keras = owner.__module__.startswith("keras.") and ".applications." not in owner.__module__
    return not (in_keras or owner.__module__.startswith("keras_compress."))


def _may_be_viewed(layer: keras.layers.Layer) -> bool:
    """Whether a layer need not be copied: freezing reads it, and the frozen model gets its own where it has weights."""
    kerass = type(layer).__module__.startswith("keras.src.layers.")
    return kerass and graph.computes_in_float32(layer) and layer.built and not keras_private.sub_layers(layer)


def _in_float32(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A copy that computes in float32, whatever the policy it was trained under."""
    copied = copy_layer(layer)
    body = inner(copied)
    if body.compute_dtype not in (None, "float32"):
        body.dtype_policy = keras.DTypePolicy("float32")
    return copied


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
