"""What becomes of a random graph: converted, refused by name, or a finding, sorted into kinds.

The oracle is the float Keras model and TensorFlow's own files of it: the float one, and its int8 post-training
quantization with the same data. A graph is *ill-conditioned* where 8 bits are too few for anybody: where the Keras
model itself, with weights and each layer's outputs rounded to 8 bits (`rounded`), loses as much, or TensorFlow's file
has less than `LEAST_DB`.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from tests_graph_tensorflow import TensorFlowFiles, tensorflow_files
from tests_graphs import Array, Built, Description, build, data, inputs_of, names_of, outputs_of, randomize

import keras_compress as kc
from keras_compress.runtime import deployed
from keras_compress.runtime.target import target

SAMPLES, OP_SAMPLES = 48, 16
MOST_LOSS_DB, LEAST_DB, LEAST_FLOAT_DB = 1.0, 10.0, 60.0
# Beyond this, two int8 files differ by how single values happen to fall.
ENOUGH_DB = 45.0
# Where TensorFlow has no file of integers: what more steps inside a layer may cost than one at its end.
MOST_INSIDE_DB = 8.0
# Seeds of weights and data that a loss must show for, most of them.
SEEDS = 5
# Refusals by the library's own checks of what it made: faults all the same.
_CHECKS = ("Expected all weights in the file", "Expected the frozen ")


@dataclass
class Finding:
    """What was found out about one graph.

    Attributes:
        status: `"ok"`, `"refused"`, `"internal"`, `"verify"`, `"loss"`, `"ill"` (ill-conditioned) or `"empty"` (the
            Keras model's own outputs are not finite, or do not vary).
        kind: The status with what makes findings alike: the message without names and numbers, the layers.
        detail: The message, or the figures.
        db: For each output: ours, TensorFlow's int8 file's, and the rounded Keras model's.
        seconds: CPU time of each part.
    """

    status: str
    kind: str = ""
    detail: str = ""
    db: list[dict[str, float]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return self.status in ("ok", "refused", "ill", "empty")


class Clock:
    """CPU seconds between calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.process_time()

    def lap(self, name: str) -> None:
        now = time.process_time()
        self.seconds[name] = round(now - self._last, 2)
        self._last = now


def sqnr_db(reference: Array, found: Array) -> float:
    """Signal to quantization noise, in dB, of what varies; at most 99."""
    reference, found = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (reference, found))
    noise = float(np.square(reference - found).mean())
    signal = float(np.square(reference - reference.mean(axis=0)).mean())
    if not np.isfinite(noise) or signal <= 0:
        return -99.0
    return 99.0 if noise == 0 else float(np.clip(10 * np.log10(signal / noise), -99.0, 99.0))


def _varies(values: Array) -> bool:
    """Whether the samples differ by more than rounding."""
    return float(np.ptp(values, axis=0).max()) > 1e-4 * float(np.abs(values).max())


def predicted(model: keras.Model, x: Mapping[str, Array]) -> list[Array]:
    """Outputs of a Keras model, in its order."""
    values = [x[tensor.name] for tensor in model.inputs] if len(x) > 1 else next(iter(x.values()))
    # Said, as Keras's layers for images train by default, and layers behind them follow: BatchNormalization, too.
    found = model(values, training=False)
    return [np.asarray(tensor) for tensor in keras.tree.flatten(found)]


def grid_of(values: Array) -> Array:
    """Rounded to the 256 steps of their range, which holds 0."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    step = (high - low) / 255 or 1.0
    return ((np.rint(values / step)) * step).astype(values.dtype)


def rounded(description: Description, x: Mapping[str, Array]) -> list[Array]:
    """Outputs of the Keras model with weights and the outputs of each layer on 8 bits: no converter is asked."""
    built = Built(description)
    model = build_from(built)
    randomize(model, description[0].get("seed", 0))
    for weight in model.weights:
        if "kernel" in weight.name or weight.name == "embeddings":
            weight.assign(_rounded_weight(np.asarray(weight)))
    values: list[Any] = []
    for number, node in enumerate(description):
        if "rows" in node:
            values.append(x[f"x{number}"])
        else:
            found = x[f"x{number}"] if "input" in node else np.asarray(built.run(number, values))
            values.append(grid_of(found))
    return [values[number] for number in outputs_of(description)]


def build_from(built: Built) -> keras.Model:
    """The model of a description's tensors."""
    return keras.Model(
        [built.tensors[i] for i in inputs_of(built.description)],
        [built.tensors[i] for i in outputs_of(built.description)],
    )


def _rounded_weight(weight: Array) -> Array:
    step = np.abs(weight).max(axis=tuple(range(weight.ndim - 1)), keepdims=True) / 127
    return np.where(step > 0, np.rint(weight / np.where(step > 0, step, 1)) * step, weight).astype(weight.dtype)


def sorted_out(error: Exception, description: Description) -> Finding:
    """The finding of an exception: refused by name, or internal."""
    text = " ".join(str(error).split())
    named = any(name in text for name in ["'graph'", *_layer_names(description)])
    in_form = isinstance(error, ValueError) and "Expected" in text and "Received" in text
    refused = in_form and named and not text.startswith(_CHECKS)
    status = "refused" if refused else "verify" if isinstance(error, kc.VerificationError) else "internal"
    return Finding(status, f"{status}: {type(error).__name__}: {normalized(text)}", text[:1500])


