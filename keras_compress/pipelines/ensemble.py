"""Ensembles of small networks, by bagging and by boosting, deployed as one model."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_compress.core import progress
from keras_compress.core.global_state import global_state_kept, set_seeds
from keras_compress.core.progress import ProgressLine
from keras_compress.core.shown import Shown
from keras_compress.core.suggest import did_you_mean
from keras_compress.core.warn import warn
from keras_compress.data.training import Fitting
from keras_compress.graph.finite import finite_training
from keras_compress.graph.graph import functional
from keras_compress.graph.model import check_model, rebuild
from keras_compress.graph.remade import classes_in
from keras_compress.pipelines.boosting import member_weight, next_weights, packed, unpacked, weighted_error
from keras_compress.pipelines.checkpoints import Checkpoints
from keras_compress.pipelines.lottery_ticket import built_by
from keras_compress.pipelines.round_training import RoundTrainer
from keras_compress.quantizers.vote import VOTES, check_members, join_models, shares_of
from keras_compress.recipes.recipe import Stage
from keras_compress.runtime.measure import Metric, accuracy

Array = NDArray[Any]
METHODS = ("bagging", "boosting", "samme")
PREDICTED_AT_ONCE = 512


@dataclass(frozen=True)
class MemberStage(Stage):
    """What a member of an ensemble tells `fit`.

    Attributes:
        samples: Numbers of the samples of its epochs, drawn with replacement, `(samples,)`; `None` for all, once.
        sample_weight: What each sample is to count in the loss, `(samples,)`, 1 in the mean; `None` for the same.
        callbacks: To be given to `model.fit(callbacks=[...])`: they show how far it is.
    """

    samples: Any = None
    sample_weight: Any = None
    callbacks: tuple[keras.callbacks.Callback, ...] = ()


@dataclass(frozen=True)
class Member:
    """One member, as it was measured.

    Attributes:
        number: 1 is the first.
        weight: What it counts in the vote: alpha of boosting, 1 of bagging.
        error: Weighted share of the training samples that it gets wrong, which boosting goes by; `None` for bagging.
        metric: Its own, on the validation data; `None` without any.
        together: That of the vote of all members so far.
    """

    number: int
    weight: float
    error: float | None = None
    metric: float | None = None
    together: float | None = None


@dataclass(frozen=True, repr=False)
class Ensemble(Shown):
    """What `train_ensemble` made.

    Attributes:
        model: The members as one model, see `kc.join_models`.
        members: What was measured of each.
        method: `"bagging"`, `"boosting"` or `"samme"`.
    """

    model: keras.Model
    members: tuple[Member, ...]
    method: str

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines."""
        last = self.members[-1]
        own = [f"{each.metric:.6g}" for each in self.members if each.metric is not None]
        return f"Ensemble: {len(self.members)} members by {self.method}", [
            ("metric", "" if last.together is None else f"{last.together:.6g} together"),
            ("members", ", ".join(own)),
            ("weights", ", ".join(f"{each.weight:.4g}" for each in self.members)),
        ]

    def report(self) -> dict[str, Any]:
        """What a report says, as JSON types."""
        return {"method": self.method, "members": [asdict(each) for each in self.members]}


