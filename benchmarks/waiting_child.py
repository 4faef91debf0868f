"""One side's work of `waiting.py` on one network, in a fresh process: `ours` or `tensorflow`.

python benchmarks/waiting_child.py SIDE NETWORK RESULT.json SAMPLES
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from common import REPOSITORY  # noqa: F401  (the package beside the benchmarks is what is imported)
from tensorflow_int8 import tensorflow_int8
from waiting_models import built, samples
from zoo_stages import Stages

import keras_compress as kc
from keras_compress.runtime.child import close_children

Array = np.ndarray[Any, Any]
VERIFIED = 4


def ours(model: keras.Model, x: Array, stages: Stages, **settings: Any) -> None:
    """`convert` to int8, and `verify` on the runtimes of the target."""
    with stages.stage("convert"):
        artifact = kc.convert(model, mode="int8", representative_dataset=x, **settings)
    stages.save(file_bytes=len(artifact.content))
    with stages.stage("verify"):
        found = kc.verify(artifact, model, x[:VERIFIED], strict=False)
    # What a process has used is known when it has ended.
    close_children()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    stages.save(verified=found.ok, runtimes_cpu_s=round(used.ru_utime + used.ru_stime, 3))


def tensorflow(model: keras.Model, x: Array, stages: Stages) -> None:
    """Post-training quantization of TensorFlow's converter, with the same samples."""
    # It converts recurrent layers of a fixed batch only.
    inputs = keras.Input(batch_shape=(1, *x.shape[1:]))
    single = keras.Model(inputs, model(inputs))
    with stages.stage("convert"):
        content = tensorflow_int8(single, x)
    stages.save(file_bytes=len(content))


def warmed_up(side: str, folder: Path) -> None:
    """A tiny network first: what a process does once, such as loading libraries, is not what is measured."""
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3), keras.layers.Flatten()])
    SIDES[side](model, samples(model, 4), Stages(folder / "warm_up.json"))


SIDES = {"ours": ours, "tensorflow": tensorflow}


def main(side: str, network: str, path: str, count: str) -> None:
    model = built(network)
    x = samples(model, int(count))
    warmed_up(side, Path(path).parent)
    stages = Stages(Path(path))
    settings = {"recurrent": "unrolled"} if side == "ours" and "unrolled" in network else {}
    SIDES[side](model, x, stages, **settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
