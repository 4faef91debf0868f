"""Lottery tickets: sparse networks that train as well as the dense one, from its own early weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from keras_compress.core import keras_private
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.quiet import ignored_warnings
from keras_compress.core.selection import Selector
from keras_compress.core.suggest import did_you_mean
from keras_compress.graph.model import check_model, rebuild
from keras_compress.pipelines.checkpoints import Checkpoints
from keras_compress.pipelines.iterative_pruning import result_of
from keras_compress.pipelines.pruning_rounds import (
    Array,
    Rounds,
    check_scope,
    check_score_every,
    curve_of,
    levels_of,
    masked,
    masks_in,
    pruners_in,
    set_masks,
)
from keras_compress.pipelines.round_training import Moment, RoundCallback, RoundTrainer, check_moment, steps_of
from keras_compress.pipelines.training import Judge
from keras_compress.pruning.rounds import PrunedInRounds, PruningRound
from keras_compress.runtime.measure import Metric, accuracy

Build = Callable[[], keras.Model]
REWINDS = ("weights", "learning_rate")
CONTROLS = ("random_reinit",)


@dataclass(frozen=True, repr=False)
class Ticket(PrunedInRounds):
    """What `find_ticket` found.

    Attributes:
        start: The ticket before its training: the weights that it was rewound to, with the masks of `model`; `None`
            where the learning rate alone was rewound.
        rewound_to: Step that each round was rewound to.
    """

    start: keras.Model | None
    rewound_to: int

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines."""
        title, rows = super().shown()
        control = next((each.control for each in reversed(self.rounds) if each.control is not None), None)
        return title, [
            *rows,
            ("rewound to", f"step {self.rewound_to}" + ("" if self.start is not None else ", the learning rate alone")),
            ("control", "" if control is None else f"{control:.6g} with the masks over other initial weights"),
        ]


@global_state_kept()
def find_ticket(
    build_fn: Build,
    fit: Any,
    sparsity: float = 0.95,
    *,
    validation_data: tuple[Any, Any],
    rounds: int | None = None,
    share: float | None = None,
    scope: str = "global",
    rewind: str = "weights",
    rewind_to: Moment = 0,
    control: str | None = None,
    control_rounds: Collection[int] | None = None,
    max_drop: float | None = None,
    metric: Metric = accuracy,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    score_every: int | None = None,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
) -> Ticket:
    """Train, prune the smallest weights, set the others back to what they were, and again, until enough is pruned.

    Round 0 trains the whole network. Each round behind it takes a share of the weights that the round before left,
    rewinds, and trains on. Biases, normalizations and their statistics are rewound with the weights.

    **Forward** `w_0 = mask_i * W_k`, trained from step k to step T of round 0: W_k the weights of round 0 after k steps
    (k = 0: the initial ones), mask_i of the largest `|W|` at the end of round i - 1 among those that it left.
    With `rewind="learning_rate"`, `w_0 = mask_i * W_T` of the round before, and the learning rate alone is that of
    step k again.

    Args:
        build_fn: `() -> model`, with new weights. Keras's seeds are set before each call: what it draws by them is the
            same each time.
        fit: What trains a model in place, from its initial weights on: `kc.Training(...).on(x, y)`, or a function
            `fit(model, stage)` that compiles and fits it with `callbacks=stage.callbacks`, which keep the weights of
            step k, move the schedule of the learning rate there, and stop at step T.
        sparsity: Share of zeros behind the last round, in (0, 1).
        validation_data: `(x, y)` arrays: inputs and labels for `metric`.
        rounds: How many rounds; as many as `share` needs by default.
        share: Of the weights that are left, taken in each round, in (0, 1); 0.2 where no `rounds` are given.
        scope: `"global"`: the smallest of all weights together; `"layer"`: of each weight.
        rewind: `"weights"`, with the schedule of the learning rate; `"learning_rate"`: the schedule alone.
        rewind_to: The step k of round 0, or epochs, such as `"0.5 epochs"`. Networks with many layers or a high
            learning rate have tickets a few hundred steps behind their initial weights rather than there.
        control: `"random_reinit"`: in each round, train the same masks over other initial weights as well, for T steps.
        control_rounds: Numbers of the rounds that have the control, 1 the first; all by default.
        max_drop: Most that the metric may fall below that of round 0, >= 0; the first round that loses more is the
            last, and the one before is the ticket. `None`: all rounds are done.
        metric: `(outputs, y) -> float`, the higher the better; the accuracy by default.
        filters: Layers to prune; all by default.
        rules: Exceptions: `{"layers": selector, "skip": True}`.
        score_every: Take the metric each time so many batches are trained, for the plot; `None`: not.
        seed: Of initial weights, and set before each training; a `kc.Training` with a seed of its own sets that.
        folder: Where finished rounds are kept: a killed search called again goes on behind its last one, to the same
            weights. It is not noticed if what a `fit` function works with has become another.

    Returns:
        The trained ticket, the one to train, and what each round did.

    Raises:
        ValueError: For arguments out of range, rounds that do not reach the sparsity, a step that round 0 does not
            have, a `build_fn` whose models differ, a rule that matches nothing, or a folder that holds other work.

    **Reference**: Frankle and Carbin, "The lottery ticket hypothesis" (2019), section 1, strategy 2 of appendix B;
    Frankle et al., "Linear mode connectivity and the lottery ticket hypothesis" (2020), algorithm 2; Renda, Frankle and
    Carbin, "Comparing rewinding and fine-tuning in neural network pruning" (2020), section 3.
    **Deviations**: the optimizer's moments begin anew in each round; data are shuffled as in round 0, from its begin.
    """
    _check(build_fn, rewind, rewind_to, control, control_rounds, score_every)
    check_scope(scope)
    levels = levels_of(sparsity, rounds, share)
    built = built_by(build_fn, seed)
    _check_repeats(build_fn, built, seed)
    judge = Judge(*validation_data, metric, max_drop)
    train = RoundTrainer(fit, seed, built)
    structure = _dense(built, filters, rules)
    other = None if control is None else _other(build_fn, built, seed)
    moment = _moment(rewind_to, train)
    work = {
        "model": built,
        "validation_data": list(validation_data),
        "metric": metric,
        "levels": list(levels),
        "scope": scope,
        "filters": filters,
        "rules": rules,
        "rewind": [rewind, moment],
        "control": other,
        "score_every": score_every,
        **train.decisive(),
    }
    with Checkpoints(folder, work) as kept:
        loop = Rounds(structure, train, judge, kept, levels=levels, scope=scope, score_every=score_every)
        chosen = range(1, len(levels) + 1) if control_rounds is None else sorted(control_rounds)
        others = None if other is None else _dense(other, filters, rules)
        return _Search(structure, others, chosen, loop, kept, rewind, moment).result()


