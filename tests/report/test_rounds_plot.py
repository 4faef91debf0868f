"""Rounds of pruning as figures."""

from __future__ import annotations

from pathlib import Path

import pytest

import keras_compress as kc
from keras_compress.pruning.rounds import PruningRound
from keras_compress.report.rounds_plot import chosen, rounds_plot


def rounds(count: int, control: bool = False) -> tuple[PruningRound, ...]:
    made = []
    for number in range(count):
        curve = tuple((step, 0.9 - 0.5 / (1 + step / 20) - 0.01 * number) for step in range(0, 101, 20))
        lower = tuple((step, value - 0.02 * number) for step, value in curve)
        more = {"control": lower[-1][1], "control_curve": lower} if control and number else {}
        made.append(PruningRound(number, 1 - 0.8**number, curve[-1][1], 100, curve=curve if control else (), **more))
    return tuple(made)


def result(count: int, control: bool = False) -> kc.PrunedInRounds:
    found = rounds(count, control)
    return kc.PrunedInRounds(None, found[-1].sparsity, found[-1].metric, found[0].metric, True, found)


def test_lines_have_the_figures_of_the_rounds(tmp_path: Path) -> None:
    results = {"ticket": result(14, control=True), "fine-tuning $x$": result(10)}
    path = tmp_path / "rounds.png"
    figure = rounds_plot(results, path, "LeNet", metric="accuracy")
    by_sparsity, by_step = figure.get_axes()
    lines = {line.get_label(): line for line in by_sparsity.get_lines()}
    assert list(lines)[:3] == ["ticket", "ticket, other initial weights", r"fine-tuning \$x\$"]
    assert lines["ticket"].get_xdata()[:3] == pytest.approx([100, 80, 64])
    assert lines["ticket"].get_ydata()[-1] == results["ticket"].metric
    # The control begins with the first round that was pruned, and is told apart without colour.
    assert lines["ticket, other initial weights"].get_xdata()[0] == pytest.approx(80)
    assert lines["ticket, other initial weights"].get_linestyle() == "--"
    assert len({line.get_marker() for line in by_sparsity.get_lines()[:3:2]}) == 2
    # Fewer weights stand on the right.
    assert by_sparsity.xaxis_inverted()
    assert [text.get_text() for text in by_step.get_legend().get_texts()] == [
        "100 %",
        "51.2 %",
        "26.2 %",
        "10.7 %",
        "5.5 %",
    ]
    assert len(by_step.get_lines()) == 5 + 4
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_trainings_are_chosen_by_sparsity() -> None:
    found = rounds(14, control=True)
    assert [each.number for each in chosen(found, [0.0, 0.5, 0.51, 0.9])] == [0, 3, 10]
    assert [each.number for each in chosen(found[:2], None)] == [0, 1]


def test_one_result_without_trainings_is_one_pair_of_axes() -> None:
    figure = result(5).plot()
    assert len(figure.get_axes()) == 1
    with pytest.raises(ValueError, match="Expected 1 to 8 results"):
        rounds_plot({})
