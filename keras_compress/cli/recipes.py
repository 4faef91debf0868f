"""The command that lists the recipes."""

from __future__ import annotations

import json
from typing import Any

from absl import flags

from keras_compress.recipes import packaged


def run(values: flags.FlagValues) -> None:
    """`keras-compress recipes`."""
    if values.show is not None:
        print(packaged.path_of(values.show).read_text(encoding="utf-8"), end="")
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
    for name in packaged.names():
        recipe = json.loads(packaged.path_of(name).read_text(encoding="utf-8"))
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
