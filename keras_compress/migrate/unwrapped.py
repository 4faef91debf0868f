"""tfmot's wrappers taken off a stored model: a plain Keras 2 model, and what each wrapper held."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
from numpy.typing import NDArray

from keras_compress.migrate.stored import Stored

Array = NDArray[Any]
Named = tuple[str, Array]
PRUNE, CLUSTER, QUANTIZE, POINT = "PruneLowMagnitude", "ClusterWeights", "QuantizeWrapper", "QuantizeLayer"
_WRAPPERS = {
    "PruneLowMagnitude": PRUNE,
    **dict.fromkeys(("ClusterWeights", "ClusterWeightsRNN"), CLUSTER),
    **dict.fromkeys(("QuantizeWrapper", "QuantizeWrapperV2"), QUANTIZE),
}
# Beginnings and ends of the names of a wrapper's own values.
_OWN = {
    PRUNE: (("mask", "threshold", "pruning_step"), ()),
    CLUSTER: (("cluster_centroids_", "pulling_indices_"), ()),
    QUANTIZE: (
        ("cluster_centroids_tf", "ori_weights_vars_tf", "pulling_indices_tf", "optimizer_step"),
        ("_min", "_max"),
    ),
    POINT: (("optimizer_step",), ("_min", "_max")),
}
GRAPHS = ("Functional", "Model", "Sequential")
# How tfmot quantizes: what these say is told by the values that there are.
_QUANTIZE_CONFIGS = (
    *("Default8BitQuantizeConfig", "Default8BitConvQuantizeConfig", "Default8BitConvTransposeQuantizeConfig"),
    *("Default8BitActivationQuantizeConfig", "Default8BitOutputQuantizeConfig", "NoOpQuantizeConfig"),
    "OutputOnlyConfig",
)
# What stands for a layer's activation in tfmot, where a quantizer or the layer behind it applies it.
_NO_ACTIVATION = "NoOpActivation"
# Keras 3's order of the weights that tfmot's clustering takes out of their place.
_ORDER = ("depthwise_kernel", "pointwise_kernel", "kernel", "recurrent_kernel", "embeddings", "bias")
# Arguments that Keras 3 does not know -> the value that means nothing.
_DROPPED = {"time_major": (False,), "groups": (1, None), "filters": (None,), "implementation": (1, 2)}


@dataclass(frozen=True)
class Wrapped:
    """What a wrapper held beside its layer.

    Attributes:
        kind: `PRUNE`, `CLUSTER` or `QUANTIZE`; `POINT` for a layer that quantizes the model's inputs.
        config: The wrapper's configuration.
        values: Its own values by name, such as `"kernel_min"`; several of one name in order.
    """

    kind: str
    config: dict[str, Any]
    values: dict[str, list[Array]]


@dataclass
class Unwrapped:
    """A plain Keras 2 model, and what was around its layers.

    Attributes:
        plain: The model without wrappers.
        wrapped: Path of a layer -> what was around it.
        refused: Path of a layer -> why it cannot be taken over.
    """

    plain: Stored
    wrapped: dict[str, Wrapped] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def unwrapped(model: Stored) -> Unwrapped:
    """Take the wrappers off."""
    config = copy.deepcopy(model.config)
    if config["class_name"] not in GRAPHS:
        why = "it is a subclassed model, of which a file has no graph"
        return Unwrapped(Stored(config, {}), refused={str(config["class_name"]): why})
    config = {"class_name": config["class_name"], "config": config["config"]}
    opened = _Opened()
    values = {}
    for outer, plain in opened.graph(config["config"], ""):
        values[_name(plain)] = opened.values_of(outer, plain, model.values.get(_name(outer), []))
    return Unwrapped(Stored(config, values), opened.wrapped, opened.refused)


@dataclass(frozen=True)
class _Owner:
    """A wrapper in a configuration: where it is, and whose values are its own."""

    path: str
    kind: str
    name: str
    config: dict[str, Any]


class _Opened:
    """One walk through a configuration, whose entries become those of plain layers in place."""

    def __init__(self) -> None:
        self.wrapped: dict[str, Wrapped] = {}
        self.refused: dict[str, str] = {}
        self._owners: list[_Owner] = []

    def graph(self, config: dict[str, Any], prefix: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """`(entry with its wrapper, plain entry)` of each layer; all are in place when the last was given."""
        names = {}
        for place, outer in enumerate(config["layers"]):
            if not prefix:
                self._owners.clear()
            plain = self._plain(outer, prefix)
            config["layers"][place], names[_name(outer)] = plain, _name(plain)
            yield outer, plain
        _rename(config, names)

    def _plain(self, outer: dict[str, Any], prefix: str) -> dict[str, Any]:
        kind = _WRAPPERS.get(_class(outer), POINT if _class(outer) == POINT else None)
        plain = _legacy(outer, outer, outer["config"]) if kind is None else _inner(outer)
        path = prefix + _name(plain)
        if kind is not None:
            self._owners.append(_Owner(path, kind, _name(outer), outer["config"]))
            self.refused.update(_refused_config(path, kind, outer["config"]))
        if _class(plain) in GRAPHS:
            list(self.graph(plain["config"], path + "/"))
        else:
            self.refused.update(_refused_layer(path, plain))
            _for_keras_3(plain)
        return plain

    def values_of(self, outer: dict[str, Any], plain: dict[str, Any], held: list[Named]) -> list[Named]:
        """The values that stay the plain layer's; the others go to the wrappers that were found in it."""
        kept, alone = list(held), len(self._owners) == 1 and self._owners[0].name == _name(outer)
        for owner in self._owners:
            own = [(n, v) for n, v in kept if _is_own(owner.kind, n) and (alone or f"{owner.name}/" in n)]
            kept = [(n, v) for n, v in kept if not any(v is each for _, each in own)]
            values: dict[str, list[Array]] = {}
            for name, value in own:
                values.setdefault(_last(name), []).append(value)
            if owner.kind == POINT:
                values = {name.removeprefix(f"{owner.name}_"): value for name, value in values.items()}
            self.wrapped[owner.path] = Wrapped(owner.kind, owner.config, values)
        if any(owner.kind == CLUSTER for owner in self._owners):
            kept = _in_order(kept)
        return kept


