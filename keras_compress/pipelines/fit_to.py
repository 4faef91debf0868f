"""`fit_to`: a model made to fit a budget, by whatever combination of methods loses least."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.convert.artifact import Artifact
from keras_compress.convert.convert import convert
from keras_compress.convert.files import make_folder, save_keras_atomic, write_atomic
from keras_compress.core.budget import Budget
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.progress import ProgressLine
from keras_compress.core.quiet import ignored_warnings
from keras_compress.core.warn import warn
from keras_compress.data.samples import cut, filled, fixed_batch, input_specs, samples
from keras_compress.data.training import Fitting, Training
from keras_compress.graph.model import check_model, strip
from keras_compress.pipelines.fingerprints import fingerprint
from keras_compress.pipelines.fit_candidate import Maker, Train, untrained
from keras_compress.pipelines.fit_limits import FileLimits, board_limits, budget_key
from keras_compress.pipelines.fit_result import Candidate, Fitted, Stopped, pareto
from keras_compress.pipelines.fit_space import Setting, Space
from keras_compress.pipelines.fit_study import Trials, quiet_optuna, storage_of
from keras_compress.pipelines.training import EPOCHS, Judge, Trainer
from keras_compress.runtime import deployed
from keras_compress.runtime.child import RuntimeCrash, RuntimeTimeout
from keras_compress.runtime.measure import Metric, accuracy
from keras_compress.runtime.target import target as runtime_of

TARGETS = ("tflm", "litert")
# Inputs that ranges are found with.
_EXAMPLES = 256
# Samples that a Keras model is given at a time.
_BATCH = 256
# An untrained file may be as much smaller or larger than the trained one: biases of zero are not stored, codes differ.
_SLACK = 0.05


class _Hopeless(Exception):
    """A trial that Hyperband stops."""


@global_state_kept()
def fit_to(
    model: keras.Model,
    training: Fitting,
    budget: Budget | Mapping[Any, float] | None = None,
    *,
    validation_data: tuple[Any, Any],
    test_data: tuple[Any, Any] | None = None,
    board: str | None = None,
    target: str = "tflm",
    max_drop: float | None = 0.01,
    metric: Metric = accuracy,
    methods: Sequence[str] | None = None,
    trials: int = 20,
    sampler: str = "tpe",
    representative_dataset: Any = None,
    folder: str | os.PathLike[str] | None = None,
    study: str | os.PathLike[str] | None = None,
    seed: int = 0,
    stale_after_s: float = 60.0,
) -> Fitted:
    """Search the combination of methods whose file keeps a budget and loses least.

    Each trial cuts channels, makes layers of low rank, prunes, clusters, chooses bits and quantizes after or in
    training, as it draws them. First its file is made without any training: bytes, arena, time and energy are known by
    that, and what is too large goes no further. Then it is trained, with the model given as teacher, and converted; the
    file's metric on the validation data, on the runtime that it is for, is what counts. After each epoch Hyperband
    stops trials that others are far ahead of.

    Any number of processes work on one search: the same call with the same `folder` or `study`. Each trial is done
    once; one whose process was killed is done anew by another, or by the next that is started.

    Args:
        model: Trained model. It is not changed.
        training: `kc.Training(...).on(x, y)`; epochs and rates are those of the steps `"channels"` (low rank too),
            `"prune"`, `"cluster"` and `"quantize"`, by default 4, 3, 3, 2. Without a `teacher` or a `fit` of its own,
            the model given is the teacher.
        budget: `kc.Budget(bytes=48_000, arena=16_000)`: of the file, `bytes`; for `"tflm"` `arena`, for `"litert"`
            `latency_ms`, measured here; `energy_uj` by a model. Fractions are of the float32 file.
        validation_data: `(x, y)`, what choices are made by.
        test_data: `(x, y)`, asked at the end only, of the files that no other beats.
        board: In place of a budget a microcontroller of `kc.check`: its flash less 16 kB of code, and its RAM.
        target: `"tflm"` or `"litert"`.
        max_drop: Most that the metric may fall below that of `model`, >= 0; `None`: any.
        metric: `(outputs, y) -> float`, the higher the better.
        methods: Out of `"channels"`, `"low_rank"`, `"sparsity"`, `"clusters"`, `"bits"`, `"training"`; by default all
            that make a file for the target smaller.
        trials: How many different settings are tried, by all processes together.
        sampler: `"tpe"`, `"nsga2"` or `"random"`, Optuna's.
        representative_dataset: Inputs that ranges are found with; by default the first 256 of the training arrays.
        folder: Where files and trials are kept, and found again; a temporary one by default.
        study: Where trials are kept, in place of `folder/trials.journal`: another journal file, an SQLite file (`.db`),
            or the URL of a database. Files are in `folder`, which processes on several computers have to share.
        seed: Of the search.
        stale_after_s: How long a trial of another computer may show no sign of life before it is done anew.

    Returns:
        The best file, those that no other beats, and what was tried; without a file within the budget what comes
        nearest, and what stops it.

    Raises:
        ValueError: For arguments out of range, a cost that is not one of a file, or a study that cannot be reached.
        ImportError: Without Optuna, which the extra `search` brings.

    **Reference**: Bergstra et al., "Algorithms for hyper-parameter optimization" (2011), TPE; Li et al., "Hyperband"
    (2018); Akiba et al., "Optuna" (2019).
    """
    check_model(model)
    _check(training, budget, board, target, trials, stale_after_s)
    wanted = budget if budget is not None else board_limits(board)
    limits = FileLimits.of(wanted, model, target)
    space = Space.of(methods, target)
    judge = Judge(*validation_data, metric, max_drop)
    plain = strip(model)
    examples = _examples(training, representative_dataset)
    taught = _taught(training, model)
    decisive = {
        "model": model,
        **_data_of(training),
        "validation_data": list(validation_data),
        "metric": metric,
        "budget": budget_key(wanted),
        "target": target,
        "methods": list(space.methods),
        "representative_dataset": representative_dataset,
        "sampler": sampler,
        "search_seed": seed,
        **Trainer(taught.training, training.x, training.y, model).decisive(),
    }
    name = _name(decisive)
    home = make_folder(tempfile.mkdtemp(prefix="keras_compress-") if folder is None else folder)
    with quiet_optuna():
        kept = Trials(
            storage_of(study if study is not None else home / "trials.journal"),
            name,
            space,
            count=trials,
            sampler=sampler,
            seed=seed,
            epochs=_most_epochs(taught.training),
            stale_after_s=stale_after_s,
        )
        files = _files_of(kept, make_folder(home / name))
        limits = limits.pinned(kept.shared("limits", limits.to_dict()))
        maker = Maker(plain, examples, target, limits.most("arena"))
        return _Search(model, taught, judge, limits, maker, kept, files).result(test_data, trials, target)


def _check(training: Any, budget: Any, board: str | None, target: str, trials: int, stale_after_s: float) -> None:
    if not isinstance(training, Fitting):
        raise ValueError(f"Expected `training` as kc.Training(...).on(x, y). Received: {training!r}")
    if (budget is None) == (board is None):
        raise ValueError(f"Expected `budget` or `board`, one of them. Received: budget={budget!r}, board={board!r}")
    if target not in TARGETS:
        raise ValueError(f"Expected a target out of {', '.join(TARGETS)}. Received: target={target!r}")
    if board is not None and target != "tflm":
        raise ValueError(f"Expected target='tflm' for a board. Received: target={target!r}")
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise ValueError(f"Expected `trials` as a number >= 1. Received: trials={trials!r}")
    if not stale_after_s > 0:
        raise ValueError(f"Expected `stale_after_s` > 0. Received: stale_after_s={stale_after_s!r}")


def _examples(training: Fitting, given: Any) -> Any:
    if given is not None:
        return given
    arrays = keras.tree.flatten(training.x)
    if not all(hasattr(each, "shape") and hasattr(each, "__getitem__") for each in arrays):
        raise ValueError(
            "Expected `representative_dataset` where the training data are no arrays. "
            f"Received: {type(training.x).__name__}"
        )
    return keras.tree.map_structure(lambda each: each[:_EXAMPLES], training.x)


def _taught(training: Fitting, model: keras.Model) -> Fitting:
    """The training with the model given as teacher, where it has none and trains by itself."""
    how = training.training.with_loss_of(model)
    if how.teacher is None and how.fit is None:
        how = replace(how, teacher=model)
    return replace(training, training=how)


def _epochs_of(training: Training, setting: Setting) -> int:
    """Of all steps of a trial; of a `fit` of the user's own, which tells of steps alone, their number."""
    if training.fit is not None:
        return len(setting.steps())
    return sum(training.epochs_of(kind, EPOCHS[kind]) for kind in setting.steps())


