"""Cut channels out of a model, or set them to zero; and check that the two are the same."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core import keras_private
from keras_compress.graph import graph as keras_graph
from keras_compress.graph.configuration import configuration
from keras_compress.graph.model import LayerCopies, check_phases_ended, compressed_layers, copy_layer, inner
from keras_compress.structured.channel_graph import ROLES, ChannelGraph, Copies, Reading, Removed, WeightAxis
from keras_compress.structured.gates import gated

KerasTensor = Any
UNKNOWN_LENGTH = 32


def cut(graph: ChannelGraph, removed: Removed) -> keras.Model:
    """A new model without the removed channels, with the values of all that is left.

    Inputs, outputs, layer names and nested models stay; widths and weights shrink.

    Args:
        graph: Channel graph of the model.
        removed: For each unit, whether it goes. Of a frozen group, none may.

    Raises:
        ValueError: For a removed unit that is frozen, or a group that would be left empty.
    """
    check_removed(graph, removed)
    return _of_width(graph, removed)


def replicated(graph: ChannelGraph, copies: Copies) -> keras.Model:
    """A new model with some channels more than once; what reads them reads every copy with the weights of the one.

    Args:
        graph: Channel graph of the model.
        copies: For each unit, how often it is there, >= 1. Of a frozen unit, once.
    """
    return _of_width(graph, copies)


def made_anew(graph: ChannelGraph, copies: Copies) -> keras.Model:
    """A new model of the widths of `replicated`, whose layers with channels begin with their own initializers' values.

    Args:
        graph: Channel graph of the model.
        copies: See `replicated`.
    """
    return _of_width(graph, copies, values=False)


def _of_width(graph: ChannelGraph, removed: Removed | Copies, values: bool = True) -> keras.Model:
    refuse_transforms(graph.model)
    resized: list[tuple[keras.layers.Layer, keras.layers.Layer]] = []
    touched = {id(each.layer) for each in graph.weights} | graph.settings.keys()

    def make(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        plain = inner(layer)
        if id(plain) not in touched:
            return copy_layer(plain)
        new = _resized(graph, removed, plain)
        resized.append((plain, new))
        return new

    def visit(call: keras_graph.Call) -> Any:
        if isinstance(call.operation, keras.layers.Layer):
            return copies(call)
        return call.run(_resized(graph, removed, call.operation))

    copies = LayerCopies(make, visit, inside=False)
    shapes = {key: _shape_change(graph, axes, removed) for key, axes in graph.inputs.items()}
    rebuild = keras_graph.Rebuild(visit, input_shape=lambda t: shapes.get(id(t), lambda s: s)(t.shape))
    result: keras.Model = rebuild.model(graph.model)
    for old, new in resized if values else ():
        _copy_left(graph, removed, old, new)
    return result


def refuse_transforms(model: keras.Model, allowed: type | tuple[()] = ()) -> None:
    """Refuse a model whose weights or activations pass through something that a cut would lose.

    Args:
        model: Any model.
        allowed: Class of transforms that may be there.

    Raises:
        ValueError: Naming the layer, and the cure.
    """
    if not allowed:
        check_phases_ended(model)
    for path, wrapper in compressed_layers(model):
        if wrapper.input_point or not all(isinstance(transform, allowed) for transform in wrapper.transform_list):
            raise ValueError(
                "Expected a model in which nothing is in training: cut channels first, then prune, cluster and "
                f"quantize; or take `kc.strip(model)`. Received: layer {path!r} with "
                f"{[type(t).__name__ for t in wrapper.transform_list]}"
            )


def _resized(graph: ChannelGraph, removed: Removed | Copies, operation: Any) -> Any:
    """The operation again, as wide as what is left of its channels."""
    if not isinstance(operation, keras.layers.Layer):
        return _with_widths(graph, removed, operation, operation.get_config())
    with configuration(operation) as config:
        return _with_widths(graph, removed, operation, config)


def _with_widths(graph: ChannelGraph, removed: Removed | Copies, operation: Any, config: dict[str, Any]) -> Any:
    config = _unbuilt(config)
    for key, setting in graph.settings.get(id(operation), {}).items():
        count = len(graph.kept(setting.ids, removed))
        usual = len(setting.ids) if setting.default is None else len(graph.kept(setting.default, removed))
        if not isinstance(key, tuple) and config.get(key) is None and count == usual:
            continue
        config = _changed(config, key if isinstance(key, tuple) else (key,), count)
    made = type(operation).from_config(config)
    made.name = operation.name  # not in the configuration of an operation before Keras 3.12
    return made


def _unbuilt(config: Any) -> Any:
    """A configuration in which layers inside say nothing of the shapes they were built for."""
    if isinstance(config, dict):
        return {key: _unbuilt(value) for key, value in config.items() if key != "build_config"}
    return [_unbuilt(each) for each in config] if isinstance(config, list) else config


def _changed(config: Any, keys: tuple[Any, ...], value: int) -> Any:
    """A configuration with another value at the end of some keys; a number stands for a list of one."""
    if not keys or isinstance(config, int):
        return value
    changed = dict(config) if isinstance(config, dict) else list(config)
    changed[keys[0]] = _changed(config.get(keys[0]) if isinstance(config, dict) else config[keys[0]], keys[1:], value)
    return tuple(changed) if isinstance(config, tuple) else changed


def _shape_change(graph: ChannelGraph, axes: Mapping[int, Any], removed: Removed | Copies) -> Callable[[Any], Any]:
    counts = {axis: len(graph.kept(ids, removed)) for axis, ids in axes.items()}
    return lambda shape: tuple(counts.get(axis, n) for axis, n in enumerate(shape))


def _copy_left(
    graph: ChannelGraph, removed: Removed | Copies, old: keras.layers.Layer, new: keras.layers.Layer
) -> None:
    for source, target in zip(old.variables, new.variables, strict=True):
        value = keras.ops.convert_to_numpy(source)
        for axis, ids in graph.axes_of(source).items():
            value = np.take(value, graph.kept(ids, removed), axis=axis)
        if value.shape != tuple(target.shape):
            raise ValueError(
                f"Expected {source.path} to become {tuple(target.shape)} without the removed channels. "
                f"Received: {value.shape}. The channel rule of {type(old).__name__} does not fit it"
            )
        target.assign(value)


def check_removed(graph: ChannelGraph, removed: Removed) -> None:
    """Refuse to remove what is frozen, or all of a group.

    Raises:
        ValueError: Naming the group, and why.
    """
    left = removed.copy()
    for group in graph.groups:
        count = graph.removed_of(group, removed)
        if group.reason is not None and count:
            raise ValueError(
                f"Expected channels that can be removed. Received: channels of {group.name!r}, of which {group.reason}"
            )
        if count and count == len(group):
            raise ValueError(
                f"Expected at least one channel to be left in each layer. Received: all {count} of {group.name!r}"
            )
        left[group.units] = False
    if left.any():
        raise ValueError(f"Expected channels of groups. Received: units {np.flatnonzero(left)[:10].tolist()} of none")


def mask(graph: ChannelGraph, removed: Removed, roles: Collection[str] = ("out", "through")) -> keras.Model:
    """A copy of the model, as wide as before, in which the removed channels are zero.

    Args:
        graph: Channel graph of the model.
        removed: For each unit, whether it goes.
        roles: Which weights become zero there: `"out"` those that make the channels, `"through"` those that act on each
            alone (gamma and beta too), `"in"` those that read them. An activation that is not 0 at 0 gives masked
            channels a value: then `"in"` is needed for a model that equals the cut one. Where something without
            weights sums over them, it puts a `ChannelGate` in front.
    """
    check_removed(graph, removed)
    if not set(roles) <= set(ROLES):
        raise ValueError(f"Expected roles out of {ROLES}. Received: {tuple(roles)}")
    factors: dict[int, NDArray[np.float32]] = {}
    for each in graph.weights:
        if each.role in roles:
            factors[id(each.variable)] = factors.get(id(each.variable), 1.0) * mask_factor(graph, removed, each)

    def make(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        copy = copy_layer(layer)
        for source, target in zip(layer.variables, copy.variables, strict=True):
            if id(source) in factors:
                target.assign(target * factors[id(source)])
        return copy

    def gate(reading: Reading) -> Any:
        units = graph.units[reading.ids]
        return (~removed[units]).astype(np.float32) if "in" in roles and removed[units].any() else None

    return gated(graph, LayerCopies(make, inside=False), gate)


def mask_factor(graph: ChannelGraph, removed: Removed, axis: WeightAxis) -> NDArray[np.float32]:
    """Ones, and zeros for removed channels, that broadcast against the weight."""
    shape = [1] * len(axis.variable.shape)
    shape[axis.axis] = -1
    return (~removed[graph.units[axis.ids]]).astype(np.float32).reshape(shape)


def largest_difference(first: keras.Model, second: keras.Model, inputs: Any) -> float:
    """The largest difference of two models' outputs, relative to the largest output of the first in each tensor."""
    differences = []
    for one, other in zip(*(keras.tree.flatten(m(inputs, training=False)) for m in (first, second)), strict=True):
        one, other = keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other)
        differences.append(float(np.abs(one - other).max() / max(np.abs(one).max(), np.finfo(np.float32).tiny)))
    return max(differences)


