"""The list of methods. Everything that enumerates methods (recipes, command line, conformance tests, docs) reads it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import keras

from keras_compress.core.providers import providers
from keras_compress.core.suggest import did_you_mean

PACKAGE = "keras_compress"
_Registered = TypeVar("_Registered", bound=Callable[..., Any])
_ENTRIES: dict[str, dict[str, Any]] = {}
# How names of a kind may end, and users need not write it.
_ENDINGS = {"activation_quantizer": "activation", "gradient_codec": "codec", "weight_criterion": "saliency"}


def register(kind: str, name: str | None = None) -> Callable[[_Registered], _Registered]:
    """Decorator that enters a class or function under `kind`; Keras's loader learns of classes with `from_config`.

    A class outside this package is known to Keras under the name of its own package, and to recipes, the command line
    and `kc.Name` by its name: import the module that has it first (`--import=module` on the command line).

    Args:
        kind: `"schedule"`, `"weight_transform"`, `"activation_quantizer"`, `"gradient_quantizer"`, `"constraint"`,
            `"observer"`, `"layer"`, `"channel_rule"`, `"channel_criterion"`, `"weight_criterion"`, `"distillation"`,
            `"cost"`, `"codec"`, `"gradient_codec"`, `"sensitivity"`, `"bit_choice"`, `"entry_point"`, or, of what runs
            and shows files, `"target"`, `"estimator"`, `"probe"` or `"report"`.
        name: Name in recipes; the object's own name by default.

    Raises:
        ValueError: If the name is taken.
    """

    def enter(registered: _Registered) -> _Registered:
        key = name or registered.__name__
        taken = _ENTRIES.setdefault(kind, {})
        if key in taken:
            raise ValueError(f"Expected a new {kind} name. Received: {key!r}, which is registered already.")
        taken[key] = registered
        if hasattr(registered, "from_config"):
            keras.saving.register_keras_serializable(package=registered.__module__.split(".")[0])(registered)
        return registered

    return enter


def entries(kind: str) -> dict[str, Any]:
    """All that is registered under `kind`, by name; modules that are known to have such objects are imported first."""
    for module in providers(kind):
        importlib.import_module(module)
    return dict(_ENTRIES.get(kind, {}))


def lookup(kind: str, name: str) -> Any:
    """The object registered as `name`, which may be written in lower case with underscores: `"ste_sign"`.

    Raises:
        ValueError: If there is none; the message lists the names there are.
    """
    known = entries(kind)
    if name in known:
        return known[name]
    by_alias = {_alias(key, kind): key for key in known}
    if not isinstance(name, str) or _alias(name, kind) not in by_alias:
        article = "an" if kind[0] in "aeiou" else "a"
        raise ValueError(
            f"Expected {article} {kind} out of {sorted(known)}. Received: {name!r}{did_you_mean(name, known)}"
        )
    return known[by_alias[_alias(name, kind)]]


def _alias(name: str, kind: str) -> str:
    """What names are compared by: `"ste_sign"` is `SteSign`, and among activation quantizers `SteSignActivation`."""
    plain = name.replace("_", "").lower()
    return plain.removesuffix(_ENDINGS.get(kind, ""))


def import_methods(package: str, path: Iterable[str]) -> None:
    """Import every module of a package of methods, so that a new file registers itself without an edit elsewhere."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


def resolve(kind: str, identifier: Any) -> Any:
    """An object from what a user or a recipe may write for it.

    Args:
        kind: Kind of the registry.
        identifier: An object already made, a registered name, or `{"class_name": name, "config": {...}}`.

    Raises:
        ValueError: For an unknown name or unknown keys.
    """
    if isinstance(identifier, str):
        identifier = {"class_name": identifier}
    if isinstance(identifier, dict):
        unknown = set(identifier) - {"class_name", "config"}
        if unknown or "class_name" not in identifier:
            raise ValueError(f"Expected a {kind} as {{'class_name': ..., 'config': {{...}}}}. Received: {identifier!r}")
        made = lookup(kind, identifier["class_name"])
        try:
            return made(**identifier.get("config", {}))
        except TypeError as error:
            raise ValueError(
                f"Expected the arguments of {identifier['class_name']}. Received: {identifier.get('config')}: {error}"
            ) from error
    return identifier
