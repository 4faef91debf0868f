"""Run a teacher over samples once, and keep what it says."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from numpy.typing import NDArray

from keras_compress.core import keras_private
from keras_compress.core.registry import lookup
from keras_compress.core.warn import warn
from keras_compress.data.samples import cut, filled, fixed_batch
from keras_compress.distillation.heads import Head, kinds_given
from keras_compress.distillation.outputs import TeacherOutputs, Writing
from keras_compress.distillation.teacher import Source, listed, loaded

# How far from 1 the sum of probabilities on an int8 grid may be.
_OFF = 0.05
Run = Callable[[Any], list[NDArray[np.float32]]]


def teacher_outputs(
    teacher: Any, x: Any, folder: str | os.PathLike[str], *, heads: Any = None, batch_size: int = 256
) -> TeacherOutputs:
    """A teacher's logits for each sample, in files; a run that was stopped goes on behind its last batch.

    Args:
        teacher: A Keras model, several (their logits are averaged), the path of a `.keras` file, of a `.tflite` file,
            which runs on LiteRT, or of a folder with a SavedModel, whose signature `serving_default` is called.
        x: Inputs: an array, or several in the structure in which the teacher takes them.
        folder: Where the files go; made if it is not there.
        heads: What the outputs are, see `kc.distill`. Of a file that is no Keras model, outputs whose rows are
            probabilities are taken for such, all others for logits of what the student says, or else of classes where
            there are several; a warning tells where they might be labels' probabilities.
        batch_size: Samples that are run at a time, and lost where a run is stopped.

    Returns:
        What `kc.distill` takes for a teacher. Train with `distiller.fit(x, outputs.targets(y))`.

    Raises:
        TypeError: For inputs that are no arrays, such as a dataset, whose order may be another each time.
        ValueError: For a folder that holds outputs of another teacher or other samples; no samples, or not as many of
            each input; another file.
    """
    if batch_size < 1:
        raise ValueError(f"Expected `batch_size` >= 1. Received: batch_size={batch_size}")
    count = _samples(x)
    run, found, digest = _runner(teacher, tree.map_structure(lambda a: a[:batch_size], x), heads)
    first = run(tree.map_structure(lambda a: a[:1], x))
    shapes = [(count, *values.shape[1:]) for values in first]
    digest.update(repr(found).encode())
    for array in tree.flatten(x):
        _update(digest, array)
    writing = Writing(Path(folder), shapes, found, digest.hexdigest())
    for batch in _batches(x, count, batch_size, writing.done):
        writing.write(run(batch))
    return writing.finished()


def _samples(x: Any) -> int:
    """How many samples there are."""
    arrays = tree.flatten(x)
    unfit = [type(each).__name__ for each in arrays if not hasattr(each, "shape") or not hasattr(each, "dtype")]
    if unfit:
        raise TypeError(f"Expected `x` as an array, or several in a list or dict. Received: {unfit[0]}")
    counts = {len(each) for each in arrays}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"Expected at least one sample, and as many of each input. Received: {sorted(counts)} samples")
    return counts.pop()


def _batches(x: Any, count: int, size: int, done: int) -> Iterator[Any]:
    for start in range(done, count, size):
        part = slice(start, start + size)
        yield tree.map_structure(lambda array, part=part: array[part], x)


def _update(digest: Any, array: Any) -> None:
    digest.update(repr((array.shape, str(array.dtype))).encode())
    for start in range(0, len(array), 4096):
        digest.update(np.ascontiguousarray(array[start : start + 4096]).tobytes())


def _runner(teacher: Any, sample: Any, heads: Any) -> tuple[Run, list[Head], Any]:
    """The teacher as a function, what its outputs are, and what tells it from another teacher."""
    digest = hashlib.sha256()
    path = Path(os.fspath(teacher)) if isinstance(teacher, (str, os.PathLike)) else None
    if path is not None and path.suffix == ".tflite":
        digest.update(path.read_bytes())
        return _of_values(lambda x: lookup("file_runner", "tflite")(path, x), sample, heads, digest)
    if path is not None and (path / "saved_model.pb").is_file():
        for file in sorted(each for each in path.rglob("*") if each.is_file()):
            digest.update(file.read_bytes())
        layer = keras.layers.TFSMLayer(str(path), call_endpoint="serving_default")
        return _of_values(lambda x: [np.asarray(each) for each in tree.flatten(layer(x))], sample, heads, digest)
    if isinstance(teacher, TeacherOutputs):
        raise ValueError(f"Expected a teacher to run. Received: {teacher}, which has been run")
    models = loaded(listed(teacher))
    source = Source(models, heads=heads)  # type: ignore[arg-type]
    for model in source.models:
        digest.update(model.name.encode())
        for weight in model.weights:
            _update(digest, np.asarray(keras.ops.convert_to_numpy(weight)).reshape(-1))
    program = tf.function(lambda x: source.values(x)[0], autograph=False, reduce_retracing=True)
    keras_private.without_tracing_warning(program)

    fixed = next((size for each in source.graphs if (size := fixed_batch(each)) is not None), None)

    def run(x: Any) -> list[NDArray[np.float32]]:
        arrays = tree.flatten(x)
        count = len(arrays[0])
        parts = [filled(part, fixed or 1) for part in cut(arrays, fixed or count)]
        made = [program(tree.pack_sequence_as(x, [tf.constant(each) for each in part])) for part in parts]
        return [np.concatenate(each)[:count] for each in zip(*made, strict=True)]

    return run, source.heads()[0], digest


def _of_values(run: Run, sample: Any, heads: Any, digest: Any) -> tuple[Run, list[Head], Any]:
    """A function whose outputs are known by their values alone."""
    outputs = run(sample)
    names = [f"output {n}" for n in range(len(outputs))]
    kinds = kinds_given(heads, len(outputs), names)
    found = [_head(values, kind) for values, kind in zip(outputs, kinds, strict=True)]

    def logits(x: Any) -> list[NDArray[np.float32]]:
        return [np.asarray(head.logits(values)) for head, values in zip(found, run(x), strict=True)]

    return logits, found, digest


def _head(values: NDArray[Any], kind: str | None) -> Head:
    within = bool(np.all(values >= 0) and np.all(values <= 1))
    shares = within and values.shape[-1] > 1 and bool(np.all(np.abs(values.sum(-1) - 1.0) < _OFF))
    guessed = kind is None and not shares
    if kind is None:
        kind = "softmax" if values.ndim > 1 and values.shape[-1] > 1 else "linear"
    if guessed and within and kind == "softmax":
        warn(
            "Expected `heads` for outputs between 0 and 1 that are no shares: 'sigmoid' for labels, 'linear' for "
            "numbers. Received: none; they are taken for logits."
        )
    return Head(kind, shares if kind == "softmax" else kind == "sigmoid" and within, guessed)
