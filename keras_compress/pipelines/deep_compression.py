"""Deep Compression: prune and retrain in rounds, share weights, int8, and a file that runs encoded.

**Reference**: Han, Mao and Dally, "Deep Compression: compressing deep neural networks with pruning, trained
quantization and Huffman coding" (2016); rounds and sensitivity: Han et al. (2015), section 3.
**Deviations**: weights are int8 of at most `number_of_clusters` values, and biases int32, where the paper has
float32 centroids; indices are not relative; the code is decoded by the runtime, layer by layer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras

from keras_compress.clustering.centroids import cluster_weights
from keras_compress.convert.artifact import Artifact
from keras_compress.convert.convert import convert
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.quiet import ignored_warnings
from keras_compress.core.renamed import with_earlier
from keras_compress.core.schedule import ConstantSparsity
from keras_compress.core.selection import exactly
from keras_compress.core.shown import Shown
from keras_compress.core.warn import warn
from keras_compress.data.training import Training
from keras_compress.graph.model import check_model, strip
from keras_compress.pipelines.checkpoints import Checkpoints
from keras_compress.pipelines.steps import Clustering, Conversion, Pruning
from keras_compress.pipelines.training import Judge, Trainer, check_float_activations
from keras_compress.pipelines.weight_sensitivity import WeightSensitivity, weight_sensitivity
from keras_compress.pruning.magnitude import prune_low_magnitude
from keras_compress.quantizers.model import quantize_model
from keras_compress.runtime.measure import Metric, accuracy
from keras_compress.structured.prune import prune_channels


@dataclass(frozen=True)
class Step:
    """One step of the pipeline, as it was measured on the validation data.

    Attributes:
        name: Such as `"prune_0.9"` or `"prune_0.9_quantize"`.
        metric: Of the Keras model; of the deployed file for the last step of a try.
        raw_bytes: Size of the file, for the last step of a try.
        within_budget: Whether it loses no more than was allowed.
    """

    name: str
    metric: float
    raw_bytes: int | None
    within_budget: bool


@dataclass(frozen=True, repr=False)
class DeepCompression(Shown):
    """What `deep_compression` made.

    Attributes:
        model: The trained model, with its masks, centroids and ranges.
        artifact: The file; `artifact.save("model.tflite")`.
        baseline: The metric of the model that was given, on the validation data.
        metric: That of the file, on its runtime.
        met: Whether the file is within the budget.
        sparsity: Of the last round of pruning that is in it.
        steps: All steps, in the order they were done.
        sensitivity: What set the sparsity of each layer.
    """

    model: keras.Model
    artifact: Artifact
    baseline: float
    metric: float
    met: bool
    sparsity: float
    steps: tuple[Step, ...]
    sensitivity: WeightSensitivity

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines."""
        verdict = "within the budget" if self.met else "NOT within the budget"
        title, (file, weights, *_) = self.artifact.shown()
        return f"DeepCompression, {verdict}: {title}", [
            ("metric", f"{self.metric:.6g} of the file, {self.baseline:.6g} of the model given"),
            file,
            weights,
            ("steps", f"{len(self.steps)}, the last {self.steps[-1].name}" if self.steps else "none"),
        ]

    def report(self) -> dict[str, Any]:
        """What a report says, as JSON types."""
        return {
            "baseline": self.baseline,
            "metric": self.metric,
            "met": self.met,
            "sparsity": self.sparsity,
            "steps": [asdict(step) for step in self.steps],
            **self.artifact.report(),
        }


# What was an argument of its own -> the argument that it is a part of, and its name there.
_EARLIER = {
    **{name: ("pruning", name) for name in ("sparsities", "channels")},
    "number_of_clusters": ("clustering", "number_of_clusters"),
    "cluster_rules": ("clustering", "rules"),
    **{name: ("training", name) for name in ("loss", "epochs", "batch_size", "fit", "seed")},
    "learning_rates": ("training", "learning_rate"),
    **{name: ("conversion", name) for name in ("target", "weights_storage", "io")},
}


