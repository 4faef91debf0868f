"""This library's side of `peers.py`: train through the stages, write each stage's `.tflite`, time the steps."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from peers_data import (
    CLUSTERS,
    FINAL_SPARSITY,
    INITIAL_SPARSITY,
    Job,
    job_from_arguments,
)
from timing import in_turns, summarize

import keras_compress as kc
from keras_compress.demo import models


def compiled(model: keras.Model, jit: bool = False) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(), loss, metrics=["accuracy"], jit_compile=jit)
    return model


def fresh(job: Job) -> keras.Model:
    keras.utils.set_random_seed(job.seed)
    model = models.build(job.model, (28, 28, 1))
    np.savez(job.initial_weights, *model.get_weights())
    return model


def pruned(job: Job, model: keras.Model) -> keras.Model:
    return kc.prune_low_magnitude(model, kc.PolynomialDecay(INITIAL_SPARSITY, FINAL_SPARSITY, **job.pruning()))


def clustered(job: Job, model: keras.Model) -> keras.Model:
    return kc.cluster_weights(model, CLUSTERS, seed=job.seed)


def quantized(job: Job, model: keras.Model) -> keras.Model:
    return kc.quantize_model(model)


def run_stage(job: Job, stage: str, begin: Callable[[], keras.Model], mode: str) -> dict[str, Any]:
    """Train, evaluate, convert, and keep the model for the next stage."""
    model = compiled(begin())
    model.fit(job.training_data(stage), epochs=job.epochs(stage), verbose=0)
    _, _, x_test, y_test = job.arrays()
    _, accuracy = model.evaluate(x_test, y_test, batch_size=500, verbose=0)
    (job.folder / f"{stage}.tflite").write_bytes(kc.convert(model, mode=mode).content)
    model.save(job.folder / f"{stage}.keras")
    return {"test_accuracy": accuracy}


def time_steps(job: Job, jit: bool) -> dict[str, Any]:
    """Each combination's training step beside the float model's."""
    base = keras.models.load_model(job.folder / "float.keras")

    def pruning(model: keras.Model) -> keras.Model:
        schedule = kc.PolynomialDecay(INITIAL_SPARSITY, FINAL_SPARSITY, **job.endless_pruning)
        return kc.prune_low_magnitude(model, schedule)

    variants = {
        "float": keras.models.clone_model(base),
        "pruning": pruning(base),
        "clustering": clustered(job, base),
        "pruning, clustering": clustered(job, pruning(base)),
        "quantization": quantized(job, base),
        "pruning, clustering, quantization": quantized(job, clustered(job, pruning(base))),
    }
    data = job.timing_data()

    def step_of(model: keras.Model) -> Callable[[], object]:
        compiled(model, jit).fit(data, steps_per_epoch=2, verbose=0)
        train, batches = model.make_train_function(), iter(data)
        return lambda: {name: float(value) for name, value in train(batches).items()}

    return summarize(in_turns({name: step_of(model) for name, model in variants.items()}, **job.timing_blocks()))


def main(job: Job) -> None:
    begin: dict[str, tuple[Callable[[Job, keras.Model], keras.Model], str, str]] = {
        "pruned": (pruned, "float", "float32"),
        "clustered": (clustered, "pruned", "float32"),
        "pcqat": (quantized, "clustered", "int8"),
    }
    job.stage("float", lambda: run_stage(job, "float", lambda: fresh(job), "float32"))
    for stage, (change, source, mode) in begin.items():

        def start(change: Any = change, source: str = source) -> keras.Model:
            return change(job, keras.models.load_model(job.folder / f"{source}.keras"))

        job.stage(stage, lambda stage=stage, start=start, mode=mode: run_stage(job, stage, start, mode))
    if job.seed == 0:
        job.stage("step_time", lambda: time_steps(job, jit=False))
        if job.model == "lenet300":
            # XLA's convolutions on a CPU are so slow that LeNet-5's steps would take half an hour.
            job.stage("step_time_xla", lambda: time_steps(job, jit=True))


if __name__ == "__main__":
    main(job_from_arguments("keras_compress", sys.argv[1:]))
