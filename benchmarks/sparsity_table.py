"""The tables of `docs/pruning.md`, `docs/lottery_ticket.md` and `docs/sparse_training.md`, made of the results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

from low_rank_table import _goals, _table
from post_training_table import page

Rows = Sequence[Mapping[str, Any]]
TITLES = {"lenet300": "LeNet-300-100", "resnet8": "ResNet-8"}
# A sparsity that was not reached as nearly as this is told.
NEAR = 0.005
# Sparsities of the rounds that are shown.
SHOWN = (0.2, 0.5, 0.8, 0.9, 0.95, 0.98)


def _results(results: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((results / "sparsity.json").read_text())
    return found


def _percent(values: Sequence[float]) -> str:
    spread = f" ± {100 * pstdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.2f}{spread}"


def _cell(rows: Rows, target: float) -> str:
    """The mean accuracy, and the sparsity where it is another one than was asked for."""
    own = [row for row in rows if row["target"] == target]
    if not own:
        return ""
    reached = mean(row["sparsity"] for row in own)
    told = f" ({100 * reached:.1f} %)" if abs(reached - target) > NEAR else ""
    return _percent([row["accuracy"] for row in own]) + told


def _of_net(found: Mapping[str, Any], net: str) -> str:
    rows = [row for row in found["rows"] if row["net"] == net and "method" in row]
    dense = [row["accuracy"] for row in rows if row["method"] == "dense"]
    pruned = [row for row in rows if row["method"] != "dense"]
    targets = sorted({row["target"] for row in pruned})
    lines: list[list[str]] = []
    for group in dict.fromkeys(row["group"] for row in pruned):
        lines.append([f"**{group}**", *("" for _ in targets)])
        names = dict.fromkeys(row["method"] for row in pruned if row["group"] == group)
        for name in names:
            own = [row for row in pruned if row["method"] == name and row["group"] == group]
            lines.append([name, *(_cell(own, target) for target in targets)])
    size = found["settings"]["weights"].get(net, 0)
    epochs = found["settings"]["epochs"][net]
    head = f"### {TITLES.get(net, net)}: {size:,} parameters, {epochs:g} epochs in all, dense {_percent(dense)} %\n"
    return "\n".join([head, _table(["", *(f"{100 * each:g} % zeros" for each in targets)], lines)])


def accuracies(results: Path) -> str:
    """Every method at every sparsity, a table for each network."""
    found = _results(results)
    settings = found["settings"]
    nets = list(dict.fromkeys(row["net"] for row in found["rows"] if "method" in row))
    told = (
        f"Fashion-MNIST, {settings['images']:,} images, as many steps in all for each row, batches of "
        f"{settings['batch_size']}, Adam; % right of the test images.\n"
        f"With ±: mean and standard deviation over {len(found['seeds'])} seeds; others "
        "are of one seed, of which differences below 0.3 points say nothing. In brackets: the sparsity reached, where "
        "it is not the one asked for.\n"
    )
    return "\n".join([told, *(_of_net(found, net) for net in nets), _goals(found)])


def rewinding(results: Path) -> str:
    """The searches by 20 % a round: the rounds nearest to some sparsities."""
    found = _results(results)
    rows = [row for row in found["rows"] if "curve" in row]
    if not rows:
        return "Not measured yet.\n"
    lines = []
    for wanted in SHOWN:
        cells: dict[str, list[float]] = {}
        for row in rows:
            nearest = min(row["rounds"], key=lambda each: abs(each["sparsity"] - wanted))
            cells.setdefault("sparsity", []).append(nearest["sparsity"])
            cells.setdefault(row["curve"], []).append(nearest["metric"])
            if nearest["control"] is not None:
                cells.setdefault("control", []).append(nearest["control"])
        names = ("ticket", "control", "learning-rate rewinding", "fine-tuning")
        lines.append([f"{100 * mean(cells['sparsity']):.1f} %", *(_percent(cells.get(n, [0.0])) for n in names)])
    dense = [row["rounds"][0]["metric"] for row in rows if row["curve"] == "ticket"]
    head = ["zeros", "ticket", "its masks, other initial weights", "learning-rate rewinding", "fine-tuning"]
    epochs = found["settings"]["round_epochs"]
    told = f"LeNet-300-100, % right; whole network {_percent(dense)} %; each round {epochs:g} epochs.\n"
    return "\n".join([told, _table(head, lines)])


def step_times(results: Path) -> str:
    """The first step and those behind it over the float network's."""
    found = json.loads((results / "pruner_steps.json").read_text())
    rows, nets = found["rows"], list(dict.fromkeys(row["net"] for row in found["rows"]))
    lines = []
    for name in dict.fromkeys(row["pruner"] for row in rows):
        own = {row["net"]: row for row in rows if row["pruner"] == name}
        cells = [f"{own[net][key]:.2f}" if net in own else "" for net in nets for key in ("ratio", "first_ratio")]
        lines.append([f"`{name}`", *cells])
    head = ["", *(f"{TITLES[net]}, {what}" for net in nets for what in ("step", "first step"))]
    met = sum(goal["met"] for goal in found["goals"])
    told = f"Goals (1.15 for a step, 2 for the first): {met} of {len(found['goals'])} met. {found['machine']['cpu']}.\n"
    return "\n".join([_table(head, lines), told])


TABLES = {"sparsity table": ("sparsity", accuracies)}
OF_STEPS = {"step table": ("pruner_steps", step_times)}
OF_TICKETS = {"rewinding table": ("sparsity", rewinding)}


def write_pages() -> None:
    """Put the tables of the results into their pages."""
    folder = Path(__file__).resolve().parent
    for name, tables in (("pruning", TABLES), ("lottery_ticket", OF_TICKETS), ("sparse_training", OF_STEPS)):
        path = folder.parent / "docs" / f"{name}.md"
        path.write_text(page(path, tables, folder / "results"))


if __name__ == "__main__":
    write_pages()
