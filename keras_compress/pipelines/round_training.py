"""Training in a round of pruning: what `fit` is told, and the callback that keeps, rewinds, stops and scores."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core import keras_private
from keras_compress.core.global_state import global_state_kept, set_seeds
from keras_compress.data.training import Fit, Fitting
from keras_compress.graph.finite import finite_training
from keras_compress.pipelines.fingerprints import fingerprint
from keras_compress.recipes.recipe import Stage

Array = NDArray[Any]
# Steps, or a text such as "0.5 epochs".
Moment: TypeAlias = int | str
_EPOCHS = re.compile(r"(\d+(?:\.\d*)?|\.\d+) epochs?")
# Where a training does not say how long it is.
EPOCHS, LEARNING_RATE = 3, 1e-3


@dataclass(frozen=True)
class RoundStage(Stage):
    """What a round tells `fit`.

    Attributes:
        callbacks: To be given to `model.fit(callbacks=[...])`.
        first_step: Step of the whole training at which this one begins. Schedules of the optimizer's learning rate are
            moved to it by the callbacks.
    """

    callbacks: tuple[keras.callbacks.Callback, ...] = ()
    first_step: int = 0


@keras.saving.register_keras_serializable(package="keras_compress")
class LaterSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule of learning rates from one of its steps on: `step -> schedule(step + first_step)`.

    The optimizer counts from 0, so that the moments it begins with are corrected as those of a new training: with its
    counter at `first_step`, Adam's first steps would be three times too long.
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, first_step: int) -> None:
        super().__init__()
        self.schedule, self.first_step = schedule, int(first_step)

    def __call__(self, step: Any) -> Any:
        return self.schedule(step + self.first_step)

    def get_config(self) -> dict[str, Any]:
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "first_step": self.first_step,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LaterSchedule:
        return cls(keras.saving.deserialize_keras_object(config["schedule"]), config["first_step"])


class RoundCallback(keras.callbacks.Callback):
    """Counts the steps of a training, and does what a round needs at some of them.

    Args:
        trained: The model whose weights are kept and scored; `fit` may run another one around it.
        first_step: Step that the schedule of the learning rate begins with.
        last_step: Step at which the training ends, if it does not end before.
        keep_at: Step behind which all variables are kept; `None`: none. In epochs it is resolved when training begins.
        score: Gives the score of the model.
        score_every: Steps between scores; `None`: none.
    """

    def __init__(
        self,
        trained: keras.Model,
        *,
        first_step: int = 0,
        last_step: int | None = None,
        keep_at: Moment | None = None,
        score: Callable[[keras.Model], float] | None = None,
        score_every: int | None = None,
    ) -> None:
        super().__init__()
        self.trained, self.first_step, self.last_step = trained, first_step, last_step
        self.keep_at, self.score, self.score_every = keep_at, score, score_every
        self.steps = 0
        self.kept: list[Array] | None = None
        self.curve: list[tuple[int, float]] = []
        self._epoch_began_at = 0
        self._began = False

    def on_train_begin(self, logs: Any = None) -> None:
        if isinstance(self.keep_at, str):
            self.keep_at = steps_of(self.keep_at, (self.params or {}).get("steps"))
        if not self._began:
            move_schedule(self.model.optimizer, self.first_step)
            self._look(at_begin=True)
        self._began = True
        self._epoch_began_at = self.steps

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch_began_at = self.steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Several batches may be run as one: `batch` is the last of them.
        self.steps = self._epoch_began_at + batch + 1
        self._look()
        if self.last_step is not None and self.first_step + self.steps >= self.last_step:
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        if self.score_every is not None and (not self.curve or self.curve[-1][0] != self._now()):
            self._note()

    def _now(self) -> int:
        return self.first_step + self.steps

    def _look(self, at_begin: bool = False) -> None:
        if self._now() == self.keep_at:
            self.kept = [np.array(variable) for variable in self.trained.variables]
        if self.score_every is not None and (at_begin or self.steps % self.score_every == 0):
            self._note()

    def _note(self) -> None:
        with global_state_kept():
            self.curve.append((self._now(), float(self.score(self.trained)) if self.score else math.nan))


def move_schedule(optimizer: Any, first_step: int) -> None:
    """Let the schedule of an optimizer's learning rate begin at one of its steps; a constant rate stays."""
    # Under mixed_float16 Keras puts another optimizer around it.
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    schedule = keras_private.learning_rate_of(optimizer)
    if first_step and isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        optimizer.learning_rate = LaterSchedule(schedule, first_step)


