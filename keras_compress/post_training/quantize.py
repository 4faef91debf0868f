"""`quantize_post_training`: a trained model quantized by passes of a level, without labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_compress.core.budget import Budget
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.progress import ProgressLine
from keras_compress.core.registry import lookup, register
from keras_compress.core.selection import Selector, rules_take
from keras_compress.core.warn import warn
from keras_compress.data.batches import batches
from keras_compress.data.samples import input_specs
from keras_compress.graph import graph
from keras_compress.post_training.compare import PassReport, Stage, compare_layers
from keras_compress.post_training.fold_batch_norms import refuse_quantized
from keras_compress.post_training.passes import LEVELS, PASSES, WITH_DATA, Pass, Situation, chosen
from keras_compress.post_training.record import NotApplicable, carry, record_of
from keras_compress.post_training.start import held
from keras_compress.post_training.trial import outputs_of, trial_db
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.quantizers.model import activation_quantizer, quantize_model, weight_quantizer

# Samples with which stages are compared.
COMPARED = 16
# Decibels that channels left on their scales keep them: of nets that scaling cures it makes 28 to 31.
ENOUGH = 30.0
# Decibels that scaling has to gain where ranges are not yet those of the end.
GAIN = 1.0
Quantize = Callable[[keras.Model], keras.Model]


@register("entry_point")
@global_state_kept()
@rules_take("weights", "activations")
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
    budget: Budget | Mapping[Any, float] | None = None,
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
    with weights of 8 bits, channels are scaled half of the way to one range of activations (`spiq`), weights rounded to
    the nearest, and what rounding takes from the means goes into the biases (`bias_from_data`); of fewer bits steps cut
    tails (`clip_weights`), and the rounding is learned, block by block (`brecq`), in minutes; of `PWLQ` the breakpoints
    are fitted. `gptq`, in seconds, and `adaround` are run where they are named.

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
        budget: Bits of weights layer by layer, in place of `weights`: what `mixed_precision` chooses on the same data
            under these limits (`{"average_bits": 4}`), for the model as the passes before `quantize_model` leave it;
            `rules` come after it.
        report: Compare the layers with those of the float model after each pass, on 16 samples; `summary` shows it.
        seed: Of synthetic data, and of the draws of learned rounding and of training.

    Returns:
        A model as `quantize_model` makes it, to be converted, verified, saved, or trained further; see `summary`.

    Raises:
        ValueError: For another level, levels 2 and 3 without data, a teacher for another level than 3, a budget without
            data or beside `weights`, unknown passes or options, a quantized model, or what `quantize_model` and
            `mixed_precision` refuse.
    """
    number = _level(level, data)
    _check_options(options or {})
    _check_teacher(teacher, number)
    _check_budget(budget, data, weights)
    refuse_quantized(model)
    ends = None if input_range is None else _ends(input_range)
    quantizer = weight_quantizer(weights, per_channel)
    bits = getattr(activation_quantizer(activations), "bits", 8)
    situation = Situation(
        *(model, None, options or {}, ends, quantizer, seed, teacher),
        mixed=budget is not None, level=number, activation_bits=bits,
    )  # fmt: skip
    situation.data = held(model, data)
    run = chosen(number, situation, passes)
    settings = {"weights": weights, "per_channel": per_channel, "grid": grid, "filters": filters, "rules": rules}
    whole = {**settings, "activations": activations, "other_activations": other_activations, "strict": strict}
    quantize = partial(_quantized, ends=ends, settings=whole)
    work = _Work(run, situation, report, passes is not None, settings, quantize)
    with ProgressLine("quantizing", len(run) + 1) as work.line:
        plain = work.plain(model)
        if budget is not None:
            named = _by_name(situation.data, plain)
            found = lookup("bit_choice", "mixed_precision")(plain, named, budget, filters=filters)
            plain = carry(plain, record_of(plain).noted(_note_of(found)))
            work.quantize = partial(_quantized, ends=ends, settings={**whole, "rules": [*found.rules, *(rules or ())]})
        made = work.quantized(plain)
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


def _check_budget(budget: Any, data: Any, weights: Any) -> None:
    if budget is not None and (data is None or weights != "int8"):
        raise ValueError(
            "Expected `data` beside `budget`, which decides on the bits of weights, and no `weights`. "
            f"Received: {'no data' if data is None else f'{weights=}'}, {budget=}"
        )


def _by_name(data: Any, model: keras.Model) -> Any:
    """Data as batches of dicts: two arrays that are two inputs cannot be taken for batches, or for targets."""
    if not graph.is_graph(model):
        return data
    names = [spec.name for spec in input_specs(model)]
    return lambda: (dict(zip(names, arrays, strict=True)) for arrays in batches(data, graph.functional(model)))


def _note_of(found: Any) -> str:
    """What a budget came to."""
    costs = ", ".join(
        f"{name} {value:,.10g} of at most {found.limits[name]:,.10g}" for name, value in found.costs.items()
    )
    return f"Bits by budget: {costs}"


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


def _said_of(model: keras.Model, each: Pass) -> str | None:
    """Why a pass was left out."""
    return next((note for note in record_of(model).notes if note.startswith(f"Left out: {each.name}:")), None)


