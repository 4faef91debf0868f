"""From model to model: check, copy, wrap, strip. The original is never touched."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_compress.core import graph
from keras_compress.core.selection import Selector, settings_by_path
from keras_compress.core.slots import Slot, skip_reason, slots_of
from keras_compress.core.transform import WeightTransform
from keras_compress.core.wrapper import Compressed

TransformFactory = Callable[[str, Compressed, Slot, dict[str, Any]], WeightTransform | None]


def check_model(model: Any) -> None:
    """Refuse what this library cannot work on, with the cure.

    Raises:
        TypeError: For anything but a Keras 3 model.
        ValueError: For another backend, an unbuilt model, one that Keras quantized, or `channels_first`.
    """
    if type(model).__module__.startswith(("tf_keras", "tensorflow.python.keras")):
        raise TypeError(
            "Expected a Keras 3 model. Received: a tf_keras (Keras 2) model; load it with `keras.models.load_model`, "
            "or rebuild it with `keras.layers`, and unset TF_USE_LEGACY_KERAS."
        )
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a keras.Model. Received: {model!r} of type {type(model).__name__}")
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Expected the TensorFlow backend of Keras: set KERAS_BACKEND=tensorflow. "
            f"Received: {keras.backend.backend()}"
        )
    if not model.built:
        raise ValueError(
            f"Expected a built model: call it on data, or give it an `Input`. Received: {model.name!r}, not built."
        )
    for path, layer in graph.walk(model):
        if getattr(layer, "quantization_mode", None):
            raise ValueError(
                "Expected a model that `keras.Model.quantize` has not changed: start from the float model. "
                f"Received: layer {path!r} in mode {layer.quantization_mode!r}"
            )
        if getattr(layer, "data_format", None) == "channels_first":
            raise ValueError(
                "Expected `data_format='channels_last'`, the layout of TFLite: rebuild the layer with it and copy the "
                f"weights. Received: layer {path!r} with 'channels_first'"
            )


def copy_layer(layer: keras.layers.Layer, **overrides: Any) -> keras.layers.Layer:
    """A new layer with the same configuration and values; `overrides` replace entries of the configuration."""
    config = {**layer.get_config(), **overrides}
    made = type(layer).from_config(config)
    if isinstance(layer, Compressed):
        _copy_values(layer, made)
        return made
    build_config = layer.get_build_config()
    if layer.built and build_config and not made.built:
        made.build_from_config(build_config)
        made.built = True
    if not overrides:
        _copy_values(layer, made)
    return made


def _copy_values(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    if len(source.variables) != len(target.variables):
        raise ValueError(
            f"Expected `{type(source).__name__}.from_config(get_config())` to make the same variables again. "
            f"Received: {len(target.variables)} instead of {len(source.variables)} for layer {source.name!r}"
        )
    for old, new in zip(source.variables, target.variables, strict=True):
        new.assign(old)
    for layer in target._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            # It computes with tensors made from its variables, here from the values they had before.
            layer.finalize_state()


class LayerCopies:
    """Copies of layers, one for each original, so that a layer used twice stays one layer.

    Args:
        make: Makes the new layer from `(path, layer)`; `copy_layer` by default.
    """

    def __init__(self, make: Callable[[str, keras.layers.Layer], keras.layers.Layer] | None = None) -> None:
        self._make = make or (lambda path, layer: copy_layer(layer))
        self._made: dict[int, keras.layers.Layer] = {}

    def __call__(self, call: graph.Call) -> Any:
        return call.run(self.of(call.path, call.operation))

    def of(self, path: str, operation: Any) -> Any:
        """The copy of a layer; operations that are not layers have no state and are used as they are."""
        if not isinstance(operation, keras.layers.Layer):
            return type(operation).from_config(operation.get_config())
        if id(operation) not in self._made:
            self._made[id(operation)] = self._make(path, operation)
        return self._made[id(operation)]


def rebuild(model: keras.Model, make: Callable[[str, keras.layers.Layer], keras.layers.Layer] | None = None) -> Any:
    """A copy of `model` with each layer replaced by what `make(path, layer)` gives."""
    return graph.Rebuild(LayerCopies(make)).model(model)


def compressed_layers(model: keras.Model) -> Iterator[tuple[str, Compressed]]:
    """`(path, wrapper)` for every wrapper in a model."""
    for path, layer in graph.walk(model):
        if isinstance(layer, Compressed):
            yield path, layer


def inner(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer itself, without the wrapper."""
    return layer.layer if isinstance(layer, Compressed) else layer