def steps_of(moment: Moment, steps_per_epoch: int | None) -> int:
    """A moment of a training in steps.

    Args:
        moment: Steps, or `"0.5 epochs"`.
        steps_per_epoch: Batches in an epoch; `None` where nobody knows.

    Raises:
        ValueError: For epochs where their length is not known.

    >>> steps_of("0.5 epochs", 100)
    50
    """
    if isinstance(moment, (int, np.integer)):
        return int(moment)
    if steps_per_epoch is None:
        raise ValueError(
            "Expected `rewind_to` in steps for data that do not know their length. "
            f"Received: rewind_to={moment!r} (`tf.data.experimental.assert_cardinality` gives a dataset one)"
        )
    return round(_epochs(moment) * steps_per_epoch)


def check_moment(moment: Any) -> None:
    """Refuse what is no moment of a training.

    Raises:
        ValueError: Saying what is.
    """
    whole = isinstance(moment, (int, np.integer)) and not isinstance(moment, bool) and moment >= 0
    if not whole and not (isinstance(moment, str) and _EPOCHS.fullmatch(moment)):
        raise ValueError(
            "Expected `rewind_to` as a step >= 0, 0 for the initial weights, or as epochs, such as '0.5 epochs'. "
            f"Received: rewind_to={moment!r}"
        )


def _epochs(moment: str) -> float:
    found = _EPOCHS.fullmatch(moment)
    return float(found[1]) if found else 0.0


class RoundTrainer:
    """Trains the model of a round.

    Args:
        fit: `kc.Training(...).on(x, y)`, or a function `fit(model, stage)`.
        seed: Set before each training; a `kc.Training` with one of its own sets that.
        source: The model given, whose compiled loss counts where a `kc.Training` has none.

    Raises:
        ValueError: For what cannot be called, or a `kc.Training` without data or without a loss.
    """

    def __init__(self, fit: Any, seed: int, source: keras.Model) -> None:
        if not callable(fit):
            raise ValueError(
                "Expected `fit` as kc.Training(...).on(x, y), or a function `fit(model, stage)` that compiles and "
                f"trains a model. Received: fit={fit!r}"
            )
        self._given: Fit | Fitting = fit
        self._fit: Fit | Fitting = fit
        if isinstance(fit, Fitting) and fit.training.fit is None:
            training = fit.training.with_loss_of(source)
            if training.loss is None:
                raise ValueError("Expected `fit` with a loss, or a compiled model. Received: neither")
            self._fit = training.on(fit.x, fit.y)
        self._seed = seed

    def __call__(self, model: keras.Model, name: str, callback: RoundCallback, method: str = "prune") -> None:
        """Train a model in place.

        Args:
            model: The model.
            name: Of the round.
            callback: What watches it.
            method: Kind of step, for the epochs and rate of a `kc.Training`.

        Raises:
            ValueError: Where NaN or infinity came of it.
        """
        stage = RoundStage(
            name=name,
            method=method,
            epochs=EPOCHS,
            learning_rate=LEARNING_RATE,
            callbacks=(callback,),
            first_step=callback.first_step,
        )
        with finite_training(model, name):
            # So that a search that goes on ends as one that was never stopped.
            set_seeds(self._seed, model)
            self._fit(model, stage)

    def length(self) -> tuple[int, int] | None:
        """Steps of an epoch and of the whole training; `None` where only the training itself knows."""
        if not isinstance(self._fit, Fitting) or self._fit.training.fit is not None:
            return None
        try:
            per_epoch = self._fit.steps_per_epoch
        except ValueError:
            return None
        return per_epoch, per_epoch * self._fit.training.epochs_of("prune", EPOCHS)

    def decisive(self) -> dict[str, Any]:
        """What decides how a model is trained, and on what data."""
        if not isinstance(self._given, Fitting):
            # A function may count what it does, in a list of its own say.
            return {"fit": fingerprint(self._given, state=False), "seed": self._seed}
        training = self._given.training
        own = {each.name: getattr(training, each.name) for each in fields(training)}
        # Training changes the state of callbacks, and hangs the model on them.
        own["callbacks"] = [type(each) for each in training.callbacks]
        own["fit"] = fingerprint(training.fit, state=False)
        found: Mapping[str, Any] = {"fit": own, "x": self._given.x, "y": self._given.y, "seed": self._seed}
        return dict(found)