def _layer_names(description: Description) -> list[str]:
    model = build(description)
    layers = (layer.name for layer in model._flatten_layers(include_self=False))
    # Those of functions end in numbers, which say how many there were before in the process.
    functions = (re.sub(r"_\d+$", "", operation.name) for operation in model.operations)
    return sorted({*layers, *functions} - {"x0", "x1"})


def normalized(message: str) -> str:
    """A message without what differs between findings of a kind: names, numbers, shapes."""
    message = re.sub(r"'[^']*?([a-z0-9]+)_at_\d+[^']*'", r"<\1>", message)
    message = re.sub(r"([a-z0-9]+)_at_\d+[\w./:;]*", r"<\1>", message)
    message = re.sub(r"0x[0-9a-f]+|[-+]?\d+(\.\d+)?(e-?\d+)?%?", "N", message)
    return re.sub(r"N(, ?N)+,?", "N", message)[:220]


def examine(description: Description, *, compare: bool = True, verify: bool = True, seeds: int = SEEDS) -> Finding:
    """Convert one graph to int8 and judge the file.

    Args:
        description: The graph.
        compare: Against TensorFlow's files; else against the rounded Keras model first, theirs where that is better.
        verify: Run `kc.verify` on LiteRT's kernels.
        seeds: Of weights and data, most of which must show a loss that one shows.
    """
    clock = Clock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            finding = _judged(description, compare, verify, clock)
            if finding.status == "loss" and not compare:
                compare, finding = True, _judged(description, True, False, clock)
        except Exception as error:
            finding = sorted_out(error, description)
        if finding.status == "loss" and seeds > 1:
            finding = _confirmed(description, finding, compare, seeds)
    finding.seconds = clock.seconds
    return finding


def _confirmed(description: Description, finding: Finding, compare: bool, seeds: int) -> Finding:
    """The loss, if most seeds show one."""
    others = [_judged(reseeded(description, seed), compare, False, Clock()) for seed in range(1, seeds)]
    losing = 1 + sum(other.status == "loss" for other in others)
    if losing * 2 > seeds:
        finding.notes.append(f"{losing} of {seeds} seeds")
        return finding
    return Finding("ok", db=finding.db, notes=[f"a loss for {losing} of {seeds} seeds: {finding.detail}"])


def reseeded(description: Description, by: int) -> Description:
    """The same graph with other weights and data."""
    first = {**description[0], "seed": description[0].get("seed", 0) + 1000 * by}
    return [first, *description[1:]]


def _judged(description: Description, compare: bool, verify: bool, clock: Clock) -> Finding:
    keras.backend.clear_session()
    model, x = build(description), data(description, SAMPLES)
    expected = predicted(model, x)
    clock.lap("build")
    if any(not np.isfinite(a).all() for a in expected) or not any(map(_varies, expected)):
        return Finding("empty", "empty: outputs that are not finite, or do not vary")
    inputs = [x[tensor.name] for tensor in model.inputs]
    artifact = kc.convert(model, representative_dataset=inputs if len(inputs) > 1 else inputs[0])
    clock.lap("convert")
    ours = deployed.run(target("litert"), artifact.content, inputs, "graph")
    if verify:
        kc.verify(artifact, None, inputs, op_samples=OP_SAMPLES)
    clock.lap("verify")
    theirs = tensorflow_files(description, SAMPLES) if compare else TensorFlowFiles(None, None)
    clock.lap("tensorflow")
    return _weighed(description, x, expected, ours, theirs)


def _weighed(
    description: Description, x: Mapping[str, Array], expected: list[Array], ours: list[Array], theirs: TensorFlowFiles
) -> Finding:
    """Our file's distance from the Keras model, beside TensorFlow's and the rounded model's."""
    finding = Finding("ok", notes=[theirs.problem] if theirs.problem else [])
    coarse = rounded(description, x)
    files = {"tensorflow": theirs.int8_outputs, "mixed": theirs.mixed_outputs, "float": theirs.float_outputs}
    for number, reference in enumerate(expected):
        if _varies(reference):
            found = {"ours": ours[number], "rounded": coarse[number]}
            found |= {key: outputs[number] for key, outputs in files.items() if outputs is not None}
            finding.db.append({key: round(sqnr_db(reference, values), 2) for key, values in found.items()})
    verdicts = [_verdict(row) for row in finding.db]
    finding.status = next((v for v in ("float", "loss", "ill") if v in verdicts), "ok")
    if finding.status in ("float", "loss"):
        row = finding.db[verdicts.index(finding.status)]
        what = "float, not finite" if row.get("float") == -99.0 else finding.status
        finding.kind, finding.detail = f"{what}: {' '.join(names_of(description))}", str(row)
    return finding


def _verdict(row: Mapping[str, float]) -> str:
    """Of one output: `"ok"`, `"loss"`, `"ill"`, or `"float"` where TensorFlow's float file is not the Keras model.

    Where TensorFlow left operators in float and is better, only the rounded Keras model tells what integers can do.
    """
    ours, coarse = row["ours"], row["rounded"]
    if row.get("float", 99.0) < LEAST_FLOAT_DB:
        return "float"
    theirs = row.get("tensorflow", row.get("mixed", 99.0))
    if ours >= min(theirs - MOST_LOSS_DB, ENOUGH_DB):
        return "ok"
    if "tensorflow" not in row:
        return "ok" if ours >= coarse - MOST_INSIDE_DB else "ill" if coarse < LEAST_DB else "loss"
    return "ill" if theirs < LEAST_DB or ours >= coarse - MOST_LOSS_DB else "loss"
