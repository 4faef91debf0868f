"""The command that lists the recipes. Light: loads neither Keras nor TensorFlow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from absl import flags

from keras_compress.core.suggest import did_you_mean

FOLDER = Path(__file__).parents[1] / "recipes"


def run(values: flags.FlagValues) -> None:
    """`keras-compress recipes`."""
    if values.show is not None:
        print(_path_of(values.show).read_text(encoding="utf-8"), end="")
        return
    rows = listed()
    if values.json:
        print(json.dumps(rows, indent=2))
        return
    print("\n".join(line for row in rows for line in _lines(row)))
    print("\n`keras-compress recipes --show=NAME` prints one, to be changed; docs/recipes.md tells the format.")


def listed() -> list[dict[str, Any]]:
    """Every packaged recipe: `name`, `goal`, `gives`, `description`, and the `epochs` that it trains for in all."""
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        recipe = json.loads(path.read_text(encoding="utf-8"))
        epochs = sum(stage.get("epochs", 1) for stage in recipe["stages"])
        found.append(
            {key: recipe.get(key, "") for key in ("name", "goal", "gives", "description")} | {"epochs": epochs}
        )
    return found


def _lines(row: dict[str, Any]) -> list[str]:
    import textwrap

    trained = f"{row['epochs']} epochs" if row["epochs"] else "no training"
    about = textwrap.wrap(f"{row['goal']}: {row['gives']}", 76, initial_indent="  ", subsequent_indent="  ")
    return [f"{row['name']} ({trained})", *about]


def _path_of(name: str) -> Path:
    names = [path.stem for path in sorted(FOLDER.glob("*.json"))]
    if name not in names:
        raise ValueError(f"Expected a recipe out of {names}. Received: {name!r}{did_you_mean(name, names)}")
    return FOLDER / f"{name}.json"