def cut_error(graph: ChannelGraph, removed: Removed, samples: int = 4, seed: int = 0) -> float:
    """How far the cut model is from one in which the removed channels are zero, makers and readers.

    It is not 0, up to float rounding, only where a normalization takes its statistics over what is removed.

    Args:
        graph: Channel graph of the model.
        removed: For each unit, whether it goes.
        samples: Number of random inputs.
        seed: Seed of these.

    Returns:
        Largest difference of their outputs, relative to the largest output.
    """
    inputs = random_inputs(graph.model, samples, seed)
    return largest_difference(mask(graph, removed, ("out", "through", "in")), cut(graph, removed), inputs)


def random_inputs(model: keras.Model, samples: int, seed: int) -> Any:
    """Normally distributed inputs, zeros and ones for integers; a length that is not known is 32."""
    random = np.random.default_rng(seed)
    held = keras_graph.functional(model)
    arrays = []
    for tensor in held.inputs:
        shape = (samples, *(n or UNKNOWN_LENGTH for n in tensor.shape[1:]))
        is_float = "float" in tensor.dtype
        arrays.append((random.normal(size=shape) if is_float else random.integers(0, 2, shape)).astype(tensor.dtype))
    return keras.tree.pack_sequence_as(keras_private.inputs_structure(held), arrays)