@global_state_kept()
def deep_compression(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    validation_data: tuple[Any, Any],
    max_drop: float | None = 0.002,
    metric: Metric = accuracy,
    pruning: Pruning = Pruning(),  # noqa: B008 - a constant
    clustering: Clustering = Clustering(),  # noqa: B008
    training: Training = Training(),  # noqa: B008
    conversion: Conversion = Conversion(),  # noqa: B008
    filters: Any = None,
    folder: str | os.PathLike[str] | None = None,
    **earlier: Any,
) -> DeepCompression:
    """Prune in rounds with retraining between them, share the weights, quantize, and encode what is left.

    Each round sets the smallest weights of each layer to zero, as many as its sensitivity allows at that round's
    sparsity of the whole, and retrains. Of the rounds within the budget, the sparsest is clustered and quantized,
    with training, and converted; if the file on its runtime loses more than the budget, the round before is taken.

    `training=kc.Training(..., teacher=model)` teaches each step, by the model that was given or by a better one.

    Args:
        model: Trained float model. It is not changed.
        x: Inputs to train on, as for `fit`: arrays, or a `tf.data.Dataset` of batches with their targets.
        y: Targets.
        validation_data: `(x, y)` arrays that the budget is about: inputs and labels for `metric`.
        max_drop: Most that the metric may fall below that of `model`, >= 0: 0.002 is 0.2 points of accuracy. `None`:
            no budget, all rounds are done.
        metric: `(outputs, y) -> float`, the higher the better; the accuracy by default.
        pruning: `kc.Pruning`: the rounds.
        clustering: `kc.Clustering`: how many values each weight has.
        training: `kc.Training`, with epochs and rates for `"channels"`, each `"prune"` round, `"cluster"` and
            `"quantize"`; by default 4, 3, 3, 2 epochs with rates of 0.001, 0.001, 0.0005, 0.0002. Its `seed` is that of
            the centroids' start too.
        conversion: `kc.Conversion`: what the file is made for.
        filters: Layers to prune and to cluster; all by default.
        folder: Where finished steps are kept: a killed run called again goes on behind its last one, to the same file.
            It is not noticed if what `fit` works with, the content of a `tf.data.Dataset`, or a callback's setting has
            become another.
        **earlier: Names of the last release, `sparsities=` and others, with a warning that says the new one.

    Returns:
        The model, the file, and what each step did. A budget that no round met is said: `met` is false, and a warning.

    Raises:
        ValueError: For arguments out of range, or a folder that holds other work, or models of yours.
    """
    check_model(model)
    check_float_activations(model)
    parts = {"pruning": pruning, "clustering": clustering, "training": training, "conversion": conversion}
    _check_kinds(parts)
    how = _Parts(**with_earlier("deep_compression", parts, earlier, _EARLIER))
    judge = Judge(*validation_data, metric, max_drop)
    trainer = Trainer(how.training, x, y, model)
    data = {"model": model, "x": x, "y": y, "validation_data": list(validation_data), "metric": metric}
    with Checkpoints(folder, {**data, "filters": filters, **how.decisive(), **trainer.decisive()}) as kept:
        return _Run(model, trainer, judge, kept, how, filters).result()


def _check_kinds(parts: Mapping[str, Any]) -> None:
    """Refuse one kind of step in the place of another."""
    for (name, given), kind in zip(parts.items(), (Pruning, Clustering, Training, Conversion), strict=True):
        if not isinstance(given, kind):
            raise ValueError(f"Expected `{name}` as kc.{kind.__name__}(...). Received: {name}={given!r}")


@dataclass(frozen=True)
class _Parts:
    """What each step does."""

    pruning: Pruning
    clustering: Clustering
    training: Training
    conversion: Conversion

    def decisive(self) -> dict[str, Any]:
        """What decides the trained models, but for the training and the data."""
        return {
            "channels": self.pruning.channels,
            "sparsities": sorted(self.pruning.sparsities),
            "number_of_clusters": self.clustering.number_of_clusters,
            "cluster_rules": self.clustering.rules,
        }


