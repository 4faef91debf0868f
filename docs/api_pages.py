"""Pages of the API reference: one for each part of the package, with every public name, made when the site is built."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).resolve().parents[1] / "keras_compress"
# Where names are listed, and how those that are `keras_compress.NAME` only through a part of it are told.
NAMES = (PACKAGE / "__init__.pyi", PACKAGE / "blocks" / "__init__.py")
TITLES = {
    "pruning": "Pruning",
    "structured": "Channels",
    "clustering": "Clustering",
    "quantizers": "Quantizers",
    "post_training": "After training",
    "factorization": "Low rank and compact forms",
    "blocks": "Compact blocks",
    "distillation": "Distillation",
    "pipelines": "Pipelines",
    "gradients": "Codecs of gradients",
    "migrate": "Coming from tfmot",
    "recipes": "Recipes",
    "convert": "Converting",
    "runtime": "Running and measuring",
    "tflite": "Files",
    "report": "Reports",
    "data": "Data and training",
    "calibration": "Calibration",
    "graph": "Graphs",
    "core": "Foundations",
}


def public_names() -> dict[str, list[tuple[str, str]]]:
    """Part of the package -> `(name, module)` of what `keras_compress` exports from it."""
    parts = defaultdict(list)
    lines = [line for path in NAMES for line in ast.parse(path.read_text(encoding="utf-8")).body]
    for line in lines:
        if isinstance(line, ast.ImportFrom):
            parts[str(line.module).split(".")[1]] += [(alias.name, str(line.module)) for alias in line.names]
    return parts


def page(part: str, names: list[tuple[str, str]]) -> str:
    """Markdown of one page."""
    through = "`keras_compress.blocks`." if part == "blocks" else f"`keras_compress` out of `keras_compress.{part}`."
    lines = [f"# {TITLES.get(part, part)}", "", f"Names of {through}"]
    for name, module in sorted(names, key=lambda entry: (entry[0][0].isupper(), entry[0])):
        lines += ["", f"::: {module}.{name}"]
    return "\n".join(lines) + "\n"


def on_config(config: Any) -> Any:
    """Put the pages into the navigation."""
    parts = public_names()
    order = [*(part for part in TITLES if part in parts), *sorted(set(parts) - set(TITLES))]
    entry = next(entry for entry in config["nav"] if "API" in entry)
    entry["API"] = [{TITLES.get(part, part): f"api/{part}.md"} for part in order]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, which no folder holds."""
    for part, names in public_names().items():
        files.append(File.generated(config, f"api/{part}.md", content=page(part, names)))
    return files