@dataclass(frozen=True)
class _Search:
    """The rounds of a search, each kept when it is done."""

    structure: keras.Model
    other: keras.Model | None
    controls: Collection[int]
    loop: Rounds
    kept: Checkpoints
    rewind: str
    moment: Moment

    def result(self) -> Ticket:
        first, step = self._first()

        def begin(number: int, masks: list[Array]) -> tuple[keras.Model, RoundCallback]:
            model = self.loop.model("start" if self.rewind == "weights" else f"round_{number - 1}")
            set_masks(model, masks)
            last = first.steps if step else None
            return model, self.loop.callback(model, first_step=step, last_step=last)

        found = result_of(self.loop, self.loop.run(first, begin, self._with_control))
        start = None
        if self.rewind == "weights":
            start = self.loop.model("start")
            set_masks(start, masks_in(found["model"]))
        return Ticket(**found, start=start, rewound_to=step)

    def _first(self) -> tuple[PruningRound, int]:
        """The whole network, and the step that is rewound to, whose weights are kept while it is trained."""
        trained: list[tuple[keras.Model, dict[str, Any]]] = []

        def start() -> tuple[keras.Model, dict[str, Any]]:
            if self.moment == 0:
                return self.structure, {"step": 0}
            model = rebuild(self.structure)
            callback = self.loop.callback(model, keep_at=self.moment)
            trained.append(self.loop.trained(model, "round_0", callback))
            begin = rebuild(self.structure)
            for variable, value in zip(begin.variables, _kept(callback), strict=True):
                variable.assign(value)
            return begin, {"step": callback.keep_at}

        def whole() -> tuple[keras.Model, dict[str, Any]]:
            return trained[0] if trained else self.loop.trained(rebuild(self.structure), "round_0")

        step = int(self.kept.step("start", start)["step"])
        return self.loop.round(0, whole), step

    def _with_control(self, done: PruningRound) -> PruningRound:
        other = self.other
        if other is None or done.number not in self.controls:
            return done

        def make() -> tuple[None, dict[str, Any]]:
            model = rebuild(other)
            set_masks(model, masks_in(self.loop.model(f"round_{done.number}")))
            return None, self.loop.trained(model, f"control_{done.number}")[1]

        figures = self.kept.step(f"control_{done.number}", make)
        return replace(done, control=figures["metric"], control_curve=curve_of(figures["curve"]))


