"""The recipes that come with the package, as files."""

from __future__ import annotations

from pathlib import Path

from keras_compress.core.suggest import did_you_mean

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the packaged recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def path_of(name: str, or_else: str = "") -> Path:
    """The file of a packaged recipe.

    Args:
        name: The recipe's.
        or_else: What else is taken, for the message.

    Raises:
        ValueError: For another name, with the nearest one.
    """
    known = names()
    if name not in known:
        raise ValueError(f"Expected a recipe out of {known}{or_else}. Received: {name!r}{did_you_mean(name, known)}")
    return FOLDER / f"{name}.json"
