"""tfmot's side of `first_step.py`, in an interpreter of its own: importing tfmot turns tf.keras into Keras 2."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import tensorflow_model_optimization as tfmot  # noqa: E402
from first_step_nets import BATCH, CLUSTERS, MOBILENET, PRUNING  # noqa: E402

Model = Any


def wrapped(model: Model, method: str) -> Model:
    if method == "prune":
        schedule = tfmot.sparsity.keras.PolynomialDecay(**PRUNING)
        return tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule)
    if method == "cluster":
        first = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
        return tfmot.clustering.keras.cluster_weights(model, CLUSTERS, cluster_centroids_init=first)
    return tfmot.quantization.keras.quantize_model(model) if method == "quantize" else model


def main(method: str) -> None:
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.applications.MobileNetV2(**MOBILENET, weights=None)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(BATCH, *model.input_shape[1:])).astype(np.float32)
    y = generator.integers(0, model.output_shape[-1], BATCH)
    begin = time.process_time()
    model = wrapped(model, method)
    between = time.process_time()
    model.compile("sgd", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    callbacks = [tfmot.sparsity.keras.UpdatePruningStep()] if method == "prune" else []
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=callbacks)
    end = time.process_time()
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=callbacks)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(json.dumps({"wrap": between - begin, "first_step": end - between, "peak_megabytes": peak}))


if __name__ == "__main__":
    main(sys.argv[4])