def _kept(callback: RoundCallback) -> list[Array]:
    """The weights of the step that is rewound to.

    Raises:
        ValueError: Where the training did not end a batch there, or did not call the callback.
    """
    if callback.kept is not None and callback.keep_at != callback.steps:
        return callback.kept
    if callback.steps == 0:
        raise ValueError(
            "Expected `fit` to give `stage.callbacks` to `model.fit(callbacks=[...])`: they keep the weights to rewind "
            f"to. Received: a `fit` that did not, and rewind_to={callback.keep_at}"
        )
    raise ValueError(
        f"Expected `rewind_to` as a step that the training of the whole network stops at, below its {callback.steps} "
        f"(with `steps_per_execution` only the last of each are seen). Received: rewind_to={callback.keep_at}"
    )


def _moment(rewind_to: Moment, train: RoundTrainer) -> Moment:
    """The step to rewind to, where it can be told before the training.

    Raises:
        ValueError: For one that the training does not have.
    """
    length = train.length()
    if length is None:
        return rewind_to if isinstance(rewind_to, str) else int(rewind_to)
    per_epoch, whole = length
    step = steps_of(rewind_to, per_epoch)
    if step >= whole:
        raise ValueError(
            f"Expected `rewind_to` below the {whole} steps of a training, {per_epoch} an epoch. "
            f"Received: rewind_to={rewind_to!r}"
        )
    return step


def built_by(build_fn: Build, seed: int) -> keras.Model:
    """A new model: of the same names and, if it draws by Keras's seeds, of the same weights as another one."""
    with keras_private.names_counted_anew():
        keras.utils.set_random_seed(seed)
        model = build_fn()
    check_model(model)
    return model


def _dense(model: keras.Model, filters: Any, rules: Any) -> keras.Model:
    """A copy with masks of ones: an initial zero is a weight like any other."""
    # Initial values may be few, such as those of an identity.
    with ignored_warnings("Training will lose the few values"):
        found = masked(model, filters, rules)
    for pruner, weight in pruners_in(found):
        pruner.mask.assign(np.ones(weight.shape, bool))
    return found


def _check_repeats(build_fn: Build, built: keras.Model, seed: int) -> None:
    again = built_by(build_fn, seed)
    _check_shapes(built, again)
    if not _equal(built, again):
        raise ValueError(
            "Expected `build_fn` to give the same weights each time it is called with Keras's seeds set: let it draw "
            "by Keras's initializers, `keras.random`, `numpy.random` or `random`. Received: one that gave others"
        )


def _other(build_fn: Build, built: keras.Model, seed: int) -> keras.Model:
    """A model of other initial weights."""
    made = built_by(build_fn, seed + 1)
    _check_shapes(built, made)
    if _equal(built, made):
        raise ValueError(
            "Expected `build_fn` to give other weights with other seeds, for control='random_reinit': it must neither "
            "set seeds itself nor load weights. Received: one that gave the same"
        )
    return made


def _check_shapes(built: keras.Model, again: keras.Model) -> None:
    first, second = ([tuple(v.shape) for v in model.variables] for model in (built, again))
    if first != second:
        raise ValueError(
            "Expected `build_fn` to give models of the same shapes each time. "
            f"Received: {first[:8]} and {second[:8]} (variables of both, up to eight)"
        )


def _equal(one: keras.Model, other: keras.Model) -> bool:
    return all(
        np.array_equal(np.asarray(a), np.asarray(b))
        for a, b in zip(one.trainable_variables, other.trainable_variables, strict=True)
    )


def _check(
    build_fn: Any, rewind: Any, rewind_to: Any, control: Any, control_rounds: Any, score_every: int | None
) -> None:
    """Refuse what no search can be made of.

    Raises:
        TypeError: For a model in the place of what builds one.
        ValueError: For values out of range.
    """
    if isinstance(build_fn, keras.Model) or not callable(build_fn):
        raise TypeError(
            "Expected `build_fn` as a function without arguments that builds a new model, `lambda: make_model()`. "
            f"Received: {build_fn!r} of type {type(build_fn).__name__}"
        )
    if rewind not in REWINDS:
        raise ValueError(
            f"Expected `rewind` out of {REWINDS}. Received: rewind={rewind!r}{did_you_mean(rewind, REWINDS)}"
        )
    check_moment(rewind_to)
    if control is not None and control not in CONTROLS:
        hint = did_you_mean(control, CONTROLS)
        raise ValueError(f"Expected `control` out of {CONTROLS}, or None. Received: control={control!r}{hint}")
    if control is None and control_rounds is not None:
        raise ValueError(
            f"Expected `control_rounds` with control='random_reinit'. Received: control_rounds={control_rounds}"
        )
    check_score_every(score_every)
