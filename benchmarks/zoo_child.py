"""One side's work of `zoo.py` on one network, in a process of its own: `train`, `convert` or `converter`.

python benchmarks/zoo_child.py SIDE NETWORK RESULT.json SEED SAMPLES
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from common import REPOSITORY  # noqa: F401  (the package beside the benchmarks is what is imported)
from tensorflow_int8 import tensorflow_int8
from zoo_members import Member, member
from zoo_models import build, data, multiplications
from zoo_stages import Parts, Stages

import keras_compress as kc
from keras_compress.runtime.target import target

BATCH = 2
SPARSITY = 0.5
VERIFIED_SAMPLES = 4
TFLM_SAMPLES = 2
# TFLite-Micro's kernels here are unoptimised: more takes minutes for a sample.
MOST_TFLM_MULTIPLICATIONS = 1_200_000_000


def train(which: Member, stages: Stages, seed: int, samples: int) -> None:
    """Wrap for pruning and quantization, train a first step (tracing and compiling) and a second one, strip."""
    model = _built(which, stages, seed)
    x = data(model, BATCH, seed + 1)
    y = np.arange(BATCH) % model.outputs[0].shape[-1]
    with stages.stage("wrap"):
        pruned = kc.prune_low_magnitude(model, kc.ConstantSparsity(SPARSITY, begin_step=0))
        wrapped = kc.quantize_model(pruned)
    del pruned
    with stages.stage("step"):
        _compile(wrapped)
        wrapped.train_on_batch(x, y)
    with stages.stage("second_step"):
        wrapped.train_on_batch(x, y)
    with stages.stage("strip"):
        stripped = kc.strip(wrapped)
    stages.save(stripped_parameters=stripped.count_params())
    del stripped
    if which.size == "small":
        with stages.stage("convert_trained"):
            artifact = kc.convert(wrapped, mode="int8")
        stages.save(trained_bytes=len(artifact.content), trained_sparsity=artifact.stats.sparsity)
        del artifact
    with stages.stage("plain_step"):
        _compile(model)
        model.train_on_batch(x, y)
    with stages.stage("plain_second_step"):
        model.train_on_batch(x, y)


def _compile(model: keras.Model) -> None:
    model.compile(keras.optimizers.SGD(1e-4), keras.losses.SparseCategoricalCrossentropy(), jit_compile=False)


def convert(which: Member, stages: Stages, seed: int, samples: int) -> None:
    """Post-training quantization with this library, read back, verified on the runtimes."""
    model = _built(which, stages, seed)
    x = data(model, samples, seed + 1)
    parts = Parts()
    with stages.stage("convert"), parts.watch(**_parts_of_convert()):
        artifact = kc.convert(model, mode="int8", representative_dataset=x)
    stages.save(parts=parts.seconds, file_bytes=len(artifact.content), notes=len(artifact.notes))
    stages.save(float_ops=[{"op": op.op, "tensor": op.tensor, "reason": op.reason} for op in artifact.float_ops])
    with stages.stage("read_back"):
        stats = artifact.stats
    stages.save(gzip_bytes=stats.gzip_bytes, weights=len(stats.weights))
    with stages.stage("verify_litert"):
        found = kc.verify(artifact, None, x[:VERIFIED_SAMPLES], kernels=("xnnpack",), strict=False)
    stages.save(litert=_verdict(found))
    if multiplications(model) > MOST_TFLM_MULTIPLICATIONS:
        stages.save(tflm={"skipped": f"{multiplications(model):,} multiplications a sample are too many to wait for"})
        return
    with stages.stage("convert_tflm"):
        # From the same frozen model: other operators where TFLite-Micro lacks a kernel, or has a coarse one.
        artifact = kc.convert(artifact.frozen, "tflm")
    with stages.stage("verify_tflm"):
        try:
            memory = target("tflm").memory(artifact.content)
            found = kc.verify(artifact, None, x[:TFLM_SAMPLES], kernels=("tflm",), strict=False)
        except (ValueError, RuntimeError) as error:
            # An operator that TFLM lacks, or an arena beyond a gigabyte: the row says so, the rest stands.
            stages.save(tflm={"skipped": " ".join(str(error).split())[:300]})
            return
    stages.save(tflm={**_verdict(found), "arena_bytes": memory.get("arena_bytes")})


def _parts_of_convert() -> dict[str, tuple[Any, str]]:
    names = ("convert.convert", "convert.freeze")
    modules = [importlib.import_module(f"keras_compress.{name}") for name in names]
    return {
        "freeze": (modules[0], "freeze"),
        "calibrate": (modules[1], "set_ranges"),
        "export": (modules[0], "export"),
        "emit": (modules[0], "emit"),
        "lower": (modules[0], "lower"),
        "check_integers": (modules[0], "check_integers"),
    }


def _verdict(found: Any) -> dict[str, Any]:
    if found.skipped:
        return {"skipped": next(iter(found.skipped.values()))}
    return {
        "operators": len(found.rows),
        "operators_beyond_bound": sum(not row.ok for row in found.rows),
        "max_lsb": max(row.max_lsb for row in found.rows),
        "largest_share_differing": max(row.fraction_differing for row in found.rows),
        "first_beyond_bound": None if found.first_failure is None else found.first_failure.name,
        "outputs_max_difference": max(row.max_difference for row in found.outputs),
    }


def converter(which: Member, stages: Stages, seed: int, samples: int) -> None:
    """The TF converter's own post-training quantization, and its float conversion."""
    import tensorflow as tf

    model = _built(which, stages, seed)
    x = data(model, samples, seed + 1)
    with stages.stage("ptq"):
        content = tensorflow_int8(model, x)
    stages.save(file_bytes=len(content))
    with stages.stage("float"):
        content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    stages.save(float_bytes=len(content))


def _built(which: Member, stages: Stages, seed: int) -> keras.Model:
    with stages.stage("build"):
        model = build(which, seed)
    stages.save(
        parameters=model.count_params(),
        layers=len(model.layers),
        input_shape=list(model.inputs[0].shape[1:]),
        multiplications=multiplications(model),
    )
    return model


SIDES = {"train": train, "convert": convert, "converter": converter}


def main(side: str, name: str, path: str, seed: str, samples: str) -> None:
    stages = Stages(Path(path))
    SIDES[side](member(name), stages, int(seed), int(samples))
    stages.save(finished=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
