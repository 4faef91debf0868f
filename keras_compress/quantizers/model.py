"""`quantize_model`: weight quantizers in the wrappers and points for the activations."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import keras

from keras_compress.core import keras_private
from keras_compress.core.existing import found_in, keeping, kept_by, kinds_of, warn_of
from keras_compress.core.export_notice import share_notice
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.kinds_of_layers import is_user_written
from keras_compress.core.registry import entries, lookup, register, resolve
from keras_compress.core.selection import Selector, rules_take, selected
from keras_compress.core.slots import Slot
from keras_compress.core.suggest import did_you_mean
from keras_compress.core.transform import WeightTransform
from keras_compress.core.warn import warn
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph, parts
from keras_compress.graph.input_points import input_points_apart
from keras_compress.graph.model import add_transforms, candidates, check_phases_ended, inner
from keras_compress.quantizers.activation import ActivationQuantizer
from keras_compress.quantizers.kinds import Place
from keras_compress.quantizers.placement import PlacePoints
from keras_compress.quantizers.weight_quantizer import WeightQuantizer

_Layer = TypeVar("_Layer", WeightQuantizer, ActivationQuantizer)


def weight_quantizer(identifier: Any, per_channel: bool | None = None) -> WeightQuantizer | None:
    """A new weight quantizer from `"int2"` .. `"int8"`, a name (`"lsq4"`), a configuration, an object, or `None`.

    Args:
        identifier: What a user writes; names may be in lower case: `"ste_sign"`.
        per_channel: For what is given by a name.

    Raises:
        ValueError: For anything else.
    """
    if identifier is None:
        return None
    if isinstance(identifier, str):
        identifier = _by_name(identifier, per_channel)
    _check_class("weight_transform", identifier, WeightQuantizer)
    made = resolve("weight_transform", identifier)
    if not isinstance(made, WeightQuantizer):
        raise ValueError(
            f"Expected a weight quantizer, such as 'int8' or UniformQuantizer(4). Received: {identifier!r}"
        )
    # Every weight gets an object of its own.
    return _fresh(made) if made is identifier else made


def _by_name(name: str, per_channel: bool | None) -> dict[str, Any]:
    """The configuration that a name stands for; `per_channel` where the method has a choice."""
    class_name, config = _named("weight_transform", name, WeightQuantizer, "UniformQuantizer")
    chooses = "per_channel" in inspect.signature(lookup("weight_transform", class_name)).parameters
    if per_channel is not None and chooses:
        config["per_channel"] = per_channel
    return {"class_name": class_name, "config": config}


def _named(kind: str, name: str, base: type, plain: str) -> tuple[str, dict[str, Any]]:
    """Class and configuration of `"int8"`, of a quantizer's name, and of one with its bits behind it, `"lsq4"`.

    Raises:
        ValueError: For another name, with those of quantizers alone.
    """
    known = _quantizers(kind, base)
    if _alias(name) in known:
        return known[_alias(name)].__name__, {}
    match = re.fullmatch(r"(\D+)(\d+)", name)
    found = None if match is None else plain if match[1] == "int" else known.get(_alias(match[1]))
    class_name = found if isinstance(found, str) or found is None else found.__name__
    if match is None or class_name is None or "bits" not in inspect.signature(lookup(kind, class_name)).parameters:
        raise _unknown(name, known)
    return class_name, {"bits": int(match[2])}


def _check_class(kind: str, identifier: Any, base: type) -> None:
    """As `_named`, of `{"class_name": ...}`."""
    name = identifier.get("class_name") if isinstance(identifier, Mapping) else None
    if isinstance(name, str) and _alias(name) not in (known := _quantizers(kind, base)):
        raise _unknown(name, known)


def _quantizers(kind: str, base: type) -> dict[str, type]:
    return {_alias(n): made for n, made in entries(kind).items() if isinstance(made, type) and issubclass(made, base)}


def _unknown(name: str, known: Mapping[str, type]) -> ValueError:
    names = sorted(made.__name__ for made in known.values())
    return ValueError(
        f"Expected 'int2' to 'int8', or a quantizer out of {names}, its bits behind the name ('lsq4') where it has "
        f"them. Received: {name!r}{did_you_mean(name.rstrip('0123456789'), names)}"
    )


def _alias(name: str) -> str:
    return name.replace("_", "").lower().removesuffix("activation")


def weight_transforms(identifier: Any, per_channel: bool | None = None, grid: Any = "int8") -> list[WeightTransform]:
    """A weight quantizer and, where its levels are not integers that int8 holds, the grid behind it.

    Args:
        identifier: See `weight_quantizer`.
        per_channel: Likewise.
        grid: Quantizer with an integer grid, or `None` for none: the method's free levels, which only float modes take.

    Raises:
        ValueError: For an unknown quantizer, or a `grid` without integers.
    """
    made, behind = weight_quantizer(identifier, per_channel), weight_quantizer(grid, per_channel)
    if behind is not None and not behind.has_integers:
        raise ValueError(f"Expected a `grid` of integers, such as 'int8'. Received: grid={grid!r}")
    if made is None or made.has_integers or made.float_only or behind is None:
        return [] if made is None else [made]
    return [made, behind]


def activation_quantizer(identifier: Any) -> ActivationQuantizer | None:
    """A new activation quantizer from `"int2"` .. `"int8"`, `"int16"`, a name, a configuration, an object, or `None`.

    Raises:
        ValueError: For anything else.
    """
    if identifier is None:
        return None
    if isinstance(identifier, str):
        class_name, config = _named("activation_quantizer", identifier, ActivationQuantizer, "MovingAverageRange")
        identifier = {"class_name": class_name, "config": config}
    _check_class("activation_quantizer", identifier, ActivationQuantizer)
    made = resolve("activation_quantizer", identifier)
    if not isinstance(made, ActivationQuantizer):
        raise ValueError(
            f"Expected an activation quantizer, such as 'int8' or LearnedRange(4). Received: {identifier!r}"
        )
    return _fresh(made) if made is identifier else made


def _fresh(made: _Layer) -> _Layer:
    """A new object with the same settings."""
    again: _Layer = type(made).from_config({k: v for k, v in made.get_config().items() if k != "name"})
    return again


@register("entry_point")
@global_state_kept()
@rules_take("weights", "activations")
def quantize_model(
    model: keras.Model,
    weights: Any = "int8",
    activations: Any = "int8",
    *,
    per_channel: bool | None = None,
    grid: Any = "int8",
    other_activations: Any = "int8",
    gradients: Any = None,
    preserve: Any = "auto",
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    strict: bool = False,
) -> keras.Model:
    """A copy of the model that computes with quantized weights and activations, to be trained further or calibrated.

    Args:
        model: Built model, plain or made by this library. What a subclassed model or layer computes in its `call`
            has no place for activation quantizers: there, weights alone are quantized, and the ranges of activations
            are found when the model is converted.
        weights: `"int2"` .. `"int8"`, a weight quantizer (`LSQ(4)`), its name (`"ste_sign"`), its configuration, or
            `None` to leave weights alone. A layer that has a quantizer keeps it.
        activations: `"int2"` .. `"int8"`, `"int16"`, an activation quantizer (`Pact(4)`), its name, its configuration,
            or `None`. One that takes no negative values stands behind ReLUs only, `SteSignActivation` in their place.
        per_channel: One scale for each output channel, for quantizers given by name; after a clusterer the scale
            follows its codebooks. By default what the quantizer does by itself: `True` for `"int8"`.
        grid: What stands behind a quantizer whose levels are not integers that int8 holds, so that what trains is what
            is deployed. `None` for the levels alone: those only float modes of `convert` take.
        other_activations: What stands where values may be negative (inputs, sums, outputs), where `activations` takes
            no negative values; and behind global average poolings, where `activations` has fewer than 8 bits.
        gradients: A quantizer of the gradients that arrive at each layer's output, such as `DoReFaGradient(6)`.
        preserve: What stays of weights that have no transforms but are sparse or share few values, as those of a
            stripped model are: `"sparsity"`, `"clusters"`, or both in a list: a mask and centroids are put in front of
            the quantizer, as if the model had not been stripped. `"auto"`: both, as far as the quantizer lets them
            stay, with a warning that says where; `None`: nothing.
        filters: Layers whose weights are quantized: name, `"re:..."`, `"class:..."`, class or callable. Activations
            are quantized in the whole model, as integer kernels need them everywhere.
        rules: Exceptions: `{"layers": selector, "skip": True}` (weights stay as they are),
            `{"layers": "first", "weights": "int8"}`, `{"layers": selector, "activations": "int16"}`: of activations
            alone, a rule may name a layer without weights (a sum) and an input, too. Activations of 16 bits beside
            those of 8 are in one file, see `docs/mixed_precision.md`. With `"optional": True` a rule may match nothing.
        strict: Raise where a layer has to be skipped.

    Returns:
        A new model to compile and train; BatchNormalization goes on as it is and is folded, exactly, by `freeze`.

    Raises:
        ValueError: For bits out of range, an unknown quantizer, a rule that matches nothing, a model that is quantized
            already, or one without a place for `activations`.
    """
    weight_transforms(weights, per_channel, grid)
    activation_quantizer(activations)
    if gradients is not None and not isinstance(resolve("gradient_quantizer", gradients), keras.layers.Layer):
        raise ValueError(f"Expected a gradient quantizer, such as DoReFaGradient(6). Received: gradients={gradients!r}")
    other = activation_quantizer(other_activations)
    if other is not None and not other.stands_at(Place.ANYWHERE):
        raise ValueError(
            "Expected `other_activations` that take negative values, such as 'int8'. "
            f"Received: other_activations={other_activations!r}"
        )
    check_phases_ended(model)
    preserved = _Preserved(preserve)
    places = _Places({"weights": weights, "activations": activations}, filters, tuple(rules or ()), strict)
    apart = input_points_apart(model)
    quantized = _with_weights(apart, places, per_channel, grid, gradients, preserved)
    preserved.warn()
    if activations is not None or any("activations" in rule for rule in places.rules):
        _warn_of_places(model)
        chosen = _of_points(apart, places)
        if graph.is_graph(model):
            quantized = _with_points(quantized, chosen, places, other_activations)
    share_notice(keras_private.flattened(quantized))
    return quantized


@dataclass(frozen=True)
class _Places:
    """What `quantize_model` was told of layers."""

    defaults: Mapping[str, Any]
    filters: Selector | None
    rules: tuple[Mapping[str, Any], ...]
    strict: bool


class _Preserved:
    """What is kept of stripped weights, and what is said of it."""

    def __init__(self, preserve: Any) -> None:
        self._kinds = kinds_of(preserve)
        self._asked = preserve != "auto"
        self._kept: list[tuple[str, str]] = []
        self._lost: list[tuple[str, str]] = []

    def before(
        self, path: str, wrapper: Compressed, slot: Slot, new: Sequence[WeightTransform]
    ) -> list[WeightTransform]:
        """What has to stand in front of new transforms of a weight."""
        if not self._kinds:
            return []
        found = found_in(wrapper, slot)
        kinds = self._kinds if self._asked else kept_by(self._kinds, found, new)
        for kind in self._kinds:
            if words := found.words((kind,)):
                (self._kept if kind in kinds else self._lost).append((path, words))
        return keeping(found, kinds)

    def warn(self) -> None:
        """Say it, where the user has not chosen."""
        if self._asked:
            return
        say = 'Give `preserve=["sparsity", "clusters"]` to keep them without this warning, `None` to train them freely.'
        warn_of("Zeros and shared values of a stripped model stay what they are", self._kept, say)
        say = "Give `preserve=None` to quantize without this warning, or another quantizer."
        warn_of("This quantizer does not keep zeros or shared values that are there", self._lost, say)


def _with_weights(
    model: keras.Model, places: _Places, per_channel: bool | None, grid: Any, gradients: Any, preserved: _Preserved
) -> keras.Model:
    kept: list[str] = []
    added: list[str] = []

    def make(path: str, before: Compressed, slot: Any, settings: dict[str, Any]) -> Sequence[WeightTransform]:
        new = weight_transforms(settings["weights"], per_channel, grid)
        if new and any(isinstance(t, WeightQuantizer) for t in before.transforms.get(slot.name, [])):
            kept.append(path)
            return []
        added.extend(path for _ in new)
        return [*preserved.before(path, before, slot, new), *new] if new else []

    numbers = itertools.count()

    def held() -> dict[str, Any]:
        if gradients is None:
            return {}
        made = resolve("gradient_quantizer", gradients)
        config = {key: value for key, value in made.get_config().items() if key != "name"}
        if "seed" in config:
            # Layers of the same shape are not to draw the same noise.
            config["seed"] += next(numbers)
        return {"gradients": type(made)(**config)}

    quantized = add_transforms(
        model,
        make,
        places.defaults,
        filters=places.filters,
        rules=[rule for rule in places.rules if not _of_activations_alone(rule)],
        strict=places.strict,
        replaced=held,
    )
    if kept and not added:
        raise ValueError(
            "Expected a model whose weights are not quantized yet, or `weights=None` to leave them as they are. "
            f"Received: quantizers already at {kept[:10]}"
        )
    return quantized


def _with_points(
    quantized: keras.Model, chosen: Mapping[str, Any], places: _Places, other_activations: Any
) -> keras.Model:
    used: list[bool] = []
    mixed = any("activations" in rule for rule in places.rules)

    def point(path: str, place: Place) -> ActivationQuantizer | None:
        made = activation_quantizer(chosen.get(path, places.defaults["activations"]))
        if place is Place.MEAN and made is not None and made.bits == 16 and not mixed:
            return None  # 16 bits hold a mean on its input's grid
        used.append(made is None or made.stands_at(place))
        return made if used[-1] else activation_quantizer(other_activations)

    pointed = PlacePoints(point).place(quantized)
    if used and not any(used):
        raise ValueError(
            f"Expected a model with a ReLU, behind which {places.defaults['activations']!r} can stand. Received: "
            f"{quantized.name!r}, where every point may hold negative values; use one that takes them, such as 'int8'."
        )
    return pointed


def _of_activations_alone(rule: Mapping[str, Any]) -> bool:
    """Whether a rule says nothing of weights: it may name a layer without any, or an input."""
    return set(rule) - {"optional"} == {"layers", "activations"}


def _of_points(model: keras.Model, places: _Places) -> dict[str, Any]:
    """Path of a layer, or name of an input -> what rules say of its activations.

    Raises:
        ValueError: For a rule that matches no layer.
    """
    weighted = candidates(model, quiet=True)
    inputs = graph.functional(model).inputs if graph.is_graph(model) else []
    named = [*((t.name, keras_private.maker(t)) for t in inputs), *graph.walk(model)]
    everything = [(path, inner(layer)) for path, layer in named]
    found: dict[str, Any] = {}
    for rule in places.rules:
        if "activations" in rule and not rule.get("skip"):
            by_place = rule["layers"] in ("first", "last")
            paths = selected(rule, weighted if by_place else everything)
            found.update(dict.fromkeys(paths, rule["activations"]))
    return found


def _warn_of_places(model: keras.Model) -> None:
    """Say where activations cannot be quantized while the model trains."""
    closed = [model.name] if is_user_written(model) else [path for path, _ in _written_in(model, "")]
    if closed:
        warn(
            f"Activations inside {', '.join(map(repr, closed))} are not quantized while it trains: what a `call` "
            "computes has no place for it. Its weights are; `convert` finds the ranges of the activations with a "
            "representative dataset."
        )


def _written_in(model: keras.Model, prefix: str) -> list[tuple[str, keras.layers.Layer]]:
    """Layers with sub-layers, in the graphs of a model, that users wrote."""
    written = []
    for reference, layer in graph.children(model):
        path = prefix + parts.path_of(reference)
        if graph.is_graph(layer):
            written += _written_in(layer, path + "/")
        elif graph.children(layer):
            written.append((path, layer))
    return written
