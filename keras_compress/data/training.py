"""How models are trained between the steps of a compression, with a teacher or without."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.core import keras_private
from keras_compress.core.global_state import global_state_kept, set_seeds
from keras_compress.core.registry import lookup

# `fit(model, stage)`: compiles and trains for `stage.epochs`, in place.
Fit = Callable[[keras.Model, Any], None]


@dataclass(frozen=True)
class Training:
    """How a model is trained: Adam, for some epochs.

    Attributes:
        loss: Loss; the model's compiled one by default, with its `loss_weights`.
        epochs: Epochs, > 0; of a pipeline with several kinds of step also kind -> epochs. `None`: what the step says.
        learning_rate: Of the first batch, > 0, or kind of step -> rate. `None`: what the step says, 0.001 without one.
        decay: Whether the rate falls to 0 as a cosine.
        batch_size: Samples in a batch, for arrays.
        seed: Of shuffling and dropout, set before each training; `None`: not set.
        metrics: As for `compile`.
        callbacks: As for `fit`.
        jit_compile: As for `compile`; `False` starts sooner and is a little slower.
        fit: `fit(model, stage)` in place of all this: a function that compiles and trains a model.
        teacher: A model to learn from beside the labels, several, or `kc.Teacher(model, method=..., alpha=...)`; see
            `kc.distill`.
        loss_weights: What the loss of each output counts, as for `compile`.

    Raises:
        ValueError: For epochs, rates or a batch size that are not above 0; for a teacher beside `fit`.

    >>> Training(epochs=2, learning_rate={"prune": 1e-3}).rate_of("prune", 1e-4)
    0.001
    """

    loss: Any = None
    epochs: int | Mapping[str, int] | None = None
    learning_rate: float | Mapping[str, float] | None = None
    decay: bool = True
    batch_size: int = 128
    seed: int | None = 0
    metrics: Sequence[Any] = ()
    callbacks: Sequence[Any] = ()
    jit_compile: bool | str = False
    fit: Fit | None = None
    teacher: Any = None
    loss_weights: Any = None

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "batch_size"):
            given = getattr(self, name)
            values = given.values() if isinstance(given, Mapping) else () if given is None else [given]
            if not all(0 < value < math.inf for value in values):
                raise ValueError(f"Expected `{name}` > 0. Received: {name}={given}")
        if self.teacher is not None and self.fit is not None:
            raise ValueError("Expected `teacher` or `fit`, a function that has one of its own. Received: both")

    def epochs_of(self, kind: str, default: int) -> int:
        """Epochs of one kind of step."""
        return int(_of_kind(self.epochs, kind, default))

    def rate_of(self, kind: str, default: float) -> float:
        """The learning rate that one kind of step begins with."""
        return float(_of_kind(self.learning_rate, kind, default))

    def with_loss_of(self, model: Any) -> Training:
        """This training, with the compiled loss of a model and its weights where it has no loss of its own."""
        if self.loss is not None or getattr(model, "loss", None) is None:
            return self
        weights = self.loss_weights if self.loss_weights is not None else keras_private.loss_weights(model)
        return replace(self, loss=model.loss, loss_weights=weights)

    def on(self, x: Any, y: Any = None) -> Fitting:
        """This training with data: what `compress(fit=)` and `prune_channels(fine_tune=)` take.

        Args:
            x: Inputs as for `fit`: arrays, or a `tf.data.Dataset` or `PyDataset` of batches with their targets.
            y: Targets of arrays; none are needed where a teacher's outputs take their place.
        """
        return Fitting(self, x, y)


@dataclass(frozen=True)
class Fitting:
    """A training with its data. Called with a model, it trains it in place.

    Attributes:
        training: How.
        x: Inputs.
        y: Targets; `None` where `x` has them, or where nothing asks for any.
        samples: Numbers of the samples that an epoch has, some more than once or not at all; all once by default. For
            arrays.
        sample_weight: What each sample counts in the loss, for arrays; 1 by default.
    """

    training: Training
    x: Any
    y: Any = None
    samples: Any = None
    sample_weight: Any = None

    @property
    def steps_per_epoch(self) -> int:
        """Training batches in an epoch.

        Raises:
            ValueError: For a dataset that does not know its length.
        """
        if self._in_batches:
            try:
                return len(self.x)
            except TypeError as error:
                raise ValueError(
                    "Expected a dataset of known length (`tf.data.experimental.assert_cardinality` gives it one), or "
                    f"`decay=False`. Received: {self.x} ({error})"
                ) from error
        count = len(keras.tree.flatten(self.x)[0] if self.samples is None else self.samples)
        return -(-count // self.training.batch_size)

    @property
    def _in_batches(self) -> bool:
        return isinstance(self.x, (tf.data.Dataset, keras.utils.PyDataset))

    @global_state_kept()
    def __call__(self, model: keras.Model, stage: Any = None) -> None:
        """Compile the model and train it.

        Args:
            model: The model.
            stage: What it is trained for, with `method`, `epochs` and `learning_rate`: a `Stage` of a recipe, whose
                `teacher` counts where the training has none, or of a round of pruning, with `callbacks` beside the
                training's own.

        Raises:
            ValueError: Without a loss; for a teacher that does not fit.
        """
        training = self.training
        if training.seed is not None:
            set_seeds(training.seed, model)
        if training.fit is not None:
            training.fit(model, stage)
            return
        kind = getattr(stage, "method", "")
        epochs = training.epochs_of(kind, getattr(stage, "epochs", 1))
        rate = training.rate_of(kind, getattr(stage, "learning_rate", 1e-3))
        training = training.with_loss_of(model)
        if training.loss is None:
            raise ValueError("Expected `loss`, `fit`, or a compiled model. Received: none of them")
        teacher = training.teacher if training.teacher is not None else getattr(stage, "teacher", None)
        trained, y = self._taught(model, teacher, training)
        trained.compile(
            self._optimizer(rate, epochs),
            training.loss,
            loss_weights=training.loss_weights,
            metrics=list(training.metrics) or None,
            jit_compile=training.jit_compile,
        )
        _build_optimizer(trained)
        trained.fit(
            self._drawn(self.x),
            self._drawn(y),
            sample_weight=self._drawn(self.sample_weight),
            batch_size=None if self._in_batches else training.batch_size,
            epochs=epochs,
            verbose=0,
            callbacks=[*training.callbacks, *getattr(stage, "callbacks", ())] or None,
            # Datasets are shuffled by themselves, and Keras warns where it is asked to.
            shuffle=not isinstance(self.x, tf.data.Dataset),
        )

    def _drawn(self, values: Any) -> Any:
        """Of arrays with one entry for each sample those of `samples`."""
        if self.samples is None or values is None:
            return values
        return keras.tree.map_structure(lambda each: np.take(each, self.samples, axis=0), values)

    def _taught(self, model: keras.Model, teacher: Any, training: Training) -> tuple[keras.Model, Any]:
        """What is compiled and fitted: the model with its targets, or what trains it by a teacher."""
        if teacher is None:
            return model, self.y
        # What a step behind this one takes its loss from.
        model.compile(loss=training.loss, loss_weights=training.loss_weights)
        trained: keras.Model = lookup("teaching", "distill")(model, teacher)
        return trained, lookup("teaching", "targets")(teacher, self.y)

    def _optimizer(self, rate: float, epochs: int) -> keras.optimizers.Optimizer:
        if not self.training.decay:
            return keras.optimizers.Adam(rate)
        return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, epochs * self.steps_per_epoch))


def _build_optimizer(model: keras.Model) -> None:
    """Make the optimizer's variables before `fit` does: a step whose first trace makes some is traced twice."""
    # A layer that is not built yet has variables to come.
    if all(layer.built for layer in keras_private.flattened(model)):
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)


def _of_kind(given: Any, kind: str, default: Any) -> Any:
    if isinstance(given, Mapping):
        return given.get(kind, default)
    return default if given is None else given
