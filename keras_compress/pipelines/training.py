"""Training a model for one step of a pipeline, and judging what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from keras_compress.convert.artifact import Artifact
from keras_compress.core.global_state import set_seeds
from keras_compress.graph.finite import finite_training
from keras_compress.pipelines.fingerprints import fingerprint
from keras_compress.recipes.recipe import Fit, Stage
from keras_compress.runtime import deployed
from keras_compress.runtime.measure import Metric
from keras_compress.runtime.simulation import simulation
from keras_compress.runtime.target import target


@dataclass(frozen=True)
class Settings:
    """How steps are trained: by kind of step, epochs and the learning rate at their start."""

    epochs: dict[str, int]
    learning_rates: dict[str, float]
    batch_size: int
    loss: Any
    seed: int
    fit: Fit | None


@dataclass(frozen=True)
class Trainer:
    """Trains a model for one stage.

    Raises:
        ValueError: Where there is nothing to train with.
    """

    settings: Settings
    x: Any
    y: Any
    source: keras.Model

    def __post_init__(self) -> None:
        if self.settings.fit is None and self.loss is None:
            raise ValueError("Expected `loss`, `fit`, or a compiled model. Received: none of them")

    def __call__(self, model: keras.Model, kind: str, name: str) -> keras.Model:
        """The model, trained.

        Raises:
            ValueError: Where NaN or infinity came of it.
        """
        with finite_training(model, name):
            self._train(model, kind, name)
        return model

    def _train(self, model: keras.Model, kind: str, name: str) -> None:
        epochs, rate = self.settings.epochs[kind], self.settings.learning_rates[kind]
        stage = Stage(name, kind, epochs=epochs, learning_rate=rate)
        # Set before each stage, so that a run that goes on ends as one that was never stopped.
        set_seeds(self.settings.seed, model)
        if self.settings.fit is not None:
            self.settings.fit(model, stage)
            return
        arrays = self.y is not None
        batch_size = self.settings.batch_size if arrays else None
        steps = -(-len(keras.tree.flatten(self.x)[0]) // self.settings.batch_size) if arrays else len(self.x)
        schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * steps)
        model.compile(keras.optimizers.Adam(schedule), self.loss, jit_compile=False)
        model.fit(self.x, self.y, batch_size=batch_size, epochs=epochs, verbose=0)

    def decisive(self) -> dict[str, Any]:
        """What decides how a model is trained, but for the data."""
        kept = self.settings
        found = {"loss": self.loss, "epochs": kept.epochs, "learning_rates": kept.learning_rates}
        # A `fit` may count what it does, in a list of its own say.
        return found | {"batch_size": kept.batch_size, "seed": kept.seed, "fit": fingerprint(kept.fit, state=False)}

    @property
    def loss(self) -> Any:
        """What is trained with: the loss given, or the one that the model was compiled with."""
        return self.settings.loss if self.settings.loss is not None else getattr(self.source, "loss", None)


class Judge:
    """Takes the metric on the validation data.

    Args:
        x: Inputs: one array, or a list of them.
        y: Labels for the metric.
        metric: `(outputs, y) -> float`, the higher the better.
        max_drop: Most that a value may fall below the baseline; `None` for no limit.
    """

    def __init__(self, x: Any, y: Any, metric: Metric, max_drop: float | None) -> None:
        self.x = x
        self.y = y
        self.metric = metric
        self.max_drop = max_drop
        self._model: keras.Model | None = None
        self._simulate: Any = None

    def of_model(self, model: keras.Model) -> float:
        """Of a Keras model, which is traced once, whatever its weights become."""
        if self._model is not model:
            self._model, self._simulate = model, simulation(model, keras.tree.flatten(model.outputs))
        return float(self.metric(self._simulate(keras.tree.flatten(self.x)), self.y))

    def of_file(self, artifact: Artifact) -> float:
        """Of a file, on the runtime it was made for."""
        return float(self.metric(deployed.run(target(artifact.runtime), artifact.content, self.x), self.y))

    def within(self, value: float, baseline: float) -> bool:
        """Whether a value loses no more than was allowed."""
        return self.max_drop is None or value >= baseline - self.max_drop - 1e-9