def slots_in(layer: keras.layers.Layer) -> tuple[Slot, ...]:
    """Compressible slots of a layer, wrapped or not."""
    return slots_of(inner(layer), layer.slot_axes if isinstance(layer, Compressed) else None)


def candidates(model: keras.Model, strict: bool = False, quiet: bool = False) -> list[tuple[str, keras.layers.Layer]]:
    """`(path, inner layer)` of every compressible layer, in the order of the model; says which layers are skipped.

    Raises:
        ValueError: With `strict`, for a layer that has to be skipped.
    """
    found = []
    skipped = {}
    for path, layer in graph.walk(model):
        if slots_in(layer):
            found.append((path, inner(layer)))
        elif reason := skip_reason(inner(layer)):
            skipped[path] = reason
    if skipped:
        listed = "; ".join(f"{path}: {reason}" for path, reason in skipped.items())
        if strict:
            raise ValueError(f"Expected compressible layers only (strict=True). Received: {listed}")
        if not quiet:
            warnings.warn(f"Layers left as they are: {listed}", stacklevel=4)
    if not found:
        raise ValueError(f"Expected a model with a compressible layer. Received: {model.name!r}, which has none.")
    return found


def add_transforms(
    model: keras.Model,
    factory: TransformFactory,
    defaults: Mapping[str, Any],
    *,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    strict: bool = False,
) -> keras.Model:
    """A copy of `model` in which each selected weight has one more transform at the end of its list.

    Args:
        model: Functional or Sequential model, wrapped already or not.
        factory: `(path, wrapper before, slot, settings) -> new transform`, or `None` for no transform.
        defaults: Settings of a layer that no rule changes.
        filters: Which layers, see `keras_compress.core.selection.select`.
        rules: Exceptions, see `keras_compress.core.selection.settings_by_path`.
        strict: Raise where a layer has to be skipped.
    """
    check_model(model)
    listed = candidates(model, strict)
    settings = settings_by_path(listed, defaults, filters, rules)
    added: list[tuple[Compressed, WeightTransform]] = []

    def make(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        copy = copy_layer(layer)
        if path not in settings:
            return copy
        before = copy if isinstance(copy, Compressed) else Compressed(copy, {})
        transforms = before.transforms
        for slot in slots_in(copy):
            new = factory(path, before, slot, settings[path])
            if new is not None:
                transforms.setdefault(slot.name, []).append(new)
        if not transforms:
            return copy
        wrapper = Compressed(before.layer, transforms, slots=before.slot_axes, name=before.name)
        added.extend((wrapper, t) for each in transforms.values() for t in each[-1:] if t not in before.transform_list)
        return wrapper

    compressed = rebuild(positive_gammas(model), make)
    for wrapper, transform in added:
        wrapper.initialize(transform)
    return compressed


def batch_norm_after(model: keras.Model) -> dict[int, keras.layers.Layer]:
    """`id(layer)` -> the BatchNormalization that can be folded into it, for every layer that has one."""
    found: dict[int, keras.layers.Layer] = {}
    for each in _graphs(model):
        table = graph.consumers(each)
        for node in graph.nodes(each):
            reader = graph.sole_consumer(node, each, table)
            if reader is not None and foldable(node.operation, reader.operation):
                found[id(node.operation)] = reader.operation
    return found


def _graphs(model: keras.Model) -> list[keras.Model]:
    """The model and the models in it, each once."""
    found = {id(model): model}
    for layer in model.layers:
        if graph.is_graph(layer):
            found.update((id(each), each) for each in _graphs(layer))
    return list(found.values())


def foldable(layer: Any, norm: Any) -> bool:
    """Whether `norm` is a BatchNormalization whose factors can go into the kernel of `layer`."""
    if not isinstance(norm, keras.layers.BatchNormalization) or not isinstance(layer, keras.layers.Layer):
        return False
    body = inner(layer)
    slots = slots_of(body)
    linear = getattr(body, "activation", None) in (None, keras.activations.linear)
    return bool(
        linear
        and len(slots) == 1
        and slots[0].name == "kernel"
        and norm.axis in (-1, len(norm._build_shapes_dict["input_shape"]) - 1)
    )


def positive_gammas(model: keras.Model) -> keras.Model:
    """The same function with no negative gamma in a BatchNormalization that can be folded.

    Where gamma is negative, the kernel channel, the bias, the moving mean and gamma change sign together. Folding then
    scales channels by positive factors and changes no integer. Layers and normalizations that are used more than once,
    or layers that hold transforms already, are left as they are.
    """
    pairs = {
        key: norm for key, norm in batch_norm_after(model).items() if norm.scale and np.any(np.asarray(norm.gamma) < 0)
    }
    if not pairs:
        return model
    # Counted in this model's graphs: a layer also remembers its calls in other models.
    uses = Counter(id(node.operation) for each in _graphs(model) for node in graph.nodes(each))
    flips: dict[int, np.ndarray[Any, Any]] = {}
    for _, layer in graph.walk(model):
        once = id(layer) in pairs and uses[id(layer)] == uses[id(pairs[id(layer)])] == 1
        if once and not isinstance(layer, Compressed):
            sign = np.where(np.asarray(pairs[id(layer)].gamma) < 0, -1.0, 1.0).astype(np.float32)
            flips[id(layer)] = flips[id(pairs[id(layer)])] = sign

    def make(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        copy = copy_layer(layer)
        if id(layer) in flips:
            _flip(copy, flips[id(layer)])
        return copy

    return rebuild(model, make)


def _flip(layer: keras.layers.Layer, sign: np.ndarray[Any, Any]) -> None:
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.gamma.assign(layer.gamma * sign)
        layer.moving_mean.assign(layer.moving_mean * sign)
        return
    slot = slots_of(layer)[0]
    shape = channel_shape(layer.kernel.shape, slot.channel_axes)
    layer.kernel.assign(layer.kernel * sign.reshape(shape))
    if layer.bias is not None:
        layer.bias.assign(layer.bias * sign)


def channel_shape(shape: Sequence[int], channel_axes: Sequence[int]) -> list[int]:
    """Shape in which a vector over the output channels broadcasts against a weight.

    >>> channel_shape((3, 3, 8, 2), (-2, -1))
    [1, 1, 8, 2]
    """
    axes = {a % len(shape) for a in channel_axes}
    return [n if a in axes else 1 for a, n in enumerate(shape)]


def strip(model: keras.Model) -> keras.Model:
    """A plain Keras model with the same outputs: transformed weights put into the layers, wrappers gone.

    Points that quantize activations become plain Keras operations. Says which schedules had not ended.

    Args:
        model: A model that this library made. A plain one is copied.
    """
    check_model(model)
    for path, wrapper in compressed_layers(model):
        for message in filter(None, (t.pending() for t in wrapper.transform_list)):
            warnings.warn(f"{path}: {message}", stacklevel=2)
    copies = LayerCopies(lambda path, layer: strip_layer(layer))

    def visit(call: graph.Call) -> Any:
        if hasattr(call.operation, "plain_operations"):
            outputs = call.operation.plain_operations(*call.args)
            return graph.rename_between(call.args[0], outputs, call.operation.name)
        return copies(call)

    return graph.Rebuild(visit).model(model)


def strip_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A copy of a layer without its wrapper, holding the transformed weights."""
    if not isinstance(layer, Compressed):
        return copy_layer(layer)
    plain = copy_layer(layer.layer)
    for slot, _ in layer.items():
        # Masks leave zeros of both signs. Those of one sign compress better, and are equal.
        slot.variable(plain).assign(layer.weight(slot.name) + 0.0)
    return plain
