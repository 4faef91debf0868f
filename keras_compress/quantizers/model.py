"""`quantize_model`: weight quantizers in the wrappers and points for the activations."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import keras

from keras_compress.core import graph, parts
from keras_compress.core.model import add_transforms, candidates
from keras_compress.core.registry import register, resolve
from keras_compress.core.selection import Selector, settings_by_path
from keras_compress.core.transform import WeightTransform
from keras_compress.core.wrapper import Compressed
from keras_compress.quantizers.activation import ActivationQuantizer, MovingAverageRange
from keras_compress.quantizers.placement import PlacePoints
from keras_compress.quantizers.uniform import UniformQuantizer

_Layer = TypeVar("_Layer", WeightTransform, ActivationQuantizer)


def weight_quantizer(identifier: Any, per_channel: bool = True) -> WeightTransform | None:
    """A new weight quantizer from `"int2"` .. `"int8"`, a registered name, a configuration, an object, or `None`.

    Raises:
        ValueError: For anything else.
    """
    if identifier is None:
        return None
    if isinstance(identifier, str) and (match := re.fullmatch(r"int(\d+)", identifier)):
        return UniformQuantizer(int(match[1]), per_channel=per_channel)
    made = resolve("weight_transform", identifier)
    if not isinstance(made, WeightTransform) or "grid" not in made.promises:
        raise ValueError(
            f"Expected a weight quantizer, such as 'int8' or UniformQuantizer(4). Received: {identifier!r}"
        )
    # Every weight gets an object of its own.
    return _fresh(made)


def activation_quantizer(identifier: Any) -> ActivationQuantizer | None:
    """A new activation quantizer from `"int2"` .. `"int8"`, `"int16"`, a name, a configuration, an object, or `None`.

    Raises:
        ValueError: For anything else.
    """
    if identifier is None:
        return None
    if isinstance(identifier, str) and (match := re.fullmatch(r"int(\d+)", identifier)):
        return MovingAverageRange(int(match[1]))
    made = resolve("activation_quantizer", identifier)
    if not isinstance(made, ActivationQuantizer):
        raise ValueError(
            f"Expected an activation quantizer, such as 'int8' or LearnedRange(4). Received: {identifier!r}"
        )
    return _fresh(made)


def _fresh(made: _Layer) -> _Layer:
    """A new object with the same settings."""
    again: _Layer = type(made).from_config({k: v for k, v in made.get_config().items() if k != "name"})
    return again


@register("entry_point")
def quantize_model(
    model: keras.Model,
    weights: Any = "int8",
    activations: Any = "int8",
    *,
    per_channel: bool = True,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    strict: bool = False,
) -> keras.Model:
    """A copy of the model that computes with quantized weights and activations, to be trained further or calibrated.

    Args:
        model: Built model, plain or made by this library. What a subclassed model or layer computes in its `call`
            has no place for activation quantizers: there, weights alone are quantized, and the ranges of activations
            are found when the model is converted.
        weights: `"int2"` .. `"int8"`, a weight quantizer, its configuration, or `None` to leave weights alone.
        activations: `"int2"` .. `"int8"`, `"int16"`, an activation quantizer, its configuration, or `None`.
        per_channel: One scale for each output channel; after a clusterer the scale follows its codebooks.
        filters: Layers whose weights are quantized: name, `"re:..."`, `"class:..."`, class or callable. Activations
            are quantized in the whole model, as integer kernels need them everywhere.
        rules: Exceptions: `{"layers": selector, "skip": True}` (weights stay as they are),
            `{"layers": "first", "weights": "int8"}`, `{"layers": selector, "activations": "int8"}`.
        strict: Raise where a layer has to be skipped.

    Returns:
        A new model to compile and train; BatchNormalization goes on as it is and is folded, exactly, by `freeze`.

    Raises:
        ValueError: For bits out of range, an unknown quantizer, or a rule that matches nothing.
    """
    weight_quantizer(weights, per_channel)
    activation_quantizer(activations)
    defaults = {"weights": weights, "activations": activations}

    def make(path: str, before: Compressed, slot: Any, settings: dict[str, Any]) -> WeightTransform | None:
        return weight_quantizer(settings["weights"], per_channel)

    quantized = add_transforms(model, make, defaults, filters=filters, rules=rules, strict=strict)
    if activations is None and not any("activations" in rule for rule in rules or ()):
        return quantized
    _warn_of_places(model)
    if not graph.is_graph(model):
        return quantized
    chosen = settings_by_path(
        candidates(model, quiet=True), defaults, None, [r for r in rules or () if not r.get("skip")]
    )

    def point(path: str) -> ActivationQuantizer | None:
        return activation_quantizer(chosen.get(path, defaults)["activations"])

    return PlacePoints(point).place(quantized)


def _warn_of_places(model: keras.Model) -> None:
    """Say where activations cannot be quantized while the model trains."""
    closed = [model.name] if parts.is_user_written(model) else [path for path, _ in _written_in(model, "")]
    if closed:
        warnings.warn(
            f"Activations inside {', '.join(map(repr, closed))} are not quantized while it trains: what a `call` "
            "computes has no place for it. Its weights are; `convert` finds the ranges of the activations with a "
            "representative dataset.",
            stacklevel=3,
        )


def _written_in(model: keras.Model, prefix: str) -> list[tuple[str, keras.layers.Layer]]:
    """Layers with sub-layers, in the graphs of a model, that users wrote."""
    found = []
    for reference, layer in graph.children(model):
        path = prefix + parts.path_of(reference)
        if graph.is_graph(layer):
            found += _written_in(layer, path + "/")
        elif graph.children(layer):
            found.append((path, layer))
    return found
