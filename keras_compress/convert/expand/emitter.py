"""Puts calls into a flat graph, each taken apart until the integer kernels know what is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops, tree
from numpy.typing import NDArray

from keras_compress.convert.expand.expansion import expansion_of
from keras_compress.convert.expand.weights import Owners, frozen
from keras_compress.core import graph
from keras_compress.core.model import copy_layer, inner, slots_in
from keras_compress.core.trace import trace
from keras_compress.core.transform import IntegerWeight
from keras_compress.core.wrapper import Compressed

Tensor = Any
# Layers that do nothing in inference.
_INFERENCE_IDENTITY = (
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "GaussianNoise",
    "GaussianDropout",
    "AlphaDropout",
    "ActivityRegularization",
    "Identity",
    # What it tells training, `freeze` knows.
    "RoundAverage",
)


class Emitter:
    """Builds the flat graph of a model, in which every call is one that freezing and lowering know.

    Calling an emitter puts one call into the graph. Layers and operations of the expansion table are expanded;
    layers and models that users wrote are traced, and what they call is put in their place.

    Attributes:
        made: Names of the layers that come out of expansions; the user's model has no points inside them.
    """

    def __init__(self) -> None:
        self.made: set[str] = set()
        self._owners = Owners()
        self._names: Counter[str] = Counter()
        self._path: list[str] = []

    def visit(self, call: graph.Call) -> Any:
        """Visitor of `keras_compress.core.graph.Rebuild`."""
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

    def name(self, name: str) -> str:
        """Path of something with this name inside the layer that is being expanded."""
        return ".".join([*self._path[-1:], name])

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

    def dense(
        self,
        inputs: Tensor,
        weight: IntegerWeight,
        bias: NDArray[Any] | None = None,
        name: str = "dense",
    ) -> Tensor:
        """A Dense layer with these integers, `(inputs, units)`, on the last axis."""
        units = weight.integers.shape[-1]
        layer = keras.layers.Dense(units, use_bias=bias is not None, name="dense")
        layer.build(inputs.shape)
        if bias is not None:
            layer.bias.assign(np.asarray(bias, np.float32).reshape(-1))
        return self(frozen(layer, weight), inputs, name=name)

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
        return self(layer, inputs, name=name)

    def apply(self, function: Callable[..., Any], *inputs: Tensor, name: str) -> Any:
        """Put what a function of Keras operations does with tensors into the graph."""
        traced = trace(function, inputs, "traced")
        with self.inside(name):
            return graph.Rebuild(self.visit, flat=True).run(traced, list(inputs), "", 1)

    def _emit(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
        if not any(isinstance(a, keras.KerasTensor) for a in tree.flatten((args, kwargs))):
            return operation(*args, **kwargs)  # of constants only
        body = inner(operation) if isinstance(operation, keras.layers.Layer) else operation
        if type(body).__name__ in _INFERENCE_IDENTITY and len(args) == 1:
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
        if isinstance(body, keras.layers.Layer) and _is_users(body) and not hasattr(body, "plain_operations"):
            return self._traced(body, args, kwargs, name)
        return self._primitive(operation, args, kwargs, name)

    @contextmanager
    def _expanding(self, name: str) -> Iterator[None]:
        before, self._path = self._path, [self._unique(name)]
        try:
            yield
        finally:
            self._path = before

    def _primitive(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
        if isinstance(operation, keras.layers.Layer):
            slots = slots_in(operation)
            owned = (
                not isinstance(operation, Compressed)
                and len(slots) == 1
                and self._owners.knows(slots[0].variable(operation))
            )
            copied = _in_float32(operation)
            if owned:
                copied = frozen(copied, self._owners.integers(slots[0].variable(operation), slots[0].channel_axes))
        else:
            copied = type(operation).from_config(operation.get_config())
            # A variable would be left behind when the graph is saved.
            args, kwargs = tree.map_structure(_value, (args, kwargs))
        copied.name = self._unique(name)
        if self._path:
            self.made.add(copied.name)
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
            if layer._call_has_training_arg:
                named = {**named, "training": False}
            with keras.StatelessScope(state_mapping=self._owners.values(layer)):
                return layer.call(*given, **named)

        try:
            traced = trace(call, symbolic, "traced")
        except Exception as error:
            if not layer.variables:
                # Without weights it can stay as it is: a float island, which the report lists.
                return self._primitive(layer, args, kwargs, name)
            raise ValueError(
                "Expected layers that compute with Keras layers and `keras.ops`, so that their parts can be lowered to "
                f"integers. Received: {type(layer).__name__} at {name!r}, whose `call` fails on symbolic tensors: "
                f"{_first_line(error)}. Use `keras.ops` in place of `tf` there, or convert with mode='float32'."
            ) from error
        with self._expanding(name):
            return graph.Rebuild(self.visit, flat=True).run(traced, symbolic, "", 1)


def _value(argument: Any) -> Any:
    return ops.convert_to_numpy(argument) if isinstance(argument, keras.Variable) else argument


def _is_users(layer: keras.layers.Layer) -> bool:
    """Whether the `call` of a layer was written outside Keras's own layers and this package."""
    if isinstance(layer, keras.layers.Lambda):
        return True
    owner = next((cls for cls in type(layer).__mro__ if "call" in vars(cls)), type(layer))
    in_keras = owner.__module__.startswith("keras.") and ".applications." not in owner.__module__
    return not (in_keras or owner.__module__.startswith("keras_compress."))


def _in_float32(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A copy that computes in float32, whatever the policy it was trained under."""
    copied = copy_layer(layer)
    body = inner(copied)
    if body.compute_dtype not in (None, "float32"):
        body.dtype_policy = keras.DTypePolicy("float32")
    return copied


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
