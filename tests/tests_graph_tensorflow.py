"""What TensorFlow's own converter makes of a random graph, in a process of its own: some graphs crash it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import keras
from tests_graphs import Array, Description, build, data

from keras_compress.convert.native_log import quiet_native_logs
from keras_compress.runtime import deployed
from keras_compress.runtime.target import target
from keras_compress.tflite.flatbuffer import Graph, read_model

TIME_LIMIT_S = 240.0
# Operators that may take floats in an int8 file.
_BOUNDARY = ("QUANTIZE", "DEQUANTIZE")
_RUNS_FLOAT = ("GATHER", "EMBEDDING_LOOKUP", "CAST")


@dataclass(frozen=True)
class TensorFlowFiles:
    """What TensorFlow's converter makes of a graph, where it does.

    Attributes:
        float_outputs: Of its float file.
        int8_outputs: Of its post-training quantization; `None` where it refused or left operators in float.
        mixed_outputs: The same where it left some in float.
        problem: Why there is none.
    """

    float_outputs: list[Array] | None
    int8_outputs: list[Array] | None
    mixed_outputs: list[Array] | None = None
    problem: str = ""


class _Process:
    """The process that TensorFlow's converter runs in, made anew where it was lost."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def __call__(self, description: Description, samples: int) -> TensorFlowFiles:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        try:
            return self._pool.submit(_converted, description, samples).result(TIME_LIMIT_S)
        except (BrokenProcessPool, TimeoutError) as error:
            self._end()
            return TensorFlowFiles(None, None, None, f"TensorFlow's converter was lost: {type(error).__name__}")

    def _end(self) -> None:
        pool, self._pool = self._pool, None
        for process in list(pool._processes.values()):
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)


tensorflow_files = _Process()


def _converted(description: Description, samples: int) -> TensorFlowFiles:
    """Convert with TensorFlow, loops unrolled, at batch 1."""
    import tensorflow as tf

    keras.backend.clear_session()
    model, x = build(description, unroll=True, batch=1), data(description, samples)
    plain, problem, content = None, "", b""
    try:
        with quiet_native_logs():
            converter = tf.lite.TFLiteConverter.from_keras_model(model)
            plain = run_file(converter.convert(), x)
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ({k: v[i : i + 1] for k, v in x.items()} for i in range(samples))
            content = converter.convert()
        found = run_file(content, x)
    except Exception as error:
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return TensorFlowFiles(plain, None, None, problem)
    left = _floats(content)
    if left:
        return TensorFlowFiles(plain, None, found, f"left in float: {' '.join(left)}")
    return TensorFlowFiles(plain, found)


def _floats(content: bytes) -> list[str]:
    """Kinds of operators that compute floats."""
    graph = Graph(read_model(content))
    return sorted(
        {
            graph.kind(op)
            for op in graph.operators
            if graph.kind(op) not in (*_BOUNDARY, *_RUNS_FLOAT) and any(graph.dtype(t) == "float32" for t in op.outputs)
        }
    )


def run_file(content: bytes, x: Mapping[str, Array]) -> list[Array]:
    """Outputs of a file of TensorFlow's, in the order of Keras's: a child process runs it, as some crash."""
    runner = target("litert")
    names = [spec.signature_name for spec in runner.describe(content, "TensorFlow's file").outputs]
    found = dict(zip(names, deployed.run(runner, content, dict(x), "TensorFlow's file"), strict=True))
    return [found[name] for name in sorted(names)]