def _most_epochs(training: Training) -> int:
    """Of the longest trial."""
    return _epochs_of(training, Setting(channels=0.5, params=0.5, sparsity=0.5, clusters=16, training="qat"))


def _files_of(trials: Trials, folder: Path) -> Path:
    """The folder of a search's files, checked to be that of its finished trials.

    A folder is known by the first path that it had, which is kept in it: computers may see it at different places.
    """
    mark = folder / "folder.txt"
    if not mark.is_file():
        write_atomic(mark, os.fspath(folder.absolute()).encode())
    mine = mark.read_text()
    first = trials.shared("folder", mine)
    if first != mine:
        raise ValueError(
            f"Expected the `folder` that holds the files of this study's trials, {Path(first).parent}. "
            f"Received: folder={os.fspath(folder.parent)!r}"
        )
    return folder


def _data_of(training: Fitting) -> dict[str, Any]:
    """What a training is of, for the name of a search."""
    return {"x": training.x, "y": training.y, "samples": training.samples, "sample_weight": training.sample_weight}


def _name(decisive: Mapping[str, Any]) -> str:
    text = json.dumps({key: fingerprint(value) for key, value in decisive.items()}, sort_keys=True)
    return f"fit-{hashlib.sha1(text.encode()).hexdigest()[:12]}"


