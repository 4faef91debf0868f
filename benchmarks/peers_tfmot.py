"""tfmot's side of `peers.py`, in an interpreter of its own: importing tfmot turns tf.keras into Keras 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import tensorflow_model_optimization as tfmot  # noqa: E402
from peers_data import (  # noqa: E402
    CLUSTERS,
    FINAL_SPARSITY,
    INITIAL_SPARSITY,
    Job,
    job_from_arguments,
)
from tensorflow_model_optimization.python.core.clustering.keras.experimental.cluster import (  # noqa: E402
    cluster_weights,
)
from timing import in_turns, summarize  # noqa: E402

layers = tf.keras.layers
Model = Any
INIT = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS


def lenet5() -> Model:
    return tf.keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(20, 5, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(50, 5, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(500, activation="relu"),
            layers.Dense(10),
        ]
    )


def lenet300() -> Model:
    return tf.keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(300, activation="relu"),
            layers.Dense(100, activation="relu"),
            layers.Dense(10),
        ]
    )


def fresh(job: Job) -> Model:
    tf.keras.utils.set_random_seed(job.seed)
    model = {"lenet5": lenet5, "lenet300": lenet300}[job.model]()
    with np.load(job.initial_weights) as weights:
        model.set_weights([weights[name] for name in weights.files])
    return model


def compiled(model: Model) -> Model:
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.Adam(), loss, metrics=["accuracy"])
    return model


def pruned(model: Model, when: dict[str, int]) -> Model:
    schedule = tfmot.sparsity.keras.PolynomialDecay(INITIAL_SPARSITY, FINAL_SPARSITY, **when)
    return tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule)


def clustered(model: Model, preserve_sparsity: bool = True) -> Model:
    return cluster_weights(
        model, number_of_clusters=CLUSTERS, cluster_centroids_init=INIT, preserve_sparsity=preserve_sparsity
    )


def pcqat(model: Model) -> Model:
    annotated = tfmot.quantization.keras.quantize_annotate_model(model)
    scheme = tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=True)
    return tfmot.quantization.keras.quantize_apply(annotated, scheme)


def tflite(model: Model, integers: bool) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if integers:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    content: bytes = converter.convert()
    return content


def run_stage(job: Job, stage: str, begin: Callable[[], Model], strip: Callable[[Model], Model]) -> dict[str, Any]:
    """Train, evaluate, convert, and keep the stripped model for the next stage."""
    model = compiled(begin())
    callbacks = [tfmot.sparsity.keras.UpdatePruningStep()] if stage == "pruned" else []
    model.fit(job.training_data(stage), epochs=job.epochs(stage), callbacks=callbacks, verbose=0)
    _, _, x_test, y_test = job.arrays()
    _, accuracy = model.evaluate(x_test, y_test, batch_size=500, verbose=0)
    plain = strip(model)
    (job.folder / f"{stage}.tflite").write_bytes(tflite(plain, integers=stage == "pcqat"))
    if stage != "pcqat":
        plain.save(job.folder / f"{stage}.h5")
    return {"test_accuracy": accuracy}


def stored(job: Job, stage: str) -> Model:
    return tf.keras.models.load_model(job.folder / f"{stage}.h5", compile=False)


def time_steps(job: Job) -> dict[str, Any]:
    """Each combination's training step beside the float model's; pruning with the callback that it needs."""
    variants = {
        "float": stored(job, "float"),
        "pruning": pruned(stored(job, "float"), job.endless_pruning),
        "clustering": clustered(stored(job, "float"), preserve_sparsity=False),
        "pruning, clustering": clustered(stored(job, "pruned")),
        "quantization": tfmot.quantization.keras.quantize_model(stored(job, "float")),
        "pruning, clustering, quantization": pcqat(stored(job, "clustered")),
    }
    data = job.timing_data()

    def step_of(name: str, model: Model) -> Callable[[], object]:
        callback = tfmot.sparsity.keras.UpdatePruningStep() if name == "pruning" else tf.keras.callbacks.Callback()
        compiled(model).fit(data, steps_per_epoch=2, callbacks=[callback], verbose=0)
        train, batches = model.make_train_function(), iter(data)
        callback.on_train_begin()

        def step() -> object:
            callback.on_train_batch_begin(0)
            return {key: float(value) for key, value in train(batches).items()}

        return step

    steps = {name: step_of(name, model) for name, model in variants.items()}
    return summarize(in_turns(steps, **job.timing_blocks()))


def main(job: Job) -> None:
    job.stage("versions", lambda: {"tfmot": tfmot.__version__, "tfmot's tensorflow": tf.__version__})
    strip_clusters = tfmot.clustering.keras.strip_clustering
    job.stage("float", lambda: run_stage(job, "float", lambda: fresh(job), lambda model: model))
    job.stage(
        "pruned",
        lambda: run_stage(
            job,
            "pruned",
            lambda: pruned(stored(job, "float"), job.pruning()),
            tfmot.sparsity.keras.strip_pruning,
        ),
    )
    job.stage(
        "clustered", lambda: run_stage(job, "clustered", lambda: clustered(stored(job, "pruned")), strip_clusters)
    )
    job.stage("pcqat", lambda: run_stage(job, "pcqat", lambda: pcqat(stored(job, "clustered")), lambda model: model))
    if job.seed == 0:
        job.stage("step_time", lambda: time_steps(job))


if __name__ == "__main__":
    main(job_from_arguments("tfmot", sys.argv[1:]))
