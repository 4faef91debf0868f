"""What a recipe may contain, and errors that say where in the file it does not."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import jsonschema

from keras_compress.core.printable import printable
from keras_compress.core.suggest import did_you_mean

VERSION = 1
# Beyond these a number is a slip of the pen: no training ends, or none survives its first step.
MOST_EPOCHS = 1_000_000
HIGHEST_RATE = 1000.0

_SELECTOR = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
    ]
}
_RULE = {
    "type": "object",
    "required": ["layers"],
    "properties": {"layers": _SELECTOR, "skip": {"type": "boolean"}, "optional": {"type": "boolean"}},
}
_STAGE = {
    "type": "object",
    "required": ["name", "method"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "method": {"type": "string", "minLength": 1},
        "config": {"type": "object"},
        "filters": _SELECTOR,
        "rules": {"type": "array", "items": _RULE},
        "teacher": {"type": "object"},
        "epochs": {"type": "integer", "minimum": 0, "maximum": MOST_EPOCHS},
        "learning_rate": {"type": "number", "exclusiveMinimum": 0, "maximum": HIGHEST_RATE},
    },
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["version", "name", "stages"],
    "additionalProperties": False,
    "properties": {
        "version": {"const": VERSION},
        "name": {"type": "string", "minLength": 1},
        "description": {"type": "string"},
        "goal": {"type": "string"},
        "gives": {"type": "string"},
        "stages": {"type": "array", "minItems": 1, "items": _STAGE},
    },
}
# JSON Schema takes 1.0 for an integer, and Python's JSON 1e999 for a number.
_TYPES = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
    "integer", lambda checker, value: isinstance(value, int) and not isinstance(value, bool)
)
_VALIDATOR = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=_TYPES)(SCHEMA)


def check(recipe: Any, source: str) -> None:
    """Check the shape of a recipe: keys, types and ranges.

    Args:
        recipe: What was read from the file.
        source: The file's name, for the error.

    Raises:
        ValueError: For the first mistake, naming its place in the file and what is allowed there.
    """
    _check_numbers(recipe, [], source)
    mistake = next(iter(sorted(_VALIDATOR.iter_errors(recipe), key=lambda e: (len(e.absolute_path), str(e)))), None)
    if mistake is not None:
        place = place_of(list(mistake.absolute_path))
        expected, received = _expectation(mistake), _received(mistake)
        raise ValueError(f"Expected {expected} at {place} of recipe {source}. Received: {received}")
    _check_texts(recipe, [], source)


def _check_texts(value: Any, path: list[str | int], source: str) -> None:
    """Names reach terminals, in progress lines and tables: characters that a terminal obeys are refused."""
    if isinstance(value, str) and not value.replace("\n", " ").replace("\t", " ").isprintable():
        raise ValueError(f"Expected printable text at {place_of(path)} of recipe {source}. Received: {value!r}")
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, entry in entries:
        _check_texts(entry, [*path, printable(key) if isinstance(key, str) else key], source)


def _check_numbers(value: Any, path: list[str | int], source: str) -> None:
    """Refuse numbers that are NaN or infinite, at any depth.

    Raises:
        ValueError: Naming the place in the file.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"Expected a finite number at {place_of(path)} of recipe {source}. Received: {value}")
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    )
    for key, entry in children:
        _check_numbers(entry, [*path, key], source)


def place_of(path: list[str | int]) -> str:
    """Where in the file, in words.

    >>> place_of(["stages", 0, "config"]), place_of([])
    ('`stages[0].config`', 'the top')
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return f"`{text.lstrip('.')}`" if text else "the top"


def named(unknown: Collection[str], known: Collection[str]) -> str:
    """Names that are none, and what the first that is near to a known one may have meant.

    >>> named({"eopchs"}, {"epochs", "name"})
    "['eopchs'] (did you mean 'epochs'?)"
    """
    meant = (did_you_mean(name, known) for name in sorted(unknown))
    return f"{sorted(unknown)}{next(filter(None, meant), '')}"


def _expectation(mistake: Any) -> str:
    if mistake.validator == "additionalProperties":
        return f"keys out of {sorted(mistake.schema['properties'])}"
    if mistake.validator == "required":
        return f"the keys {mistake.validator_value}"
    if mistake.validator == "const":
        return f"{mistake.validator_value!r}"
    if mistake.validator == "anyOf":
        return "a selector of layers (text, or a list of texts)"
    if mistake.validator == "type":
        return {"object": "an object {...}", "array": "a list [...]", "string": "a text"}.get(
            mistake.validator_value, f"a value of type {mistake.validator_value}"
        )
    bounds = {"minimum": "a number >= ", "exclusiveMinimum": "a number > ", "maximum": "a number <= "}
    if mistake.validator in bounds:
        return f"{bounds[mistake.validator]}{mistake.validator_value}"
    return "something, not nothing,"


def _received(mistake: Any) -> str:
    if mistake.validator == "additionalProperties":
        return named(set(mistake.instance) - set(mistake.schema["properties"]), mistake.schema["properties"])
    if mistake.validator == "required":
        return repr(sorted(mistake.instance))
    text = repr(mistake.instance)
    return text if len(text) <= 80 else text[:77] + "..."