class _Rung(keras.callbacks.Callback):
    """Reports a candidate after each epoch, and stops it where Hyperband does."""

    def __init__(self, report: Any, candidate: keras.Model) -> None:
        super().__init__()
        self._report, self._candidate = report, candidate

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._report(self._candidate)


@dataclass(frozen=True)
class _Search:
    """One process's part of a search."""

    model: keras.Model
    training: Fitting
    judge: Judge
    limits: FileLimits
    maker: Maker
    trials: Trials
    folder: Path

    def result(self, test_data: tuple[Any, Any] | None, count: int, target: str) -> Fitted:
        baseline = _of_model(self.judge, self.model)
        with ProgressLine("searching", count) as line:
            for trial, setting in self.trials:
                line.step(f"trial {trial.number}: {setting}")
                with self.trials.alive(trial):
                    value = self._tried(trial, setting)
                    self.trials.tell(trial, value)
        return self._found(baseline, test_data, count, target)

    def _tried(self, trial: Any, setting: Setting) -> float | None:
        """The metric of a trial's file; `None` where it was stopped."""
        trial.set_user_attr("setting", setting.to_dict())
        try:
            with ignored_warnings(".*"):
                return self._deployed(trial, setting)
        except (ValueError, RuntimeCrash, RuntimeTimeout) as error:
            trial.set_user_attr("stopped", " ".join(str(error).split())[:500])
        except _Hopeless:
            trial.set_user_attr("stopped", "others were better after as large a share of their training")
        return None

    def _deployed(self, trial: Any, setting: Setting) -> float | None:
        _, rough = self.maker.make(setting, untrained)
        figures = self._figures(rough)
        trial.set_user_attr("predicted", figures)
        if reasons := self.limits.reasons(figures, _SLACK):
            self._constrain(trial, figures)
            trial.set_user_attr("stopped", "; ".join(reasons))
            return None
        how = self.training.training
        rungs = _Rungs(trial, self.judge, _epochs_of(how, setting), _most_epochs(how))
        rungs.report(self.judge.of_file(rough))
        model, artifact = self.maker.make(setting, self._trainer(rungs))
        figures = self._figures(artifact)
        self._constrain(trial, figures)
        value = self.judge.of_file(artifact)
        if math.isnan(value):
            raise ValueError("Expected a metric that is a number. Received: nan, of the trained file")
        save_keras_atomic(model, self.folder / f"{trial.number:04d}.keras")
        write_atomic(self.folder / f"{trial.number:04d}.tflite", artifact.content)
        trial.set_user_attr("figures", figures)
        return value

    def _figures(self, artifact: Artifact) -> dict[str, float]:
        return {"bytes": float(len(artifact.content)), **self.limits.figures(artifact.content)}

    def _constrain(self, trial: Any, figures: Mapping[str, float]) -> None:
        """What Optuna's samplers learn of the budget."""
        for name, excess in self.limits.excess(figures).items():
            trial.set_constraint(name, excess)

    def _trainer(self, rungs: _Rungs) -> Train:
        fitting = self.training

        def train(model: keras.Model, kind: str, name: str) -> keras.Model:
            how = fitting.training
            if how.fit is None:
                how = replace(how, callbacks=[*how.callbacks, _Rung(rungs.report_model, model)])
            drawn = {"samples": fitting.samples, "sample_weight": fitting.sample_weight}
            trained = Trainer(how, fitting.x, fitting.y, self.model, **drawn)(model, kind, name)
            if how.fit is not None:
                rungs.report_model(trained)
            return trained

        return train

    def _found(self, baseline: float, test_data: tuple[Any, Any] | None, count: int, target: str) -> Fitted:
        finished = self.trials.finished()
        candidates = [self._candidate(each) for each in finished if "figures" in each.user_attrs]
        stopped = [self._stopped(each) for each in finished if "figures" not in each.user_attrs]
        beaten_by_none = [self._tested(each, test_data, target) for each in pareto(candidates)]
        good = [e for e in beaten_by_none if not e.reasons and self.judge.within(e.validation, baseline)]
        best = min(good, key=lambda each: (-each.validation, each.figures["bytes"]), default=None)
        nearest, missing = (None, "") if best is not None else self._nearest(candidates, stopped, baseline)
        if best is None:
            warn(f"Nothing is within the budget. {missing}")
        return Fitted(
            best,
            nearest,
            missing,
            tuple(beaten_by_none),
            tuple(candidates),
            tuple(stopped),
            baseline,
            self.limits.to_dict(),
            self.judge.max_drop,
            target,
            notes=self._notes(len(finished), count),
            float_path=self._float_file(target),
        )

    def _float_file(self, target: str) -> Path:
        """The float32 file of the model given, for comparison."""
        path = self.folder / "float32.tflite"
        if not path.is_file():
            write_atomic(path, convert(self.model, target, mode="float32").content)
        return path

    def _notes(self, finished: int, count: int) -> tuple[str, ...]:
        few = f"Only {finished} of {count} trials: there are no other settings, or none was drawn"
        return (*([few] if finished < count else []), f"Files are in {self.folder}")

    def _candidate(self, trial: Any) -> Candidate:
        figures = trial.user_attrs["figures"]
        path = self.folder / f"{trial.number:04d}.tflite"
        setting = Setting(**trial.user_attrs["setting"])
        return Candidate(trial.number, setting, trial.value, figures, tuple(self.limits.reasons(figures)), path)

    def _stopped(self, trial: Any) -> Stopped:
        figures = trial.user_attrs.get("predicted", {})
        excess = max(self.limits.excess(figures).values()) if figures else float("inf")
        setting = Setting(**trial.user_attrs["setting"])
        return Stopped(trial.number, setting, figures, excess, trial.user_attrs.get("stopped", ""))

    def _tested(self, candidate: Candidate, data: tuple[Any, Any] | None, target: str) -> Candidate:
        if data is None:
            return candidate
        outputs = deployed.run(runtime_of(target), candidate.content, data[0])
        return replace(candidate, test=float(self.judge.metric(outputs, data[1])))

    def _nearest(
        self, candidates: Sequence[Candidate], stopped: Sequence[Stopped], baseline: float
    ) -> tuple[Candidate | Stopped | None, str]:
        """The best within the budget that loses too much; else one that was stopped within it; else the least above."""
        within = [each for each in candidates if not each.reasons]
        if within:
            best = max(within, key=lambda each: each.validation)
            lost = baseline - best.validation
            return best, f"Trial {best.number} keeps it, but loses {lost:.4g} of {baseline:.4g}: {best.setting}"
        # Of these the largest: what is cut least loses least, as a rule.
        if unfinished := [each for each in stopped if each.excess <= 0]:
            largest = max(unfinished, key=lambda each: each.excess)
            return largest, f"Trial {largest.number} keeps it, but was stopped: {largest.reason}: {largest.setting}"
        above: list[tuple[float, Candidate | Stopped]] = [
            (max(self.limits.excess(each.figures).values()), each) for each in candidates
        ]
        above += [(each.excess, each) for each in stopped]
        if not above:
            return None, "No trial was done"
        _, found = min(above, key=lambda each: each[0])
        # A trial above a limit may have been stopped by something else.
        reasons = "; ".join(self.limits.reasons(found.figures)) if found.figures else ""
        if isinstance(found, Stopped):
            reasons = reasons or found.reason
        return found, f"Nearest is trial {found.number} ({found.setting}): {reasons}"


