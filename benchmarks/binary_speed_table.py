"""The tables of `docs/native.md`, made of the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from post_training_table import page

PATHS = {"portable": "portable", "avx2": "AVX2", "neon": "NEON", "avx512": "AVX-512"}


def _results(results: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((results / f"{name}.json").read_text())
    return found


def _table(columns: list[str], lines: list[list[str]]) -> str:
    head = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    return "\n".join([*head, *("| " + " | ".join(cells) + " |" for cells in lines)]) + "\n"


def layers(results: Path) -> str:
    """Rows of layers, and the goals."""
    found = _results(results, "binary_speed")
    rows = found["rows"][:-1]
    paths = [path for path in PATHS if path in rows[0]["ms"]]
    best = paths[-1]
    over = [f"float32 / {PATHS[best]}", f"int8 / {PATHS[best]}"]
    columns = ["layers", "float32", "int8", *(PATHS[path] for path in paths), *over]
    lines = [
        [
            row["what"],
            *(f"{row['ms'][name]:.3g}" for name in ("float32", "int8", *paths)),
            *(f"{row[f'{name}_over_{best}']:.1f}" for name in ("float32", "int8")),
        ]
        for row in rows
    ]
    missed = [goal for goal in found["goals"] if not goal["met"]]
    machine = found["machine"]
    told = [
        f"{machine['cpu']} with AVX512-VNNI, which XNNPACK multiplies bytes with; load {machine['load_average'][0]}."
    ]
    told.append(
        f"Goals (8 times float32, 3 times int8): {len(found['goals']) - len(missed)} of {len(found['goals'])} met."
    )
    told += [f"**Missed**: {goal['name']}: {goal['value']:.3g} ({goal['bound']})." for goal in missed]
    return _table(columns, lines) + "\n" + "\n".join(told) + "\n"


def nets(results: Path) -> str:
    """The whole net."""
    row = _results(results, "binary_speed")["rows"][-1]
    names = {"float32": "ResNet-18, float32", "int8": "ResNet-18, int8"}
    names["binary on stock kernels"] = "binary, on stock kernels"
    names |= {path: f"binary, kc_binary on {called}" for path, called in PATHS.items()}
    ms = row["ms"]
    lines = [
        [title, f"{ms[name]:.3g}", *(f"{ms[other] / ms[name]:.1f}" for other in list(names)[:3])]
        for name, title in names.items()
        if name in ms
    ]
    table = _table(["224x224", "ms", "float32 / it", "int8 / it", "binary on stock kernels / it"], lines)
    same = "the same" if row["equal_outputs"] else "NOT the same"
    return f"{table}\n{row['operators']} operators were taken; outputs are {same} as on stock kernels, bit for bit.\n"


def exact(results: Path) -> str:
    """What was compared bit for bit."""
    rows = _results(results, "binary_exact")["rows"]
    differing = sum(row["differing"] for row in rows)
    return (
        f"Exactness (`--exact`): {rows[0]['layers']:,} layers of random settings on each of "
        f"{', '.join(row['path'] for row in rows)}, {rows[0]['values']:,} values each:\n"
        f"{differing} differ from stock LiteRT. On AArch64 the kernels give the integers of x86-64, run by qemu in\n"
        "the tests; they have not been timed there.\n"
    )


def kinds(results: Path) -> str:
    """Layers of other weights and activations than signs."""
    rows = [row for row in _results(results, "binary_kinds")["rows"] if row["kind"] != "net"]
    paths = [path for path in reversed(PATHS) if path in rows[0]["ms"]]
    columns = ["layers", "int8", *(PATHS[path] for path in paths), *(f"int8 / {PATHS[path]}" for path in paths)]
    lines = [
        [
            row["what"],
            *(f"{row['ms'][name]:.3g}" for name in ("int8", *paths)),
            *(f"{row[f'int8_over_{path}']:.2f}" for path in paths),
        ]
        for row in rows
    ]
    return _table(columns, lines)


def sizes(results: Path) -> str:
    """Bytes of files."""
    rows = [row for row in _results(results, "binary_kinds")["rows"] if row.get("size") in (None, "dense 1024")]
    lines = [[row["what"], *(f"{row['bytes'][name]:,}" for name in ("int8", "bits", "huffman"))] for row in rows]
    return _table(["file", "int8", "bits", "Huffman"], lines)


TABLES = {
    "layers table": ("binary_speed", layers),
    "nets table": ("binary_speed", nets),
    "exact table": ("binary_exact", exact),
}
# Not measured on every machine that the others were.
if (Path(__file__).resolve().parent / "results" / "binary_kinds.json").is_file():
    TABLES |= {"kinds table": ("binary_kinds", kinds), "sizes table": ("binary_kinds", sizes)}

if __name__ == "__main__":
    folder = Path(__file__).resolve().parent
    native = folder.parent / "docs" / "native.md"
    native.write_text(page(native, TABLES, folder / "results"))