def _in_order(values: list[Named]) -> list[Named]:
    """Values in Keras 3's order within each layer, the layers in the order in which they come."""
    layers = list(dict.fromkeys(name.rpartition("/")[0] for name, _ in values))

    def key(named: Named) -> tuple[int, int]:
        layer, _, _ = named[0].rpartition("/")
        last = _last(named[0])
        return layers.index(layer), _ORDER.index(last) if last in _ORDER else len(_ORDER)

    return sorted(values, key=key)


def _class(entry: dict[str, Any]) -> str:
    """`"Dense"` of `"Custom>Dense"`, too."""
    return str(entry["class_name"])


def _name(entry: dict[str, Any]) -> str:
    return str(entry["config"]["name"])


def _last(name: str) -> str:
    """`"kernel_min"` of `"quant_conv/kernel_min:0"`."""
    return name.split("/")[-1].split(":")[0]


def _is_own(kind: str, name: str) -> bool:
    begins, ends = _OWN[kind]
    last = _last(name)
    return last.startswith(begins) or (bool(ends) and last.endswith(ends))


def _inner(outer: dict[str, Any]) -> dict[str, Any]:
    """The entry of the layer inside a wrapper, in its place in the graph."""
    if _class(outer) == POINT:
        # It stands for the point, until the graph is rebuilt.
        return _legacy(outer, {"class_name": "Activation"}, {"name": _name(outer), "activation": "linear"})
    held = outer["config"]["layer"]
    config = dict(held["config"])
    for key in ("batch_input_shape", "trainable"):
        if key in outer["config"]:
            config.setdefault(key, outer["config"][key])
    return _legacy(outer, held, config)


