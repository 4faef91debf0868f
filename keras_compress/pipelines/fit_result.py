"""What `fit_to` found: the files, which of them none other beats, and the best within the budget."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras

from keras_compress.convert.files import write_atomic
from keras_compress.core.outputs import check_output
from keras_compress.core.shown import Shown, columns
from keras_compress.pipelines.fit_space import Setting
from keras_compress.report.page.render import html_of
from keras_compress.report.page.report import page_figures
from keras_compress.report.stages import Deployed, stage_rows
from keras_compress.runtime.measure import Metric


@dataclass(frozen=True)
class Candidate:
    """One trial that was made into a file.

    Attributes:
        number: Of the trial.
        setting: What was done.
        validation: Metric of the file on its runtime, on the validation data, by which choices are made.
        figures: What it costs: `bytes`, and what the budget asks.
        reasons: What of the budget it does not keep; empty where it keeps all.
        path: The file; the Keras model is beside it.
        test: Metric on the test data; `None`: not measured.
    """

    number: int
    setting: Setting
    validation: float
    figures: Mapping[str, float]
    reasons: tuple[str, ...]
    path: Path
    test: float | None = None

    @property
    def content(self) -> bytes:
        """The `.tflite` file."""
        return self.path.read_bytes()

    @property
    def model(self) -> keras.Model:
        """The Keras model, not compiled."""
        return keras.models.load_model(self.path.with_suffix(".keras"), compile=False)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {**asdict(self), "setting": self.setting.to_dict(), "path": os.fspath(self.path)}


@dataclass(frozen=True)
class Stopped:
    """One trial that was not made into a file.

    Attributes:
        number: Of the trial.
        setting: What was to be done.
        figures: What an untrained file costs; empty where there is none.
        excess: The most that a figure is above its limit, as a share of it.
        reason: What stopped it.
    """

    number: int
    setting: Setting
    figures: Mapping[str, float]
    excess: float
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {**asdict(self), "setting": self.setting.to_dict()}


@dataclass(frozen=True, repr=False)
class Fitted(Shown):
    """What `fit_to` found.

    Attributes:
        best: The candidate within the budget, and within `max_drop`, with the highest metric on the validation data; of
            equals the smallest. `None`: there is none.
        nearest: Where there is no best: what comes nearest, a `Candidate` or a `Stopped`; `None` without any trial.
        missing: What stops the nearest, in words.
        pareto: Candidates that no other beats: at least as good in metric and all figures, better in one. Best metric
            first.
        candidates: All files, in the order of their trials.
        stopped: Trials that were not made into a file, and why.
        baseline: Metric of the model given, on the validation data.
        limits: Name of a figure -> the most of it.
        max_drop: Loss of the metric that is tolerated.
        target: What files are for.
        notes: What is to be said of the search.
        float_path: The float32 file of the model given.
    """

    best: Candidate | None
    nearest: Candidate | Stopped | None
    missing: str
    pareto: tuple[Candidate, ...]
    candidates: tuple[Candidate, ...]
    stopped: tuple[Stopped, ...]
    baseline: float
    limits: Mapping[str, float]
    max_drop: float | None
    target: str
    notes: tuple[str, ...] = ()
    float_path: Path | None = None

    @property
    def met(self) -> bool:
        """Whether there is a file within the budget that loses no more than `max_drop`."""
        return self.best is not None

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines."""
        limits = ", ".join(f"{name} {most:,.6g}" for name, most in self.limits.items())
        verdict = "within the budget" if self.met else "NOTHING within the budget"
        rows = [("budget", f"{limits}, for {self.target}"), ("model given", f"{self.baseline:.4g}")]
        if self.best is not None:
            rows += [("best", _line(self.best)), ("done", str(self.best.setting)), ("file", os.fspath(self.best.path))]
        elif self.nearest is not None:
            rows += [("nearest", str(self.nearest.setting)), ("but", self.missing)]
        rows.append(
            ("trials", f"{len(self.candidates)} files, {len(self.pareto)} of them .pareto, {len(self.stopped)} stopped")
        )
        return f"Fitted, {verdict}", rows

    def table(self) -> str:
        """The Pareto set, a line for each file."""
        names = list(dict.fromkeys(name for each in self.pareto for name in each.figures))
        head = ("trial", "validation", "test", *names, "within", "what was done")
        rows = [
            (
                str(each.number),
                f"{each.validation:.4f}",
                "" if each.test is None else f"{each.test:.4f}",
                *(f"{each.figures[name]:,.6g}" for name in names),
                "yes" if not each.reasons else "no",
                str(each.setting),
            )
            for each in self.pareto
        ]
        return "\n".join(columns([head, *rows]))

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "met": self.met,
            "best": None if self.best is None else self.best.to_dict(),
            "nearest": None if self.nearest is None else self.nearest.to_dict(),
            "missing": self.missing,
            "pareto": [each.to_dict() for each in self.pareto],
            "candidates": [each.to_dict() for each in self.candidates],
            "stopped": [each.to_dict() for each in self.stopped],
            "baseline": self.baseline,
            "limits": dict(self.limits),
            "max_drop": self.max_drop,
            "target": self.target,
            "notes": list(self.notes),
        }

    def save_report(
        self, path: str | os.PathLike[str], x: Any = None, y: Any = None, *, metric: Metric | None = None
    ) -> None:
        """Write the page: float file and Pareto set side by side, each measured here, and the best one in detail.

        Args:
            path: Ends in `.html`.
            x: Test data; without it there are no accuracies.
            y: Labels.
            metric: In place of the accuracy.

        Raises:
            ValueError: Where there is no file to show, or for another ending.
            ImportError: Without jinja2 and matplotlib, which the extra `report` brings.
        """
        page = check_output(path, ".html")
        shown = [*reversed(self.pareto)]
        last = self.best or (shown[-1] if shown else None)
        if last is None:
            raise ValueError(f"Expected at least one file to show. Received: none: {self.missing}")
        ordered = [*(each for each in shown if each.number != last.number), last]
        given = (
            {} if self.float_path is None else {"float32": Deployed(self.float_path.read_bytes(), None, self.target)}
        )
        stages = given | {f"trial {each.number}": Deployed(each.content, None, self.target) for each in ordered}
        rows, said = stage_rows(stages, x, y, metric)
        done = [f"trial {each.number}: {each.setting}." for each in ordered]
        figures = page_figures(rows, last.content, notes=[*repr(self).splitlines(), *done, *said])
        title = "Make it fit" if self.met else "Make it fit: nothing within the budget"
        figures |= {"title": title, "command": None, "max_drop": self.max_drop}
        write_atomic(page, html_of(figures).encode())


def pareto(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that none other beats, best metric first; of equals the first."""

    def at_least(one: Candidate, other: Candidate) -> bool:
        smaller = all(value <= other.figures[name] for name, value in one.figures.items())
        return one.validation >= other.validation and smaller

    def beaten(each: Candidate) -> bool:
        return any(
            at_least(other, each) and (not at_least(each, other) or other.number < each.number)
            for other in candidates
            if other.number != each.number
        )

    kept = [each for each in candidates if not beaten(each)]
    return sorted(kept, key=lambda each: (-each.validation, each.figures["bytes"]))


def _line(candidate: Candidate) -> str:
    figures = ", ".join(f"{name} {value:,.6g}" for name, value in candidate.figures.items())
    test = "" if candidate.test is None else f", {candidate.test:.4g} on the test data"
    return f"{candidate.validation:.4g} on the validation data{test}; {figures}"