def _left_as_it_is(model: keras.Model, passes: Sequence[Pass], why: str) -> keras.Model:
    note = f"Left out: {' and '.join(each.name for each in passes)}: {why}"
    return carry(model, record_of(model).noted(note))


@dataclass
class _Begun:
    """A plain model, how it is quantized, what that gives, and, once they are known, the same with ranges."""

    plain: keras.Model
    quantize: Quantize
    reference: keras.Model
    made: keras.Model | None = None


class _Work:
    """Runs passes, and collects what each of them changed.

    Args:
        run: The passes.
        situation: What they are told.
        report: Whether to compare layers after each.
        named: Whether the user named them: one that finds nothing to do raises then.
        settings: Those of `quantize_model` for weights.
        quantize: `quantize_model` with all settings.
    """

    def __init__(
        self,
        run: Sequence[Pass],
        situation: Situation,
        report: bool,
        named: bool,
        settings: Mapping[str, Any],
        quantize: Quantize,
    ) -> None:
        self._run = run
        self._situation = situation
        self._report = report
        self._named = named
        self._settings = settings
        self.quantize = quantize
        self._begun: _Begun | None = None
        self._data: list[Any] | None = None
        self._exact: list[Any] | None = None
        self.line = ProgressLine("quantizing")
        self.reference: keras.Model | None = None
        self.stages: list[Stage] = []

    def plain(self, model: keras.Model) -> keras.Model:
        """The model after the passes before `quantize_model`; where none are named, on the scales that are better."""
        self._compare("as it was", model)
        first = [each for each in self._run if not each.quantized]
        scaling = [each for each in first if each.scales]
        if self._named or not scaling or not self._samples():
            return self.passed(model, first)
        start = first.index(scaling[0])
        ahead, behind = first[:start], [each for each in first[start:] if not each.scales]
        base = self.passed(model, ahead)
        stages = list(self.stages)
        left = self.passed(base, behind)
        before = self._figure(left)
        if before >= ENOUGH:
            return _left_as_it_is(left, scaling, f"outputs on {COMPARED} samples have {before:.1f} dB as they are")
        kept = self._begun, list(self.stages)
        self.stages, self.reference = stages, None
        # What has the last word on scales comes behind those that are tried.
        scaled = self.passed(base, first[start:])
        idle = {each.name: note for each in scaling if (note := _said_of(scaled, each)) is not None}
        changed = [each for each in scaling if each.name not in idle]
        with warnings.catch_warnings():
            # Said of it as it is.
            warnings.simplefilter("ignore")
            if changed and before + (GAIN if self._ahead_of_ranges() else 0.0) <= (after := self._figure(scaled)):
                return scaled
        self._begun, self.stages = kept
        left = carry(left, record_of(left).noted(*idle.values()))
        if not changed:
            return left
        found = f"outputs on {COMPARED} samples have {before:.1f} dB without, {after:.1f} dB with it"
        return _left_as_it_is(left, changed, found)

    def quantized(self, plain: keras.Model) -> keras.Model:
        """A plain model that is quantized, after the passes behind that."""
        made = self._with_ranges(plain)
        self._situation.reference = self._begin(plain).reference
        # Notes that came since then.
        made = carry(made, record_of(made).noted(*record_of(plain).notes))
        return self.passed(made, [each for each in self._run if each.quantized and not each.ranges])

    def _begin(self, plain: keras.Model) -> _Begun:
        """A plain model that is quantized."""
        if self._begun is None or self._begun.plain is not plain or self._begun.quantize is not self.quantize:
            self._begun = _Begun(plain, self.quantize, self.quantize(plain))
        return self._begun

    def _with_ranges(self, plain: keras.Model) -> keras.Model:
        """A plain model that is quantized, after the passes that set ranges: they come first."""
        self.reference = plain
        begun = self._begin(plain)
        if begun.made is None:
            run = [each for each in self._run if each.ranges]
            self.stages = [stage for stage in self.stages if stage.name not in {each.name for each in run}]
            begun.made = self.passed(begun.reference, run)
        return begun.made

    def passed(self, model: keras.Model, run: Sequence[Pass]) -> keras.Model:
        """The model after some passes."""
        for each in run:
            self.line.step(each.name)
            try:
                model = each.run(model, self._situation, **self._situation.options.get(each.name, {}))
            except NotApplicable as error:
                if self._named:
                    raise
                model = carry(model, record_of(model).noted(f"Left out: {each.name}: {error}"))
            else:
                self._compare(each.name, model)
            self.line.advance()
        return model

    def _figure(self, plain: keras.Model) -> float:
        """Signal to noise of the outputs of a plain model that is quantized, on a few samples."""
        samples, trained = self._samples(), self._situation.trained
        if samples and self._ahead_of_ranges():
            if self._exact is None:
                self._exact = outputs_of(trained, samples)
            return trial_db(self._exact, self._begin(plain).reference, samples)
        found = compare_layers(trained, self._with_ranges(plain), samples).output_sqnr_db
        return -np.inf if found is None else found

    def _ahead_of_ranges(self) -> bool:
        """Whether scales are judged before ranges are chosen, which takes longest: of 8 bits they change little."""
        data = self._samples() and self._situation.level in WITH_DATA
        return bool(data) and self._situation.activation_bits >= 8

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