@global_state_kept()
def train_ensemble(
    model: keras.Model | Callable[[], keras.Model],
    fit: Fitting,
    members: int = 3,
    *,
    method: str = "bagging",
    warm_start: bool = False,
    vote: str = "outputs",
    validation_data: tuple[Any, Any] | None = None,
    metric: Metric = accuracy,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
) -> Ensemble:
    """Train several networks of one kind and let them vote: for binary nets, whose single ones differ a lot.

    Bagging trains each member on as many samples as there are, drawn with replacement. Boosting trains each with the
    samples weighted by how the members before did on them: `w` goes up by `exp(alpha)` where a member is wrong and, but
    for `"samme"`, down by it where it is right; the loss counts each sample by its weight.

    **Forward** `y = sum_k a_k / (sum_j a_j) * f_k(x)`, `a_k = 1` for bagging, alpha for boosting:
    `ln((1 - e) / e) / 2`, for `"samme"` `ln((1 - e) / e) + ln(classes - 1)`, where e is the share of the training
    samples that the member gets wrong, by their weights.

    Args:
        model: What each member begins as: a model, binary already (`kc.quantize_model(...)`) and perhaps trained, or a
            function `() -> model` that builds one with new weights: Keras's seeds are set before each call, to
            others for each member.
        fit: `kc.Training(...).on(x, y)` with arrays. With a function of one's own, `kc.Training(fit=function)`, that is
            called with `(model, stage)` and takes the samples `stage.samples` and the weights `stage.sample_weight`.
        members: How many, >= 1.
        method: `"bagging"`, `"boosting"` (AdaBoost as in the paper) or `"samme"` (AdaBoost for several classes, whose
            weights move further).
        warm_start: Begin each member as the one before ended, which needs fewer epochs: "sequential" in the paper.
            Else they are independent.
        vote: `"outputs"`: the average of what the members give; `"softmax"`: of the probabilities of members that give
            logits.
        validation_data: `(x, y)` arrays: inputs and labels for `metric`.
        metric: `(outputs, y) -> float`, the higher the better; the accuracy by default.
        seed: Of what is drawn, of initial weights, and set before each training, to others for each member; a
            `kc.Training` with a seed of its own sets that, plus the number of the member less 1.
        folder: Where finished members are kept: a killed run called again goes on behind its last one, to the same
            weights, and one with more `members` adds to those that are there.

    Returns:
        The members as one model, and what was measured.

    Raises:
        ValueError: For arguments out of range, data that are not arrays, models that `kc.join_models` does not take or,
            for boosting, that have no output for each class, a first member of boosting that is no better than chance,
            or a folder that holds other work.

    **Reference**: Zhu, Dong and Su, "Binary ensemble neural network: more bits per network or more networks per bit?"
    (2019), algorithm 1; Zhu, Zou, Rosset and Hastie, "Multi-class AdaBoost" (2009), algorithm 2 (`"samme"`).
    **Deviations**: boosting weighs the loss, where the authors' program draws samples by their weights. A member that
    is no better than chance ends boosting and is left out, with a warning.
    """
    _check(fit, members, method, vote)
    first = _first(model, seed)
    check_members([first], vote)
    _check_classes(first, method)
    work = {
        "model": model if isinstance(model, keras.Model) else first,
        "method": method,
        "warm_start": bool(warm_start),
        "seed": int(seed),
        **RoundTrainer(fit, seed, first).decisive(),
    }
    if not isinstance(model, keras.Model):
        work["build"] = model
    with Checkpoints(folder, work) as kept, ProgressLine("training an ensemble"):
        fit = replace(fit, training=fit.training.with_loss_of(first))
        found = _Members(model, fit, method, warm_start, seed, kept, classes_in(first))
        weights, errors = found.all(members)
        models = [found.model(number) for number in range(1, len(weights) + 1)]
        joined = join_models(models, weights, vote=vote)
        measured = _measured(models, weights, vote, validation_data, metric)
    listed = [Member(n, w, e, *m) for n, (w, e, m) in enumerate(zip(weights, errors, measured, strict=True), 1)]
    return Ensemble(joined, tuple(listed), method)


@dataclass
class _Members:
    """Trains the members, each kept when it is done."""

    start: Any
    fit: Fitting
    method: str
    warm_start: bool
    seed: int
    kept: Checkpoints
    classes: dict[str, Any]

    def all(self, count: int) -> tuple[list[float], list[float | None]]:
        """What each member counts, and its error."""
        samples = len(keras.tree.flatten(self.fit.x)[0])
        labels = None if self.method == "bagging" else labels_of(self.fit.y)
        weights, errors, of_samples = [], [], np.ones(samples)
        for number in range(1, count + 1):

            def make(number: int = number, now: Array = of_samples) -> tuple[keras.Model, dict[str, Any]]:
                model = self._begun(number)
                self._train(model, number, samples, now)
                return model, {} if labels is None else self._figures(model, labels, now)

            figures = self.kept.step(f"member_{number}", make)
            if figures and figures["weight"] <= 0.0:
                _no_better_than_chance(number, figures["error"])
                break
            weights.append(figures.get("weight", 1.0))
            errors.append(figures.get("error"))
            if figures:
                wrong = unpacked(figures["wrong"], samples)
                of_samples = next_weights(of_samples, wrong, figures["weight"], self.method)
        return weights, errors

    def model(self, number: int) -> keras.Model:
        """A finished member."""
        # Users' layers need no registration, as they need none to be copied.
        with keras.saving.custom_object_scope(self.classes):
            return self.kept.model(f"member_{number}")

    def _begun(self, number: int) -> keras.Model:
        if self.warm_start and number > 1:
            return self.model(number - 1)
        if isinstance(self.start, keras.Model):
            return rebuild(self.start)
        return built_by(self.start, self.seed + number - 1)

    def _train(self, model: keras.Model, number: int, samples: int, weights: Array) -> None:
        own = self.fit.training.seed if self.fit.training.seed is not None else self.seed
        stage = MemberStage(
            name=f"member_{number}",
            method="ensemble",
            samples=bootstrap(samples, self.seed, number) if self.method == "bagging" else None,
            sample_weight=None if self.method == "bagging" else weights.astype(np.float32),
            callbacks=(_Progress(f"member {number}"),),
        )
        training = replace(self.fit.training, seed=own + number - 1)
        with finite_training(model, stage.name):
            set_seeds(own + number - 1, model)
            fit = replace(self.fit, training=training, samples=stage.samples, sample_weight=stage.sample_weight)
            fit(model, stage)

    def _figures(self, model: keras.Model, labels: Array, weights: Array) -> dict[str, Any]:
        outputs = model.predict(self.fit.x, batch_size=PREDICTED_AT_ONCE, verbose=0)
        wrong = outputs.argmax(-1) != labels
        error = weighted_error(wrong, weights)
        alpha = member_weight(error, outputs.shape[1], self.method, len(labels))
        return {"weight": alpha, "error": error, "wrong": packed(wrong)}


