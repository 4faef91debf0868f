"""`quantize_post_training`: a trained model quantized by passes of a level, without labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_compress.core.global_state import global_state_kept
from keras_compress.core.progress import ProgressLine
from keras_compress.core.registry import register
from keras_compress.core.selection import Selector
from keras_compress.core.warn import warn
from keras_compress.data.batches import batches
from keras_compress.graph import graph
from keras_compress.post_training.compare import PassReport, Stage, compare_layers
from keras_compress.post_training.fold_batch_norms import refuse_quantized
from keras_compress.post_training.passes import LEVELS, PASSES, Pass, Situation, chosen
from keras_compress.post_training.record import NotApplicable, carry, record_of
from keras_compress.post_training.start import held
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.quantizers.model import quantize_model, weight_quantizer

# Samples with which stages are compared.
COMPARED = 16


@register("entry_point")
@global_state_kept()
def quantize_post_training(
    model: keras.Model,
    data: Any = None,
    level: int | str = "auto",
    weights: Any = "int8",
    activations: Any = "int8",
    *,
    per_channel: bool | None = None,
    grid: Any = "int8",
    other_activations: Any = "int8",
    passes: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    input_range: Sequence[float] | None = None,
    teacher: keras.Model | None = None,
    report: bool = True,
    seed: int = 0,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    strict: bool = False,
) -> keras.Model:
    """A quantized copy of a trained model: by its own statistics, by data without labels, or by a short training too.

    Level 1 needs no data. BatchNormalizations are folded, channels scaled so that one range fits all (`equalize`), and
    high biases moved on (`absorb_bias`). Ranges of activations are taken from the statistics of BatchNormalizations,
    those of which they say nothing from synthetic data (`synthetic_data`), and the mean error of the weights goes into
    the biases (`bias_from_statistics`).

    Level 2 takes data without labels. Ranges are those with which what reads a tensor changes least (`with_ranges`);
    weights of 8 bits are rounded to the nearest, and their mean error goes into the biases (`bias_from_data`); of fewer
    bits steps cut tails (`clip_weights`), and the rounding is learned, block by block (`brecq`), in minutes; of `PWLQ`
    the breakpoints are fitted. `gptq`, in seconds, and `adaround` are run where they are named.

    Level 3 does the same, and then trains what came of it to give what the float model gives (`fine_tune`), again
    without labels. Samples that are held out tell whether that is better; otherwise it is level 2's model that is
    given, and the record says so.

    Args:
        model: Plain, trained, built model.
        data: Inputs as they are in use, without labels, some hundreds; see `convert`'s `representative_dataset`.
        level: 1, 2, 3, or `"auto"`: 2 where there are data, else 1. Level 3 is run where it is asked for.
        weights, activations, per_channel, grid, other_activations, filters, rules, strict: See `quantize_model`.
        passes: Names of the level's passes to run, in the order of `keras_compress.post_training.passes.PASSES`; by
            default those that are standard, channels being left on their scales where that is better, by a few samples.
            A named one that finds nothing to do raises.
        options: Name of a pass -> arguments for it: `{"equalize": {"relu6": "replace"}}`.
        input_range: Lowest and highest value of the inputs, `(0.0, 1.0)`: the range of the points at inputs, and what
            synthetic data keep to.
        teacher: What level 3 learns from: a model with the same inputs and outputs, by default `model` itself.
        report: Compare the layers with those of the float model after each pass, on 16 samples; `summary` shows it.
        seed: Of synthetic data, and of the draws of learned rounding and of training.

    Returns:
        A model as `quantize_model` makes it, to be converted, verified, saved, or trained further; see `summary`.

    Raises:
        ValueError: For another level, levels 2 and 3 without data, a teacher for another level than 3, unknown passes
            or options, a quantized model, or what `quantize_model` refuses.
    """
    number = _level(level, data)
    _check_options(options or {})
    _check_teacher(teacher, number)
    refuse_quantized(model)
    ends = None if input_range is None else _ends(input_range)
    situation = Situation(model, None, options or {}, ends, weight_quantizer(weights, per_channel), seed, teacher)
    run = chosen(number, situation, passes)
    situation.data = held(model, data)
    settings = {"weights": weights, "per_channel": per_channel, "grid": grid, "filters": filters, "rules": rules}
    whole = {**settings, "activations": activations, "other_activations": other_activations, "strict": strict}
    quantize = partial(_quantized, ends=ends, settings=whole)
    work = _Work(run, situation, report, passes is not None, settings)
    with ProgressLine("quantizing", len(run) + 1) as work.line:
        plain = work.passed(model, quantized=False)
        if passes is None:
            plain = work.better(model, plain, quantize)
        work.reference = plain
        situation.reference = quantize(plain)
        made = work.passed(situation.reference, quantized=True)
    return _with_report(made, work.stages)


def _level(level: int | str, data: Any) -> int:
    if level == "auto":
        return 1 if data is None else 2
    if level not in LEVELS or isinstance(level, (bool, str)):
        raise ValueError(f"Expected `level` out of {(*LEVELS, 'auto')}. Received: level={level!r}")
    if level >= 2 and data is None:
        raise ValueError(f"Expected `data` for level {level}: inputs as they are in use. Received: data=None")
    return level


def _check_teacher(teacher: Any, level: int) -> None:
    if teacher is not None and level != 3:
        raise ValueError(f"Expected `teacher` for level 3 alone, which trains. Received: a teacher for level {level}")
    if teacher is not None and not isinstance(teacher, keras.Model):
        raise TypeError(f"Expected a keras.Model for `teacher`. Received: {type(teacher).__name__}")


def _check_options(options: Mapping[str, Mapping[str, Any]]) -> None:
    known = [each.name for each in PASSES]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"Expected `options` for passes out of {known}. Received: {unknown}")
    wrong = {name: given for name, given in options.items() if not isinstance(given, Mapping)}
    if wrong:
        raise ValueError(
            f"Expected arguments by name for each pass, {{'equalize': {{'relu6': 'keep'}}}}. Received: {wrong}"
        )


def _ends(input_range: Sequence[float]) -> tuple[float, float]:
    numbers = isinstance(input_range, Sequence) and all(isinstance(each, (int, float)) for each in input_range)
    ends = tuple(map(float, input_range)) if numbers else ()
    if len(ends) != 2 or not np.isfinite(ends).all() or not ends[0] < ends[1]:
        raise ValueError(f"Expected `input_range` of two numbers, the lower first. Received: input_range={input_range}")
    return ends[0], ends[1]


def _quantized(model: keras.Model, ends: tuple[float, float] | None, settings: Mapping[str, Any]) -> keras.Model:
    """What `quantize_model` makes of a model, with its record."""
    made = quantize_model(model, **settings)
    _set_input_ranges(made, ends)
    return carry(made, record_of(model))


def _set_input_ranges(model: keras.Model, ends: tuple[float, float] | None) -> None:
    """Set the range of points that read an input of the model."""
    if ends is None or not graph.is_graph(model):
        return
    table = graph.consumers(model)
    for tensor in graph.functional(model).inputs:
        for node in table.get(id(tensor), []):
            point = node.operation
            if isinstance(point, QuantizeActivation) and hasattr(point.quantizer, "set_range"):
                point.quantizer.set_range(*ends)


class _Work:
    """Runs passes, and collects what each of them changed.

    Args:
        run: The passes.
        situation: What they are told.
        report: Whether to compare layers after each.
        named: Whether the user named them: one that finds nothing to do raises then.
        settings: Those of `quantize_model` for weights.
    """

    def __init__(
        self, run: Sequence[Pass], situation: Situation, report: bool, named: bool, settings: Mapping[str, Any]
    ) -> None:
        self._run = run
        self._situation = situation
        self._report = report
        self._named = named
        self._settings = settings
        self._data: list[Any] | None = None
        self.line = ProgressLine("quantizing")
        self.reference: keras.Model | None = None
        self.stages: list[Stage] = []

    def passed(self, model: keras.Model, quantized: bool) -> keras.Model:
        """The model after the passes before, or behind, `quantize_model`."""
        if not quantized:
            self._compare("as it was", model)
        for each in self._run:
            if each.quantized == quantized:
                self.line.step(each.name)
                before, model = model, self._after(each, model)
                if model is not before:
                    self._compare(each.name, model)
                self.line.advance()
        return model

    def _after(self, each: Pass, model: keras.Model, situation: Situation | None = None) -> keras.Model:
        try:
            return each.run(model, situation or self._situation, **self._situation.options.get(each.name, {}))
        except NotApplicable as error:
            if self._named:
                raise
            return carry(model, record_of(model).noted(f"Left out: {each.name}: {error}"))

    def better(
        self, model: keras.Model, scaled: keras.Model, quantize: Callable[[keras.Model], keras.Model]
    ) -> keras.Model:
        """Of a model with channels scaled and without, the one whose quantized outputs are nearer to the float ones."""
        self.line.step("comparing")
        notes = record_of(scaled).notes
        scaling = [each.name for each in self._run if each.scales]
        changed = [name for name in scaling if not any(note.startswith(f"Left out: {name}:") for note in notes)]
        if not changed or not self._samples() or not graph.is_graph(model):
            return scaled
        left = model
        for each in self._run:
            if not each.quantized and not each.scales:
                left = self._after(each, left)
        figures = [self._figure(each, quantize) for each in (left, scaled)]
        if figures[0] <= figures[1]:
            return scaled
        found = f"outputs on {COMPARED} samples have {figures[0]:.1f} dB without, {figures[1]:.1f} dB with it"
        note = f"Left out: {' and '.join(changed)}: {found}"
        self.stages = [stage for stage in self.stages if stage.name not in changed]
        return carry(left, record_of(left).noted(note))

    def _figure(self, plain: keras.Model, quantize: Callable[[keras.Model], keras.Model]) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = quantize(plain)
            few = replace(self._situation, data=self._samples()) if self._situation.data is not None else None
            for each in self._run:
                if each.ranges:
                    made = self._after(each, made, few)
            found = compare_layers(self._situation.trained, made, self._samples()).output_sqnr_db
        return -np.inf if found is None else found

    def _compare(self, name: str, model: keras.Model) -> None:
        """Compare a model with the float model that it stands for: a plain one, with itself quantized."""
        if not self._report or not graph.is_graph(model):
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = model if self.reference else quantize_model(model, activations=None, **self._settings)
            self.stages.append(compare_layers(self.reference or model, made, self._samples(), name))

    def _samples(self) -> list[Any] | None:
        if self._data is None:
            self._data = self._some()
        return self._data or None

    def _some(self) -> list[Any]:
        """A few inputs: of the data, or such as the model's statistics give; none, where there are none."""
        data = self._situation.data
        if not graph.is_graph(self._situation.trained):
            return []
        if data is None:
            try:
                data = self._situation.synthetic
            except NotApplicable:
                return []
            return [array[:COMPARED] for array in keras.tree.flatten(data)]
        held = graph.functional(self._situation.trained)
        return [array[:COMPARED] for array in next(iter(batches(data, held)))]


def _with_report(model: keras.Model, stages: Sequence[Stage]) -> keras.Model:
    record = record_of(model)
    waiting = [
        path
        for path, layer in graph.walk(model)
        if isinstance(layer, QuantizeActivation) and not layer.quantizer.trained()
    ]
    if waiting:
        warn(
            "Expected data, or BatchNormalizations to make data from, for the ranges of all points. Received: neither "
            f"for {len(waiting)}, the first {waiting[0]!r}: give `convert` a representative_dataset."
        )
    report = PassReport(model.name, tuple(stages), record.effects) if stages else None
    return carry(model, replace(record, report=report))
