"""Select layers: by name, path, regular expression, class or callable; and rules made of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import keras

Selector = Any
PathsAndLayers = Sequence[tuple[str, keras.layers.Layer]]
# What a rule says beside settings.
OF_RULE = ("layers", "skip", "optional")
_Method = TypeVar("_Method", bound=Callable[..., Any])


def rules_take(*settings: str) -> Callable[[_Method], _Method]:
    """Decorator of a method with `rules`: which of its arguments a rule may set, so that recipes are checked early.

    Args:
        settings: Names of arguments.
    """

    def note(method: _Method) -> _Method:
        vars(method)["of_rules"] = settings
        return method

    return note


def exactly(path: str, paths: Collection[str] | None = None) -> str:
    """The selector of one path: a path alone is also the name of other layers, or `"first"` or `"last"`.

    Args:
        path: Of the layer.
        paths: Of all layers: where the path alone names no other of them, it is the selector, which reads better.

    >>> exactly("block/dense.1"), exactly("dense", ["dense", "conv"]), exactly("dense", ["dense", "block/dense"])
    ('re:^block/dense\\\\.1$', 'dense', 're:^dense$')
    """
    if paths is not None and path not in ("first", "last") and not any(each.endswith(f"/{path}") for each in paths):
        return path
    return f"re:^{re.escape(path)}$"


def select(selector: Selector, candidates: PathsAndLayers, optional: bool = False) -> set[str]:
    """Paths of the layers that a selector names.

    Args:
        selector: One of: a layer's name or path; `"re:PATTERN"`, searched for in the path; `"class:NAME"` or a class;
            `"first"` or `"last"`; a callable `layer -> bool`; a list of these.
        candidates: `(path, layer)` pairs in the order of the model.
        optional: Whether it may name none.

    Raises:
        ValueError: If it names no layer, or is none of these.
    """
    if isinstance(selector, (list, tuple)):
        found = set().union(*(select(each, candidates, optional) for each in selector))
        return found if found or (optional and selector) else _none(selector, candidates)
    if selector in ("first", "last"):
        found = {candidates[0 if selector == "first" else -1][0]} if candidates else set()
    else:
        matches = _matcher(selector)
        found = {path for path, layer in candidates if matches(path, layer)}
    return found if found or optional else _none(selector, candidates)


def selected(rule: Mapping[str, Any], candidates: PathsAndLayers) -> set[str]:
    """Paths of the layers that a rule is about.

    Raises:
        ValueError: As `select` does; for a rule that names no layer unless it says `"optional": True`.
    """
    return select(rule["layers"], candidates, bool(rule.get("optional")))


def _none(selector: Selector, candidates: PathsAndLayers) -> set[str]:
    raise ValueError(
        "Expected a rule that matches a compressible layer: a name, 're:PATTERN', 'class:NAME', a class, a callable, "
        f"'first' or 'last'. Received: {selector!r}, which matches none of {[path for path, _ in candidates][:20]}"
    )


def _matcher(selector: Selector) -> Callable[[str, keras.layers.Layer], bool]:
    if isinstance(selector, type):
        return lambda path, layer: isinstance(layer, selector)
    if callable(selector):
        return lambda path, layer: bool(selector(layer))
    if not isinstance(selector, str):
        raise ValueError(
            "Expected a layer's name, 're:PATTERN', 'class:NAME', a class or a callable. "
            f"Received: {selector!r} of type {type(selector).__name__}"
        )
    if selector.startswith("re:"):
        try:
            pattern = re.compile(selector[3:])
        except re.error as error:
            raise ValueError(f"Expected a regular expression after 're:'. Received: {selector!r} ({error})") from error
        return lambda path, layer: pattern.search(path) is not None
    if selector.startswith("class:"):
        name = selector[6:]
        return lambda path, layer: any(cls.__name__ == name for cls in type(layer).__mro__)
    return lambda path, layer: selector in (path, layer.name)


def settings_by_path(
    candidates: PathsAndLayers,
    defaults: Mapping[str, Any],
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, dict[str, Any]]:
    """The settings of each layer that is to be worked on.

    Args:
        candidates: `(path, layer)` pairs of the compressible layers.
        defaults: Settings that hold where no rule says otherwise.
        filters: Selector of the layers to work on, as in `keras.Model.quantize`; all by default.
        rules: `{"layers": selector, "skip": True}` or `{"layers": selector, setting: value, ...}`; a later rule
            overrides an earlier one. `"optional": True` beside that: it may match nothing.

    Raises:
        ValueError: For a rule without layers, with an unknown setting, or that matches nothing.
    """
    chosen = {path for path, _ in candidates} if filters is None else select(filters, candidates)
    settings = {path: dict(defaults) for path, _ in candidates if path in chosen}
    for rule in rules or ():
        unknown = set(rule) - {*OF_RULE} - set(defaults)
        if "layers" not in rule or unknown:
            allowed = sorted({*OF_RULE[1:], *defaults})
            raise ValueError(f"Expected a rule with `layers` and any of {allowed}. Received: {dict(rule)!r}")
        for path in selected(rule, candidates):
            if rule.get("skip"):
                settings.pop(path, None)
            elif path in settings:
                settings[path].update({k: v for k, v in rule.items() if k not in OF_RULE})
    return settings