class _Progress(keras.callbacks.Callback):
    """Tells the open line how many batches of a member are done."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self._words = words

    def on_train_begin(self, logs: Any = None) -> None:
        given = self.params or {}
        steps, epochs = given.get("steps"), given.get("epochs") or 1
        progress.step(self._words, None if steps is None else steps * epochs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        progress.advance()


def bootstrap(samples: int, seed: int, number: int) -> Array:
    """Numbers of samples, drawn with replacement for one member."""
    drawn: Array = np.random.default_rng([seed, number]).integers(0, samples, samples)
    return drawn


def labels_of(y: Any) -> Array:
    """Classes of samples, from integers or from rows with a 1.

    Raises:
        ValueError: For anything else.
    """
    found = np.asarray(y) if hasattr(y, "__array__") else None
    if found is not None and found.ndim == 2 and found.shape[1] > 1:
        return np.asarray(found.argmax(-1))
    if found is None or found.size != len(found) or found.dtype.kind not in "iub":
        raise ValueError(
            "Expected `y` as an array of classes, integers (samples,) or one-hot (samples, classes), for boosting. "
            f"Received: {type(y).__name__}" + ("" if found is None else f" of {found.dtype}, shape {found.shape}")
        )
    return found.reshape(-1)


def _first(model: Any, seed: int) -> keras.Model:
    if isinstance(model, keras.Model) or not callable(model):
        check_model(model)
        return model
    return built_by(model, seed)


def _check_classes(model: keras.Model, method: str) -> None:
    """Boosting asks which class a member gives."""
    shape = tuple(functional(model).outputs[0].shape)
    if method != "bagging" and (len(shape) != 2 or shape[1] < 2):
        raise ValueError(
            f"Expected outputs of shape (samples, classes), classes >= 2, for method={method!r}. "
            f"Received: {shape} of {model.name!r}"
        )


def _measured(
    models: Sequence[keras.Model], weights: Sequence[float], vote: str, data: tuple[Any, Any] | None, metric: Metric
) -> list[tuple[float | None, float | None]]:
    """The metric of each member, and of the vote of those up to it."""
    if data is None:
        return [(None, None)] * len(models)
    x, y = data
    outputs = [model.predict(x, batch_size=PREDICTED_AT_ONCE, verbose=0) for model in models]
    if vote == "softmax":
        outputs = [np.asarray(tf.nn.softmax(each)) for each in outputs]
    found: list[tuple[float | None, float | None]] = []
    for number, own in enumerate(outputs, 1):
        together = np.tensordot(shares_of(weights[:number], number), np.stack(outputs[:number]), 1)
        found.append((float(metric([own], y)), float(metric([together], y))))
    return found


def _no_better_than_chance(number: int, error: float) -> None:
    said = f"member {number}, which gets {error:.1%} of the training samples wrong by their weights: chance"
    if number == 1:
        raise ValueError(f"Expected a member that is better than chance: train it longer. Received: {said}")
    warn(f"Boosting ends before {said}. The members before it are the ensemble.")


def _check(fit: Any, members: Any, method: Any, vote: Any) -> None:
    if not isinstance(fit, Fitting):
        raise ValueError(f"Expected `fit` as kc.Training(...).on(x, y). Received: fit={fit!r}")
    arrays = keras.tree.flatten(fit.x)
    if isinstance(fit.x, (tf.data.Dataset, keras.utils.PyDataset)) or not all(hasattr(a, "shape") for a in arrays):
        raise ValueError(
            "Expected arrays in kc.Training(...).on(x, y): members are trained on some of the samples, or with weights "
            f"for them. Received: {type(fit.x).__name__}"
        )
    if isinstance(members, bool) or not isinstance(members, (int, np.integer)) or members < 1:
        raise ValueError(f"Expected `members` as an integer >= 1. Received: members={members!r}")
    for name, value, known in (("method", method, METHODS), ("vote", vote, VOTES)):
        if value not in known:
            raise ValueError(
                f"Expected `{name}` out of {known}. Received: {name}={value!r}{did_you_mean(value, known)}"
            )
