"""Training a model for one step of a pipeline, and judging what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras

from keras_compress.convert.artifact import Artifact
from keras_compress.convert.freeze import points_in
from keras_compress.data.samples import Batch, first_of, input_specs, samples
from keras_compress.data.training import Training
from keras_compress.graph.finite import finite_training
from keras_compress.graph.trace import as_graph
from keras_compress.pipelines.fingerprints import fingerprint
from keras_compress.recipes.recipe import Stage
from keras_compress.runtime import deployed
from keras_compress.runtime.measure import Metric
from keras_compress.runtime.simulation import simulation
from keras_compress.runtime.target import target

EPOCHS = {"channels": 4, "prune": 3, "cluster": 3, "quantize": 2}
LEARNING_RATES = {"channels": 1e-3, "prune": 1e-3, "cluster": 5e-4, "quantize": 2e-4}


class Trainer:
    """Trains a model for one stage of a pipeline.

    Args:
        training: How; epochs and rates by kind of step.
        x: Inputs.
        y: Targets.
        source: The model given, whose loss counts where `training` has none.
        samples: Numbers of the samples of an epoch, see `kc.Fitting`; all by default.
        sample_weight: What each sample counts in the loss; 1 by default.

    Raises:
        ValueError: Where there is nothing to train with, or for a kind of step that there is not.
    """

    def __init__(
        self,
        training: Training,
        x: Any,
        y: Any,
        source: keras.Model,
        *,
        samples: Any = None,
        sample_weight: Any = None,
    ) -> None:
        for name, given in (("epochs", training.epochs), ("learning_rate", training.learning_rate)):
            if isinstance(given, Mapping) and set(given) - set(EPOCHS):
                raise ValueError(f"Expected `{name}` > 0 for stages out of {sorted(EPOCHS)}. Received: {given}")
        self._training = training.with_loss_of(source)
        if training.fit is None and self._training.loss is None:
            raise ValueError("Expected `loss`, `fit`, or a compiled model. Received: none of them")
        self._fit = replace(self._training.on(x, y), samples=samples, sample_weight=sample_weight)

    def __call__(self, model: keras.Model, kind: str, name: str) -> keras.Model:
        """The model, trained.

        Raises:
            ValueError: Where NaN or infinity came of it.
        """
        with finite_training(model, name):
            # Seeds are set before each stage, so that a run that goes on ends as one that was never stopped.
            self._fit(model, Stage(name, kind, epochs=self._epochs()[kind], learning_rate=self._rates()[kind]))
        return model

    def _epochs(self) -> dict[str, int]:
        return {kind: self._training.epochs_of(kind, default) for kind, default in EPOCHS.items()}

    def _rates(self) -> dict[str, float]:
        return {kind: self._training.rate_of(kind, default) for kind, default in LEARNING_RATES.items()}

    def decisive(self) -> dict[str, Any]:
        """What decides how a model is trained, but for the data."""
        kept = self._training
        # Named only where they are not the default: folders from before there were such arguments go on.
        later: dict[str, Any] = {} if kept.decay else {"decay": kept.decay}
        if kept.callbacks:
            # Training changes their state, and hangs the model on them.
            later["callbacks"] = [type(each) for each in kept.callbacks]
        later |= {name: value for name in ("teacher", "loss_weights") if (value := getattr(kept, name)) is not None}
        return {
            **later,
            "epochs": self._epochs(),
            "learning_rates": self._rates(),
            "loss": kept.loss,
            "batch_size": kept.batch_size,
            "seed": kept.seed,
            # A `fit` may count what it does, in a list of its own say.
            "fit": fingerprint(kept.fit, state=False),
        }


def check_float_activations(model: keras.Model) -> None:
    """Refuse a model with quantized activations where it is stripped and trained on: rounding has no gradient then.

    Raises:
        ValueError: Naming the first points.
    """
    points = [point.name for point in points_in(model)]
    if points:
        raise ValueError(
            "Expected a model whose activations are not quantized yet: it is pruned first, and quantized then. "
            f"Received: {model.name!r} with {points[:5]}"
        )


class Judge:
    """Takes the metric on the validation data.

    Args:
        x: Inputs, in any form that `keras_compress.data.samples` takes: an array, a list, or a dict by name.
        y: Labels for the metric.
        metric: `(outputs, y) -> float`, the higher the better.
        max_drop: Most that a value may fall below the baseline, >= 0; `None` for no limit.

    Raises:
        ValueError: For a limit below 0.
    """

    def __init__(self, x: Any, y: Any, metric: Metric, max_drop: float | None) -> None:
        if max_drop is not None and not 0 <= max_drop < math.inf:
            raise ValueError(f"Expected `max_drop` >= 0, or None. Received: max_drop={max_drop}")
        self.x = x
        self.y = y
        self.metric = metric
        self.max_drop = max_drop
        self._model: keras.Model | None = None
        self._simulate: Any = None
        self._inputs: Batch = []

    def of_model(self, model: keras.Model) -> float:
        """Of a Keras model, which is traced once, whatever its weights become."""
        if self._model is not model:
            graph = as_graph(model, first_of(self.x))
            self._model, self._simulate = model, simulation(graph, graph.outputs)
            self._inputs = samples(self.x, input_specs(graph))
        return float(self.metric(self._simulate(self._inputs), self.y))

    def of_file(self, artifact: Artifact) -> float:
        """Of a file, on the runtime it was made for."""
        return float(self.metric(deployed.run(target(artifact.runtime), artifact.content, self.x), self.y))

    def within(self, value: float, baseline: float) -> bool:
        """Whether a value loses no more than was allowed."""
        return self.max_drop is None or value >= baseline - self.max_drop - 1e-9