@dataclass
class _Rungs:
    """The metrics of one trial, told when so large a share of its training is done: trials differ in length.

    Attributes:
        trial: Optuna's.
        judge: Takes the metric.
        epochs: Of this trial.
        most: Of the longest one: rungs are numbered from 1, the untrained file, to one more than these.
        done: Epochs that were told.
    """

    trial: Any
    judge: Judge
    epochs: int
    most: int
    done: int = -1

    def report(self, value: float) -> None:
        """Raises `_Hopeless` where Hyperband stops the trial."""
        self.done += 1
        if math.isnan(value):
            return  # nothing to compare; what counts is the trained file
        share = self.done / self.epochs if self.epochs else 0.0
        self.trial.report(value, 1 + math.ceil(self.most * share))
        if self.trial.should_prune():
            raise _Hopeless

    def report_model(self, model: keras.Model) -> None:
        self.report(_of_model(self.judge, model))


def _of_model(judge: Judge, model: keras.Model) -> float:
    """The metric of a Keras model, batch by batch as it is: ranges of a traced one would stay those of now."""
    inputs = samples(judge.x, input_specs(model))
    parts = []
    size = fixed_batch(model)
    for batch in cut(inputs, size or _BATCH):
        pairs = zip(filled(batch, size or 1), model.inputs, strict=True)
        whole = [tf.convert_to_tensor(each, tensor.dtype) for each, tensor in pairs]
        outputs = keras.tree.flatten(model(whole[0] if len(whole) == 1 else whole, training=False))
        parts.append([np.asarray(each)[: len(batch[0])] for each in outputs])
    return float(judge.metric([np.concatenate(each) for each in zip(*parts, strict=True)], judge.y))
