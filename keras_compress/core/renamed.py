"""Arguments that have moved into a value class: their old names work for one release, and say the new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from keras_compress.core.suggest import did_you_mean
from keras_compress.core.warn import warn


def with_earlier(
    function: str, parts: Mapping[str, Any], earlier: Mapping[str, Any], places: Mapping[str, tuple[str, str]]
) -> dict[str, Any]:
    """The parts of a call, with what was given by an old name put into them.

    Args:
        function: Name of the function, for messages.
        parts: Argument -> dataclass.
        earlier: What was given by old names.
        places: Old name -> argument, and the name in its class.

    Raises:
        TypeError: For a name that never was one.
        ValueError: For the same thing by its old and its new name.
    """
    renamed, defaults = dict(parts), {part: type(value)() for part, value in parts.items()}
    for name, value in earlier.items():
        if name not in places:
            near = did_you_mean(name, [*parts, *places])
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{near}")
        part, field = places[name]
        if getattr(parts[part], field) != getattr(defaults[part], field):
            raise ValueError(
                f"Expected {name!r} either by itself or as `{field}` of `{part}`. "
                f"Received: {name}={value!r}, {part}={parts[part]!r}"
            )
        # As a default: the fields that were not given keep theirs.
        renamed[part] = replace(renamed[part], **{field: value})
        kind = type(renamed[part]).__name__
        warn(f"{function}({name}=...) is {part}=kc.{kind}({field}=...) now.", DeprecationWarning)
    return renamed
