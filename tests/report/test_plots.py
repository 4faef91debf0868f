from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from keras_compress.report import plots


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def weights() -> tuple[np.ndarray, np.ndarray]:
    before = np.random.default_rng(0).normal(size=(40, 50))
    return before, np.where(np.abs(before) < 1, 0.0, np.sign(before))


def test_histogram_draws_few_values_as_lines_and_many_as_bars() -> None:
    before, after = weights()
    figure = plots.weight_histogram({"hidden": (before, after), "logits": (before, before)}, ("float", "3 values"))
    axes = figure.get_axes()
    assert [len(axis.patches) for axis in axes] == [80, 0, 80, 80]
    (lines,) = axes[1].collections
    heights = {round(float(path.vertices[0, 0])): float(path.vertices[1, 1]) for path in lines.get_paths()}
    assert heights == {value: pytest.approx(100 * np.mean(after == value)) for value in (-1, 0, 1)}
    assert sum(patch.get_height() for patch in axes[0].patches) == pytest.approx(100)
    assert axes[1].texts[0].get_text() == f"3 values\n{100 * np.mean(after == 0):.1f} % zeros"
    # Before and after share a scale.
    assert axes[0].get_xlim() == axes[1].get_xlim()
    assert [axis.get_title() for axis in axes[:2]] == ["float", "3 values"]
    assert png(figure)[:4] == b"\x89PNG"


def test_an_all_zero_weight_can_be_drawn() -> None:
    assert png(plots.weight_histogram({"dead": (np.zeros(4), np.zeros(4))}))


STAGES = [
    {"name": "float", "raw_bytes": 94_000, "gzip_bytes": 86_000, "weight_payload_bytes": 89_920, "accuracy": 0.9889},
    {"name": "int8 $x$", "raw_bytes": 28_000, "gzip_bytes": None, "weight_payload_bytes": 22_480},
]


def test_size_bars_have_the_lengths_and_labels_of_the_stages() -> None:
    figure = plots.size_bars(STAGES)
    (axis,) = figure.get_axes()
    assert [bar.get_width() for bar in axis.patches] == [94_000, 28_000, 86_000, 0, 89_920, 22_480]
    assert {text.get_text() for text in axis.texts} == {
        *("94,000 B", "28,000 B (3.36x less)", "86,000 B", "89,920 B", "22,480 B (4.00x less)", ""),
    }
    assert [label.get_text() for label in axis.get_yticklabels()] == ["float\naccuracy 98.89 %", r"int8 \$x\$"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["file", "file, gzip -9", "weights"]
    # The first stage is on top.
    assert axis.yaxis_inverted()
    assert png(figure)


def test_bars_of_very_different_sizes_have_a_logarithmic_axis() -> None:
    stages = [{"name": "float", "raw_bytes": 1_000_000}, {"name": "small", "raw_bytes": 10_000}]
    (axis,) = plots.size_bars(stages).get_axes()
    assert (axis.get_xscale(), axis.get_xlabel()) == ("log", "bytes, logarithmic")
    (axis,) = plots.size_bars(STAGES).get_axes()
    assert (axis.get_xscale(), axis.get_xlabel()) == ("linear", "bytes")


def test_one_size_alone() -> None:
    (axis,) = plots.size_bars([{"name": "a", "raw_bytes": 7}]).get_axes()
    assert [bar.get_width() for bar in axis.patches] == [7]


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="Expected at least one weight"):
        plots.weight_histogram({})
    with pytest.raises(ValueError, match="Expected finite weights. Received: 'w' with 1 values"):
        plots.weight_histogram({"w": (np.ones(1), np.array([np.nan]))})
    with pytest.raises(ValueError, match="Expected at least one stage"):
        plots.size_bars([])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        plots.size_bars(STAGES)
