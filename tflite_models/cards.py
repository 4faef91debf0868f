"""The table and the cards of `README.md`, made of `figures.json`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from files import FILES, LABELS, LICENCE, TASKS, metadata

Figures = Mapping[str, Mapping[str, Any]]
PARTS = ("table", "cards")
RUNTIMES = {"litert": "LiteRT", "tflm": "TFLite-Micro"}
_SHAPES = {"digits": "8, 8, 1", "fashion_mnist": "28, 28, 1"}
_DATA = {
    "digits": "digits of the UCI repository, CC BY 4.0",
    "fashion_mnist": "Fashion-MNIST, MIT licence",
}
_NONE = "-"


def page(text: str, found: Figures) -> str:
    """The page with what stands between its markers written anew."""
    for part, made in zip(PARTS, (table(found), cards(found)), strict=True):
        begin, end = f"<!-- {part}: written by make.py -->", f"<!-- end of {part} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"Expected {begin} and {end} once each in the page")
        text = re.sub(f"{begin}.*{end}", lambda _, new=f"{begin}\n{made}\n{end}": new, text, flags=re.DOTALL)
    return text


def table(found: Figures) -> str:
    """A row for each file."""
    head = ("file", "accuracy", "bytes", "`gzip -9`", "arena", "LiteRT, ms", "TFLite-Micro, ms")
    lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for name, each in found.items():
        cells = (
            f"[`{name}`](#{name})",
            _percent(next(iter(_of_runtimes(each).values()), None)),
            f"{each['raw_bytes']:,}",
            f"{each['gzip_bytes']:,}",
            f"{each['tflm']['arena_bytes']:,}" if "tflm" in each else _NONE,
            *(_median(each.get(runtime)) for runtime in RUNTIMES),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cards(found: Figures) -> str:
    """A card for each file."""
    return "\n\n".join(card(name, found) for name in found)


def card(name: str, found: Figures) -> str:
    """What is to be known of one file."""
    file, each = FILES[name], found[name]
    rows = [
        ("task", TASKS[file.data]),
        ("made", file.made),
        ("data", f"{_DATA[file.data]}; see [data](#data)"),
        ("input", f"`image`, {_dtype(name)}, (1, {_SHAPES[file.data]})"),
        ("output", f"`logits`, {_dtype(name)}, (1, 10): {', '.join(LABELS[file.data])}"),
        ("metadata", "names, scaling of pixels and labels, in the file" if metadata(name) else "none in the file"),
        ("runs on", ", ".join(RUNTIMES[runtime] for runtime in file.runtimes)),
        *_figures(each),
        *_latencies(name, found),
        ("licence", f"{LICENCE}, as the library"),
        ("sha256", f"`{each['sha256']}`"),
    ]
    return "\n".join([f"### {name}", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows)])


def _dtype(name: str) -> str:
    return "float32" if FILES[name].options.get("mode") == "float32" else "int8"


def _of_runtimes(each: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {name: each[name] for name in RUNTIMES if name in each}


def _figures(each: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (
            f"accuracy on {RUNTIMES[name]}",
            f"{_percent(said)}: {said['right']:,} of {said['images']:,} test images, {said['right_of_part']} of the "
            f"first {said['part']}",
        )
        for name, said in _of_runtimes(each).items()
    ]
    rows.append(("file", f"{each['raw_bytes']:,} B, {each['gzip_bytes']:,} B after `gzip -9`"))
    rows.append(
        (
            "weights",
            f"{each['weight_payload_bytes']:,} B, {100 * each['sparsity']:.2f} % zeros, at most "
            f"{each['distinct_values']:,} values in a tensor",
        )
    )
    if "tflm" in each:
        rows.append(("arena of TFLite-Micro", f"{each['tflm']['arena_bytes']:,} B on a 64-bit host"))
    return rows


def _latencies(name: str, found: Figures) -> list[tuple[str, str]]:
    baseline, rows = FILES[name].baseline, []
    for runtime, said in _of_runtimes(found[name]).items():
        taken = said["latency"]
        beside = ""
        if baseline != name and runtime in found.get(baseline, {}):
            times = taken["median_ms"] / found[baseline][runtime]["latency"]["median_ms"]
            beside = f", {times:.2f} times that of `{baseline}`"
        rows.append(
            (
                f"latency on {RUNTIMES[runtime]}",
                f"{_ms(taken['median_ms'])} ms ({_ms(taken['p10_ms'])} to {_ms(taken['p90_ms'])}, 10 % to 90 % of "
                f"{taken['runs']:,} runs){beside}; 1 thread, {taken['delegate']}, version {taken['version']}, "
                f"{taken['cpu']}",
            )
        )
    return rows


def _percent(said: Mapping[str, Any] | None) -> str:
    return _NONE if said is None else f"{100 * said['right'] / said['images']:.2f} %"


def _median(said: Mapping[str, Any] | None) -> str:
    return _NONE if said is None else _ms(said["latency"]["median_ms"])


def _ms(value: float) -> str:
    return f"{value:.3g}"
