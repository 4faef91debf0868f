"""What a run found: figures of every stage, one table, and report.json."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console

from keras_compress.convert.files import write_atomic
from keras_compress.core.printable import printable
from keras_compress.report.page.render import energy_saved, html_of
from keras_compress.report.sheet import Column, Sheet
from keras_compress.report.stages import machine, versions
from keras_compress.report.tables import measurement_table
from keras_compress.runtime.verification import Verification

FILE_NAME = "report.json"
# The page, and the figures that it is made from besides those of the report.
PAGE_NAME, FIGURES_NAME = "report.html", "report_page.json"
# Where no terminal tells its width, the whole table fits.
WIDTH = 110


def header(seconds: float) -> dict[str, Any]:
    """What every report says of the run itself."""
    return {"seconds": seconds, "machine": machine(), "versions": versions()}


def verification_table(found: Verification) -> Sheet:
    """Every operator on every kernel: largest difference in steps, share of the values that differ, and unexplained."""
    names = list(dict.fromkeys(row.name for row in found.rows))
    cells = {(row.name, row.kernel): row for row in found.rows}
    columns = [Column("operator", names, text=True)]
    for kernel in dict.fromkeys(row.kernel for row in found.rows):
        rows = [cells.get((name, kernel)) for name in names]
        steps = ["" if r is None else f"{r.max_lsb}{'' if r.ok else ' !'}" for r in rows]
        columns.append(Column(f"{kernel}\nsteps", steps))
        columns.append(Column("\ndiffer", ["" if r is None else f"{r.fraction_differing:.3%}" for r in rows]))
        columns.append(Column("unex-\nplained", ["" if r is None else f"{r.fraction_unexplained:.3%}" for r in rows]))
    return Sheet(columns)


def verification_entry(found: Verification) -> dict[str, Any]:
    """A verification as JSON types, with lines to print."""
    kernels = {}
    lines = []
    for kernel in dict.fromkeys(row.kernel for row in found.rows):
        rows = [row for row in found.rows if row.kernel == kernel]
        outputs = [output.argmax_agreement for output in found.outputs if output.kernel == kernel]
        agreements = [agreement for agreement in outputs if agreement is not None]
        entry = {
            "operators": len(rows),
            "max_lsb": max(row.max_lsb for row in rows),
            "max_fraction_differing": max(row.fraction_differing for row in rows),
            "max_fraction_unexplained": max(row.fraction_unexplained for row in rows),
            "argmax_agreement": min(agreements, default=None),
            "ok": all(row.ok for row in rows),
        }
        kernels[kernel] = entry
        agreement = "" if not agreements else f", argmax equal on {min(agreements):.2%} of the images"
        lines.append(
            f"{'Verified' if entry['ok'] else 'NOT VERIFIED'} on {kernel}: {entry['operators']} operators, at most "
            f"{entry['max_lsb']} step in {entry['max_fraction_differing']:.3%} of the values, "
            f"{entry['max_fraction_unexplained']:.3%} beyond the kernels' own arithmetic{agreement}."
        )
    lines += [f"Not verified on {kernel}: {reason}." for kernel, reason in found.skipped.items()]
    if found.first_failure is not None:
        lines.append(f"The first operator beyond its bound is {found.first_failure.name!r}.")
    return {"ok": found.ok, "kernels": kernels, "skipped": dict(found.skipped), "lines": lines}


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Warnings are kept for the report: they would tear the progress line apart."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield texts
        finally:
            texts += list(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)))


def save(report: Mapping[str, Any], folder: Path) -> None:
    """Write report.json, whole or not at all."""
    write_atomic(folder / FILE_NAME, (json.dumps(report, indent=2, allow_nan=False) + "\n").encode())


def save_page(report: Mapping[str, Any], figures: Mapping[str, Any], folder: Path) -> list[str]:
    """Write the page and what it is made from, each whole or not at all.

    Args:
        report: As in report.json.
        figures: What `page_figures` gave.
        folder: Where both go.

    Returns:
        What is to be said: which file it is, or why there is none.
    """
    write_atomic(folder / FIGURES_NAME, json.dumps(figures, separators=(",", ":"), allow_nan=False).encode())
    try:
        _write_page({**figures, **report}, folder / PAGE_NAME)
    except ImportError as error:
        again = f"keras-compress report --out={folder / PAGE_NAME}"
        return [f"No {PAGE_NAME}: {error}. `{again}` makes it from what is in the folder."]
    return [f"{folder / PAGE_NAME} shows it layer by layer."]


def _write_page(figures: Mapping[str, Any], path: Path) -> None:
    write_atomic(path, html_of(figures).encode())


def load(folder: Path) -> dict[str, Any]:
    """Read report.json.

    Raises:
        OSError: If it is not there.
        ValueError: If it is not one of this library's.
    """
    path = folder / FILE_NAME
    try:
        report: dict[str, Any] = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected a report in JSON. Received: {path} ({error})") from error
    rows = report.get("stages") if isinstance(report, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "name" in row for row in rows):
        raise ValueError(f"Expected a report with a list of `stages` that have names. Received: {path}")
    return report


def show(values: flags.FlagValues, report: Mapping[str, Any], *more: str) -> None:
    """Print the table of a report, and what is to be said of it; with --json the report."""
    table = measurement_table(report["stages"], report.get("title"))
    saved = energy_saved(report["stages"])
    said = (*report.get("verification", {}).get("lines", ()), *report.get("notes", ()), *saved, *more)
    answer(values, report, [table], said)


def answer(values: flags.FlagValues, figures: Mapping[str, Any], tables: Sequence[Any], lines: Sequence[str]) -> None:
    """What a command found: tables and lines to read, or with --json one JSON document alone.

    Args:
        values: The command's flags.
        figures: All that was found, as JSON types; `notes` are the lines unless they are in it.
        tables: Renderables.
        lines: Below the tables.
    """
    if values.json:
        # Figures may be NumPy's scalars.
        print(
            json.dumps({"notes": list(lines), **figures}, indent=2, allow_nan=False, default=lambda each: each.item())
        )
        return
    for table in tables:
        console_for_tables().print(table)
    say(*lines)


def say(*lines: str) -> None:
    """Print lines as they are: no markup, no line breaks of our own."""
    console = console_for_tables()
    for line in lines:
        console.print(printable(line, keep="\n"), markup=False, highlight=False, soft_wrap=True)


def console_for_tables() -> Console:
    """stdout, wide enough for the tables where no terminal says how wide it is."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(console.width, WIDTH))


def run(values: flags.FlagValues) -> None:
    """`keras-compress report`."""
    out = Path(values.out)
    wants_page = out.suffix.lower() == ".html"
    folder = out.parent if wants_page else out
    report = load(folder)
    try:
        show(values, report)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"Expected a report with figures in it. Received: {folder / FILE_NAME} ({error})") from error
    if wants_page:
        _write_page({**_figures(folder), **report}, out)
        if not values.json:
            say(f"{out} shows it layer by layer.")


def _figures(folder: Path) -> dict[str, Any]:
    """What a run kept for the page; nothing for a run that kept none: the page then has the table alone."""
    path = folder / FIGURES_NAME
    if not path.exists():
        return {"machine": machine(), "versions": versions()}
    try:
        figures = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected figures in JSON. Received: {path} ({error})") from error
    if not isinstance(figures, dict):
        raise ValueError(f"Expected figures as a JSON object. Received: {path}")
    return figures
