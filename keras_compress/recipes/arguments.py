"""The arguments in a recipe, checked against what the methods take, and steps given as fractions of the training."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from keras_compress.core.registry import entries, lookup
from keras_compress.core.selection import OF_RULE
from keras_compress.core.suggest import did_you_mean
from keras_compress.recipes.schema import named, place_of

Path = list[str | int]
# What a stage says beside `config`, and what no file holds.
_OF_STAGE = ("model", "data", "teacher", "filters", "rules")
_STEPS = ("begin_step", "end_step", "frequency")
_UNITS = ("steps_per_epoch", "total_steps")
_OBJECT_KINDS = ("schedule", "weight_transform", "activation_quantizer", "channel_criterion", "weight_criterion")
# Annotation of an argument -> JSON types that it takes. Other annotations are left to the method itself.
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "Sequence[int]": (list,),
}


def check_config(stage: Mapping[str, Any], path: Path, source: str) -> None:
    """Check that the method exists and takes the arguments, at every depth, before anything is done.

    Args:
        stage: Stage as read from the file.
        path: Its place in the file.
        source: The file's name.

    Raises:
        ValueError: Naming the place in the file and what is allowed there.
    """
    methods = entries("entry_point")
    if stage["method"] not in methods:
        _refuse(f"a method out of {sorted(methods)}", [*path, "method"], source, stage["method"], methods)
    config = stage.get("config", {})
    known = _parameters(methods[stage["method"]], _OF_STAGE)
    _check_keys(config, known, [*path, "config"], source)
    _check_objects(config, [*path, "config"], source)
    _check_rules(stage, methods[stage["method"]], [*path, "rules"], source)
    if "teacher" in stage:
        _check_teacher(stage, [*path, "teacher"], source)


def _check_rules(stage: Mapping[str, Any], method: Any, path: Path, source: str) -> None:
    rules = stage.get("rules", [])
    # A method of others may not say what its rules take.
    settings: tuple[str, ...] = getattr(method, "of_rules", ())
    known = {name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in OF_RULE}
    known |= {name: p.replace(default=None) for name, p in _parameters(method).items() if name in settings}
    for index, rule in enumerate(rules if hasattr(method, "of_rules") else ()):
        _check_keys(rule, known, [*path, index], source)
    _check_objects(rules, path, source)


def _check_teacher(stage: Mapping[str, Any], path: Path, source: str) -> None:
    if not stage.get("epochs", 1):
        _refuse("no teacher where there are no epochs", path, source, stage["teacher"])
    try:
        lookup("teaching", "settings")(stage["teacher"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{error}, at {place_of(path)} of recipe {source}") from error


def _parameters(made: Any, left_out: tuple[str, ...] = ("self",)) -> dict[str, inspect.Parameter]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(made).parameters
    return {name: p for name, p in found.items() if p.kind in named and name not in left_out}


def _check_keys(config: Mapping[str, Any], known: Mapping[str, inspect.Parameter], path: Path, source: str) -> None:
    unknown = sorted(set(config) - set(known))
    if unknown:
        _refuse(f"keys out of {sorted(known)}", path, source, unknown, known)
    missing = sorted(n for n, p in known.items() if p.default is p.empty and n not in config)
    if missing:
        _refuse(f"the keys {missing} too", path, source, sorted(config))
    for name, value in config.items():
        _check_type(value, str(known[name].annotation), [*path, name], source)


def _check_type(value: Any, annotation: str, path: Path, source: str) -> None:
    options = [part.strip() for part in annotation.split("|")]
    if any(option not in (*_JSON_TYPES, "None") for option in options):
        return
    for option in options:
        if value is None and option == "None":
            return
        fits = isinstance(value, _JSON_TYPES.get(option, ()))
        # A step may be a fraction; a truth value is no number.
        fits = fits or (option == "int" and path[-1] in _STEPS and isinstance(value, float))
        if fits and (isinstance(value, bool) == (option == "bool")):
            return
    _refuse(f"a value of type {annotation}", path, source, value)


def _check_objects(value: Any, path: Path, source: str) -> None:
    """Check every `{"class_name": ..., "config": ...}` in a value."""
    if isinstance(value, list):
        for index, entry in enumerate(value):
            _check_objects(entry, [*path, index], source)
    elif isinstance(value, dict) and "class_name" in value:
        _check_object(value, path, source)
    elif isinstance(value, dict):
        for key, entry in value.items():
            _check_objects(entry, [*path, key], source)


def _check_object(value: dict[str, Any], path: Path, source: str) -> None:
    unknown = sorted(set(value) - {"class_name", "config"})
    if unknown:
        _refuse("keys out of ['class_name', 'config']", path, source, unknown, ("class_name", "config"))
    kinds = {name: kind for kind in _OBJECT_KINDS for name in entries(kind)}
    name, config = value["class_name"], value.get("config", {})
    if not isinstance(name, str) or name not in kinds:
        _refuse(f"a class out of {sorted(kinds)}", [*path, "class_name"], source, name, kinds)
    if not isinstance(config, dict):
        _refuse("an object {...}", [*path, "config"], source, config)
    _check_keys(config, _parameters(lookup(kinds[name], name)), [*path, "config"], source)
    _check_objects(config, [*path, "config"], source)


def _refuse(expected: str, path: Path, source: str, received: Any, known: Collection[str] = ()) -> None:
    said = named(received, known) if isinstance(received, list) and known else f"{received!r}"
    if known and isinstance(received, str):
        said += did_you_mean(received, known)
    raise ValueError(f"Expected {expected} at {place_of(path)} of recipe {source}. Received: {said}")


def uses_fractions(value: Any) -> bool:
    """Whether a schedule in a stage's arguments gives steps as fractions: a step with a decimal point.

    >>> uses_fractions({"class_name": "CosineDecay", "config": {"begin_step": 0, "end_step": 0.7}})
    True
    """
    if isinstance(value, (list, tuple)):
        return any(uses_fractions(entry) for entry in value)
    if not isinstance(value, Mapping):
        return False
    if _in_fractions(value):
        return True
    return any(uses_fractions(entry) for entry in value.values())


def _in_fractions(value: Mapping[str, Any]) -> bool:
    config = value.get("config")
    if value.get("class_name") not in entries("schedule") or not isinstance(config, Mapping):
        return False
    if any(config.get(unit) is not None for unit in _UNITS):
        return False
    return any(isinstance(config.get(step), float) for step in _STEPS)


def resolve_fractions(value: Any, total_steps: int) -> Any:
    """A copy of a stage's arguments in which schedules that use fractions know the length of the training.

    Args:
        value: Arguments as JSON types.
        total_steps: Training batches of the stage.

    Raises:
        ValueError: For fractions of a training without steps.
    """
    if isinstance(value, (list, tuple)):
        return [resolve_fractions(entry, total_steps) for entry in value]
    if not isinstance(value, Mapping):
        return value
    copy = {key: resolve_fractions(entry, total_steps) for key, entry in value.items()}
    if not _in_fractions(copy):
        return copy
    if total_steps < 1:
        raise ValueError(f"Expected `epochs` >= 1 where steps are fractions of the training. Received: {value!r}")
    config = {**copy["config"], "total_steps": total_steps}
    if isinstance(config.get("frequency"), float):
        config["frequency"] = max(1, round(config["frequency"] * total_steps))
    return {**copy, "config": config}
