"""What stands for the work of a pipeline: values that decide its results, told apart without being kept."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import keras
import numpy as np

from keras_compress.core import keras_private

_PLAIN = (bool, int, float, str, type(None))
# Whose classes come with a version, not from the user.
_LIBRARIES = ("keras", "keras_compress", "tensorflow", "numpy", "builtins")


def fingerprint(value: Any, state: bool = True) -> Any:
    """What stands for a value, as JSON types: the same in another process.

    Of a model its architecture, its weights and the code of layers that users wrote; of a function its code, defaults,
    closed-over values, and the numbers, texts and functions that it finds in its module; of other objects the class
    and what is configured or set. The content of a `tf.data.Dataset` is not looked at, its shapes are.

    Args:
        value: Anything.
        state: Whether lists, mappings, arrays and objects that a function closes over are compared: `False` for one
            that may change them while it works.
    """
    return _Walk(state).of(value)


class _Walk:
    def __init__(self, state: bool) -> None:
        self._state = state
        self._open: list[int] = []
        self._renamed: dict[str, str] = {}

    def of(self, value: Any) -> Any:
        if isinstance(value, _PLAIN):
            return self._renamed.get(value, value) if isinstance(value, str) else [type(value).__name__, repr(value)]
        if id(value) in self._open:
            return f"outer {len(self._open) - self._open.index(id(value))}"
        self._open.append(id(value))
        try:
            return self._composed(value)
        finally:
            self._open.pop()

    def _composed(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return _array(value)
        if isinstance(value, Mapping):
            return {str(key): self.of(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.of(each) for each in value]
        if isinstance(value, (set, frozenset)):
            return sorted((self.of(each) for each in value), key=repr)
        if isinstance(value, keras.Model):
            return self._model(value)
        if isinstance(value, keras.Variable) or hasattr(value, "__array__"):
            return _array(np.asarray(keras.ops.convert_to_numpy(value)))
        if isinstance(value, type):
            return self._class(value)
        return self._called(value) or self._object(value)

    def _model(self, model: keras.Model) -> Any:
        layers = keras_private.flattened(model)
        inputs = [layer.name for layer in layers if isinstance(layer, keras.layers.InputLayer)]
        # What Keras numbers on, when the same program builds the model again.
        numbered = [name for name in inputs if re.fullmatch(r"input_layer(_\d+)?", name)]
        self._renamed = {model.name: "model", **{name: f"input {index}" for index, name in enumerate(numbered)}}
        config = _attempted(lambda: keras.saving.serialize_keras_object(model)["config"])
        found = {
            "architecture": [self._layer(layer) for layer in layers] if config is None else self.of(config),
            "classes": [self._class(type(layer)) for layer in layers],
            "weights": [_array(keras.ops.convert_to_numpy(weight)) for weight in model.weights],
        }
        self._renamed = {}
        return found

    def _layer(self, layer: keras.layers.Layer) -> Any:
        """For a model with a layer that cannot be serialized."""
        config = _attempted(layer.get_config)
        if config is None:
            config = {key: each for key, each in vars(layer).items() if isinstance(each, (*_PLAIN, FunctionType))}
        return [layer.name, self.of(config)]

    def _class(self, found: type) -> Any:
        name = _name(found)
        if found.__module__.split(".")[0] in _LIBRARIES:
            return name
        methods = {key: each for key, each in vars(found).items() if isinstance(each, FunctionType)}
        return [name, {key: self.of(each) for key, each in sorted(methods.items())}]

    def _called(self, value: Any) -> Any:
        """A function, or what holds one; `None` for other values."""
        if isinstance(value, functools.partial):
            return ["partial", self.of(value.func), self.of(value.args), self.of(value.keywords)]
        if isinstance(value, MethodType):
            return ["method", self.of(value.__func__), self._held(value.__self__)]
        code = getattr(value, "__code__", None)
        if not isinstance(code, CodeType):
            return _name(value) if isinstance(value, BuiltinFunctionType) else None
        closed = [self._cell(cell) for cell in value.__closure__ or ()]
        defaults = [self.of(value.__defaults__), self.of(value.__kwdefaults__)]
        return [value.__qualname__, self._code(code), defaults, closed, self._globals(value)]

    def _code(self, code: CodeType) -> Any:
        # Without names of files and numbers of lines, which say nothing of what it does.
        constants = [self._code(each) if isinstance(each, CodeType) else _constant(each) for each in code.co_consts]
        return [hashlib.sha1(code.co_code).hexdigest(), constants, list(code.co_names)]

    def _cell(self, cell: Any) -> Any:
        try:
            return self._held(cell.cell_contents)
        except ValueError:  # a name that has no value yet
            return "empty"

    def _held(self, value: Any) -> Any:
        """A value that a function may change, if it is one that can change."""
        fixed = isinstance(value, (*_PLAIN, FunctionType)) or (
            isinstance(value, tuple) and all(isinstance(each, _PLAIN) for each in value)
        )
        return self.of(value) if self._state or fixed else _name(type(value))

    def _globals(self, function: Any) -> Any:
        found = {}
        for name in _all_names(function.__code__):
            value = function.__globals__.get(name)
            own = getattr(value, "__module__", None) == function.__module__
            if name in function.__globals__ and (isinstance(value, _PLAIN) or (own and callable(value))):
                found[name] = self.of(value)
        return found

    def _object(self, value: Any) -> Any:
        name = self._class(type(value))
        spec = getattr(value, "element_spec", None)
        if spec is not None:
            return [name, repr(spec)]
        config = _attempted(value.get_config) if hasattr(value, "get_config") else getattr(value, "__dict__", None)
        if isinstance(config, dict) and isinstance(config.get("name"), str):
            config = {**config, "name": re.sub(r"_\d+$", "", config["name"])}  # a second Adam is `adam_1`
        # `get_config` of Keras's wrapped functions leaves their arguments out.
        return [name, self.of(config), self.of(keras_private.arguments_of_function(value))]


def _constant(constant: Any) -> str:
    """A constant in code; a set in an order of its own."""
    if isinstance(constant, frozenset):
        return f"{{{', '.join(sorted(map(repr, constant)))}}}"
    return repr(constant)


def _all_names(code: CodeType) -> Iterable[str]:
    inner = [name for each in code.co_consts if isinstance(each, CodeType) for name in _all_names(each)]
    return sorted({*code.co_names, *inner})


def _array(values: Any) -> Any:
    values = np.asarray(values)
    if values.dtype.hasobject:
        return [list(values.shape), repr(values.tolist())]
    return [list(values.shape), values.dtype.name, hashlib.sha1(np.ascontiguousarray(values).data).hexdigest()]


def _attempted(make: Callable[[], Any]) -> Any:
    """What a configuration is, `None` where the user's code gives none."""
    with contextlib.suppress(Exception):
        return make()
    return None


def _name(found: Any) -> str:
    return f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', type(found).__name__)}"
