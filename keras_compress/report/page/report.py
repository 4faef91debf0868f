"""`report`: one page that shows what a compression did, from the files and models themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_compress.convert.artifact import Artifact
from keras_compress.convert.files import write_atomic
from keras_compress.core import progress
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.outputs import check_output
from keras_compress.core.shown import Shown
from keras_compress.data.samples import input_specs, samples
from keras_compress.report.page.charts import sensitivity_figures
from keras_compress.report.page.file_map import file_map
from keras_compress.report.page.layers import layer_rows
from keras_compress.report.page.memory import memory_over_time
from keras_compress.report.page.render import html_of
from keras_compress.report.page.weights import weight_rows
from keras_compress.report.stages import Deployed, machine, stage_rows, versions
from keras_compress.report.summary import ModelSummary, summary
from keras_compress.runtime.adb import adb_lines
from keras_compress.runtime.deployed import content_of
from keras_compress.runtime.measure import Metric, accuracy
from keras_compress.runtime.verification import Verification
from keras_compress.runtime.verify import verify

File = Artifact | bytes | str | os.PathLike[str]
# Samples on which layers are compared, and operators verified.
_LAYER_SAMPLES, _VERIFIED_SAMPLES = 32, 128
# What the file is called in commands.
_SAVED_AS = "model.tflite"


@dataclass(frozen=True, repr=False)
class Report(Shown):
    """What `report` found.

    Attributes:
        figures: Everything on the page, as JSON types.
    """

    figures: dict[str, Any]

    def html(self) -> str:
        """The page: one file without references to anything else."""
        return html_of(self.figures)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page, whole or not at all.

        Args:
            path: Ends in `.html`.

        Raises:
            ValueError: For another ending.
            ImportError: Without jinja2 and matplotlib, which the extra `report` brings.
            OSError: If it cannot be written; an older file stays.
        """
        write_atomic(check_output(path, ".html"), self.html().encode())

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines."""
        rows = [(str(row["name"]), f"{row['raw_bytes']:,} B") for row in self.figures["stages"]]
        return f"Report: {self.figures['title']}", [*rows, ("page", "`save('report.html')` writes it")]


@progress.shown("report")
@global_state_kept()
def report(
    files: File | Mapping[str, File],
    x: Any = None,
    y: Any = None,
    *,
    model: keras.Model | None = None,
    original: keras.Model | None = None,
    verification: Verification | None = None,
    sensitivity: Any = None,
    metric: Metric | None = None,
    title: str | None = None,
    command: str | None = None,
    max_drop: float | None = None,
) -> Report:
    """Measure converted models and gather what there is to see of the last one, layer by layer.

    Args:
        files: What `convert` returned, or name -> such a file, its bytes or its path, from the first stage to the last,
            which is shown in detail.
        x: Test data as for `model.predict`: for accuracies, and for what layers compute. Without it the page has sizes,
            weights and latency only.
        y: Labels; see `kc.measure`.
        model: The model that the last file was converted from.
        original: The model before compression; `model` by default.
        verification: What `kc.verify` found of the last file; by default it is asked here where `x` and the file's
            frozen model are known.
        sensitivity: What `kc.sensitivity` found, to be drawn.
        metric: In place of the accuracy; see `kc.measure`.
        title: Of the page.
        command: How to make the page again, to be shown.
        max_drop: Loss of the metric that is tolerated, to be drawn as a line: 0.01 is a point of accuracy.

    Returns:
        The report; `save` writes the page.

    Raises:
        ValueError: For no files, damaged ones, or data that do not fit.
    """
    stages = dict(files) if isinstance(files, Mapping) else {"model": files}
    if not stages:
        raise ValueError("Expected at least one file. Received: none")
    deployed = {name: _deployed(file, x, y, metric) for name, file in stages.items()}
    rows, said = stage_rows(deployed, x, y, metric)
    last = next(reversed(stages))
    artifact = stages[last]
    known = artifact if isinstance(artifact, Artifact) else None
    if verification is None and x is not None and known is not None and known.frozen is not None:
        progress.step("verifying")
        verification = verify(known, model, _first(x, known.frozen, _VERIFIED_SAMPLES), strict=False)
    figures = page_figures(
        rows,
        deployed[last].content,
        artifact=known,
        model=model,
        original=original,
        x=x,
        verification=verification,
        sensitivity=sensitivity,
        notes=said,
    )
    return Report(
        {"title": title or f"Compression of {_name(model, last)}", "command": command, "max_drop": max_drop, **figures}
    )


def _name(model: keras.Model | None, last: str) -> str:
    return last if model is None else str(model.name)


def _deployed(file: File, x: Any, y: Any, metric: Metric | None) -> Deployed:
    content, _ = content_of(file)
    if not isinstance(file, Artifact):
        return Deployed(content, None)
    if file.frozen is None or x is None or y is None:
        return Deployed(content, None, file.runtime)
    inputs = samples(x, input_specs(file.frozen))
    outputs = file.frozen.predict(inputs if len(inputs) > 1 else inputs[0], verbose=0)
    return Deployed(content, (metric or accuracy)(keras.tree.flatten(outputs), y), file.runtime)


def page_figures(
    stages: Sequence[Mapping[str, Any]],
    content: bytes,
    *,
    artifact: Artifact | None = None,
    model: keras.Model | None = None,
    original: keras.Model | None = None,
    x: Any = None,
    verification: Verification | None = None,
    sensitivity: Any = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """All figures of the page but its title, as JSON types.

    Args:
        stages: What `stage_rows` gave.
        content: The file that is shown in detail.
        artifact: What `convert` said of it.
        notes: What is to be said of the stages.
        model, original, x, verification, sensitivity: As for `report`.
    """
    frozen = None if artifact is None else artifact.frozen
    overview = None if model is None else summary(model, print_fn=lambda _: None)
    layers = []
    if frozen is not None and x is not None:
        layers = layer_rows(frozen, model, _first(x, frozen, _LAYER_SAMPLES), verification)
    return {
        "stages": list(stages),
        "file": _file(content, artifact),
        "map": file_map(content),
        "weights": weight_rows(content, overview, model if original is None else original),
        "layers": layers,
        "memory": memory_over_time(content),
        "outputs": _outputs(verification),
        "kernels": _kernels(verification),
        "sensitivity": None if sensitivity is None else sensitivity_figures(sensitivity),
        "notes": [*notes, *_said(artifact, overview, verification)],
        "phone": [] if artifact is None or artifact.target != "litert" else adb_lines(_SAVED_AS),
        "machine": machine(),
        "versions": versions(),
    }


def _first(x: Any, frozen: keras.Model, count: int) -> list[Any]:
    return [array[:count] for array in samples(x, input_specs(frozen))]


def _file(content: bytes, artifact: Artifact | None) -> dict[str, Any]:
    asked = {} if artifact is None else {key: getattr(artifact, key) for key in ("target", "mode", "io")}
    return {"raw_bytes": len(content), **asked}


def _outputs(found: Verification | None) -> list[dict[str, Any]]:
    """Each output, from the trained model to the frozen one."""
    return [] if found is None or found.distance is None else found.distance.report()["outputs"]


def _kernels(found: Verification | None) -> list[dict[str, Any]]:
    """Each output on each runtime, beside the frozen model's."""
    if found is None:
        return []
    return [
        {
            "output": row.name,
            "kernel": row.kernel,
            "max_difference": row.max_difference,
            "differing": row.fraction_differing,
            "argmax_agreement": row.argmax_agreement,
        }
        for row in found.outputs
    ]


def _said(artifact: Artifact | None, overview: ModelSummary | None, verification: Verification | None) -> list[str]:
    """What was refused, left, or noted on the way."""
    said = [] if overview is None else overview.notes()[1:]
    if artifact is not None:
        said += [f"Left in float32: {op.op} at {op.tensor}: {op.reason}" for op in artifact.float_ops]
        said += artifact.notes
    if verification is not None:
        said += verification.notes
        said += [f"Not verified on {kernel}: {reason}." for kernel, reason in verification.skipped.items()]
        said += [] if verification.unexplained is None else [f"Not explained by rounding: {verification.unexplained}"]
        if (failure := verification.first_failure) is not None:
            said.append(f"Not verified: {failure.name} on {failure.kernel} is beyond its bound.")
    return list(dict.fromkeys(said))