def _legacy(place: dict[str, Any], layer: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """An entry in the form of .h5 files, which has no modules: what tf_keras writes elsewhere has."""
    registered = layer.get("registered_name") or ""
    name = registered if ">" in registered else layer["class_name"]
    nodes = {"inbound_nodes": place["inbound_nodes"]} if "inbound_nodes" in place else {}
    return {"class_name": name, "config": config, "name": config["name"], **nodes}


def _rename(config: dict[str, Any], names: dict[str, str]) -> None:
    """Let the calls of a graph name the layers themselves, not their wrappers, as Keras 3's reader counts calls.

    In Keras 2 a model has one call more, that of its own graph. Keras 3 allows for it at the ends of a graph only, and
    not for a Sequential.
    """
    kinds = {entry["name"]: entry["class_name"] for entry in config["layers"] if entry["class_name"] in GRAPHS}

    def renamed(value: Any, models: Collection[str]) -> Any:
        if isinstance(value, list) and len(value) >= 3 and isinstance(value[0], str) and isinstance(value[1], int):
            name, call, *rest = value
            call -= name in models
            return [names.get(name, name), call, *(renamed(each, models) for each in rest)]
        if isinstance(value, list):
            return [renamed(each, models) for each in value]
        return {key: renamed(each, models) for key, each in value.items()} if isinstance(value, dict) else value

    for entry in config["layers"]:
        if "inbound_nodes" in entry:
            entry["inbound_nodes"] = renamed(entry["inbound_nodes"], kinds)
    for key in ("input_layers", "output_layers"):
        if key in config:
            ends = renamed(config[key], [name for name, kind in kinds.items() if kind == "Sequential"])
            # Keras 3 would take a list of one for a list.
            config[key] = ends[0] if len(ends) == 1 and isinstance(ends[0], list) else ends


def _refused_config(path: str, kind: str, config: dict[str, Any]) -> dict[str, str]:
    if kind != QUANTIZE or config["quantize_config"]["class_name"].split(">")[-1] in _QUANTIZE_CONFIGS:
        return {}
    return {path: f"its QuantizeConfig is {config['quantize_config']['class_name']}, one of the user's own"}


def _refused_layer(path: str, entry: dict[str, Any]) -> dict[str, str]:
    name = _class(entry)
    if name == "QuantizeAnnotate":
        return {
            path: "it is annotated: call tfmot's `quantize_apply` first, or take over the model without annotations"
        }
    if name == "ClusterWeightsMHA":
        return {path: "clusters of attention have no twin: cluster it here, by kc.cluster_weights"}
    if hasattr(keras.layers, name) or keras.saving.get_registered_object(name) is not None:
        return {}
    if name in ("TFOpLambda", "TensorFlowOpLayer", "SlicingOpLambda"):
        return {path: "it is a call of a TensorFlow function; put it into a layer, such as keras.layers.Add, there"}
    return {path: f"Keras 3 has no {name}; register its class, `keras.saving.register_keras_serializable()`"}


def _for_keras_3(entry: dict[str, Any]) -> None:
    """Change a layer's configuration into one that Keras 3 reads."""
    config = entry["config"]
    activation = config.get("activation")
    if isinstance(activation, dict) and activation["class_name"] in ("QuantizeAwareActivation", _NO_ACTIVATION):
        config["activation"] = activation["config"].get("activation", "linear")
    if isinstance(config.get("activation"), dict) and config["activation"]["class_name"] == _NO_ACTIVATION:
        config["activation"] = "linear"
    known = _arguments(getattr(keras.layers, _class(entry), None))
    for key in [key for key in config if known and key not in known and config[key] in _DROPPED.get(key, ())]:
        del config[key]


def _arguments(layer: Any) -> set[str]:
    return set(inspect.signature(layer).parameters) if layer is not None else set()