@dataclass(frozen=True)
class _Run:
    """The steps, each kept when it is done."""

    model: keras.Model
    train: Trainer
    judge: Judge
    kept: Checkpoints
    how: _Parts
    filters: Any

    def result(self) -> DeepCompression:
        channels = self.how.pruning.channels
        baseline = self.judge.of_model(self.model)
        # Without the masks, centroids and quantizers of a model that has some: their order would not be this one.
        plain = strip(self.model)
        start = plain if channels is None else self._channels(plain, channels)
        sensitivity = self._sensitivity(start)
        steps: list[Step] = []
        rounds = self._rounds(start, sensitivity, sorted(self.how.pruning.sparsities), baseline, steps)
        for sparsity in reversed(rounds):
            model, artifact, value = self._finished(sparsity)
            met = self.judge.within(value, baseline)
            steps.append(Step(f"{_round(sparsity)}_quantize", value, len(artifact.content), met))
            if met:
                break
        else:
            warn(
                f"No round is within the budget: the file has {value:.4g}, the model given {baseline:.4g}. "
                "Give lower `sparsities` (kc.Pruning), more `epochs` (kc.Training), or a larger `max_drop`."
            )
        return DeepCompression(model, artifact, baseline, value, met, sparsity, tuple(steps), sensitivity)

    def _channels(self, model: keras.Model, ratio: float) -> keras.Model:
        def make() -> tuple[keras.Model, dict[str, Any]]:
            return self.train(prune_channels(model, ratio=ratio), "channels", "channels"), {}

        self.kept.step("channels", make)
        return self.kept.model("channels")

    def _sensitivity(self, model: keras.Model) -> WeightSensitivity:
        def make() -> tuple[None, dict[str, Any]]:
            return None, {"json": weight_sensitivity(model, self.judge.of_model, filters=self.filters).to_json()}

        return WeightSensitivity.from_json(self.kept.step("sensitivity", make)["json"])

    def _rounds(
        self,
        model: keras.Model,
        sensitivity: WeightSensitivity,
        sparsities: Sequence[float],
        baseline: float,
        steps: list[Step],
    ) -> list[float]:
        """The sparsities whose models are worth finishing, ascending; at least the lowest."""
        good: list[float] = []
        for sparsity in sparsities:
            before = model if not good else None
            figures = self.kept.step(_round(sparsity), self._pruning(sparsity, sensitivity, before, good))
            met = self.judge.within(figures["metric"], baseline)
            steps.append(Step(_round(sparsity), figures["metric"], None, met))
            if not met and good:
                break
            good.append(sparsity)
            if not met:
                break
        return good

    def _pruning(
        self, sparsity: float, sensitivity: WeightSensitivity, model: keras.Model | None, good: Sequence[float]
    ) -> Callable[[], tuple[keras.Model, dict[str, Any]]]:
        def make() -> tuple[keras.Model, dict[str, Any]]:
            before = model if model is not None else strip(self.kept.model(_round(good[-1])))
            rules = [
                {"layers": exactly(path), "pruning_schedule": ConstantSparsity(each, begin_step=0)}
                for path, each in sensitivity.sparsities(sparsity).items()
            ]
            # Weights that share values lose them here, and are clustered anew once they are pruned.
            with ignored_warnings("Training will lose the few values"):
                masked = prune_low_magnitude(before, filters=self.filters, rules=rules)
            trained = self.train(masked, "prune", _round(sparsity))
            return trained, {"metric": self.judge.of_model(trained)}

        return make

    def _finished(self, sparsity: float) -> tuple[keras.Model, Artifact, float]:
        """The clustered and quantized model of a round, its file, and the file's metric."""
        name = _round(sparsity)

        def clustered() -> tuple[keras.Model, dict[str, Any]]:
            how = self.how.clustering
            sharing = cluster_weights(
                self.kept.model(name),
                how.number_of_clusters,
                rules=how.rules,
                filters=self.filters,
                seed=self.how.training.seed or 0,
            )
            return self.train(sharing, "cluster", f"{name}_cluster"), {}

        def quantized() -> tuple[keras.Model, dict[str, Any]]:
            model = quantize_model(self.kept.model(f"{name}_cluster"))
            return self.train(model, "quantize", f"{name}_quantize"), {}

        self.kept.step(f"{name}_cluster", clustered)
        self.kept.step(f"{name}_quantize", quantized)
        model = self.kept.model(f"{name}_quantize")
        artifact = convert(model, **asdict(self.how.conversion))
        return model, artifact, self.judge.of_file(artifact)


def _round(sparsity: float) -> str:
    return f"prune_{sparsity:g}"
