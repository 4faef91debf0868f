"""What a recipe may contain, and errors that say where in the file it does not."""

from __future__ import annotations

from typing import Any

import jsonschema

from keras_compress.core.printable import printable

VERSION = 1

_SELECTOR = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
    ]
}
_RULE = {"type": "object", "required": ["layers"], "properties": {"layers": _SELECTOR, "skip": {"type": "boolean"}}}
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
        "epochs": {"type": "integer", "minimum": 0},
        "learning_rate": {"type": "number", "exclusiveMinimum": 0},
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
        "stages": {"type": "array", "minItems": 1, "items": _STAGE},
    },
}
_VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def check(recipe: Any, source: str) -> None:
    """Check the shape of a recipe: keys, types and ranges.

    Args:
        recipe: What was read from the file.
        source: The file's name, for the error.

    Raises:
        ValueError: For the first mistake, naming its place in the file and what is allowed there.
    """
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


def place_of(path: list[str | int]) -> str:
    """Where in the file, in words.

    >>> place_of(["stages", 0, "config"]), place_of([])
    ('`stages[0].config`', 'the top')
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return f"`{text.lstrip('.')}`" if text else "the top"


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
    bounds = {"minimum": "a number >= ", "exclusiveMinimum": "a number > "}
    if mistake.validator in bounds:
        return f"{bounds[mistake.validator]}{mistake.validator_value}"
    return "something, not nothing,"


def _received(mistake: Any) -> str:
    if mistake.validator == "additionalProperties":
        return repr(sorted(set(mistake.instance) - set(mistake.schema["properties"])))
    if mistake.validator == "required":
        return repr(sorted(mistake.instance))
    text = repr(mistake.instance)
    return text if len(text) <= 80 else text[:77] + "..."
