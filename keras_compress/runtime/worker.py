"""The child process that runs models: started by path, imports NumPy and one runtime, never TensorFlow.

It answers one request at a time (frames.py), until its input ends. Run by path it is no part of a package, so
that the parent package, and with it Keras, is not imported.
"""

import gc
import importlib
import math
import os
import signal
import sys
import time
import types
from collections import OrderedDict
from collections.abc import Callable, Sequence
from io import FileIO

if not __package__:
    # The caller's own search path, which Python's -I does not know all of (PYTHONPATH, --user installs).
    sys.path[:] = sys.argv[1:]
    _package = types.ModuleType("_keras_compress_child")
    _package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
    sys.modules[_package.__name__] = _package
    __package__ = _package.__name__

import numpy as np  # noqa: E402

from .engine import ArgumentError, Engine, ModelError, UnavailableError  # noqa: E402
from .frames import Array, FrameError, Header, read_frame, write_frame  # noqa: E402
from .limits import (  # noqa: E402
    bound_files,
    clear_noise,
    limit_address_space,
    peak_bytes,
    resident_bytes,
    set_alarm,
)

# Interpreters kept between requests, so that repeated calls on one model do not load it again.
KEPT_MODELS = 2
# What each runtime imports, and the sibling module and class that drive it.
RUNTIMES = {
    "litert": ("ai_edge_litert.interpreter", "engine_litert", "LiteRTEngine"),
    "tflm": ("tflite_micro.python.tflite_micro.runtime", "engine_tflm", "TFLMEngine"),
}
Answer = tuple[Header, list[Array]]


class Worker:
    """Answers requests until the other side closes the stream."""

    def __init__(self, source: FileIO, sink: FileIO) -> None:
        self._source, self._sink = source, sink
        self._make: Callable[..., Engine]
        self._options: Header = {}
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        self._engines: dict[tuple[str, bool], Engine] = {}
        self._seconds = 60.0
        self._last_beat = 0.0
        self._operations: dict[str, Callable[[Header, list[Array]], Answer]] = {
            "start": self._start,
            "describe": self._describe,
            "run": self._run,
            "latency": self._latency,
            "memory": self._memory,
            # Only the tests of the child process send these two.
            "crash": self._crash,
            "sleep": self._sleep,
        }

    def serve(self) -> None:
        """Answers requests until the stream ends, which raises FrameError."""
        while True:
            header, arrays = read_frame(self._source)
            clear_noise()
            self._seconds = float(header["seconds"])
            limit_address_space(header["memory_bytes"])
            self._beat(force=True)
            answer, results = self._answer(header, arrays)
            set_alarm(0)
            write_frame(self._sink, {**answer, "held": list(self._contents)}, results)

    def _answer(self, header: Header, arrays: list[Array]) -> Answer:
        try:
            self._hold(header, arrays)
            return self._operations[header["op"]](header, arrays)
        except UnavailableError as error:
            return {"error": "unavailable", "reason": str(error)}, []
        except ArgumentError as error:
            return {"error": "argument", "reason": str(error)}, []
        except ModelError as error:
            return {"error": "model", "reason": str(error)}, []
        except MemoryError:
            return {"error": "memory", "reason": "it needs more memory than the limit"}, []
        except Exception as error:  # whatever the runtime raises on a bad model is the answer
            return {"error": "model", "reason": f"{type(error).__name__}: {error}"}, []
        finally:
            self._forget(KEPT_MODELS)

    def _hold(self, header: Header, arrays: list[Array]) -> None:
        """Takes the models that came with the request, and makes room for the ones it names."""
        for key in header["sent"]:
            self._contents[key] = arrays.pop(0).tobytes()
        for key in header["keys"]:
            self._contents.move_to_end(key)
        self._forget(max(KEPT_MODELS, len(header["keys"])))

    def _forget(self, kept: int) -> None:
        while len(self._contents) > kept:
            key, _ = self._contents.popitem(last=False)
            for preserve in (False, True):
                self._engines.pop((key, preserve), None)

    def _beat(self, force: bool = False) -> None:
        """Tells the caller now and then that work goes on, and puts off this process's own alarm."""
        now = time.monotonic()
        if force or now - self._last_beat > min(1.0, self._seconds / 4):
            self._last_beat = now
            # The caller kills a late child; the alarm is for a caller that was itself killed.
            set_alarm(math.ceil(self._seconds) + 10)
            if not force:
                write_frame(self._sink, {"beat": True})

    def _start(self, header: Header, arrays: list[Array]) -> Answer:
        self._options = header["options"]
        module, sibling, engine = RUNTIMES[header["runtime"]]
        try:
            importlib.import_module(module)
            self._make = getattr(importlib.import_module(f".{sibling}", __package__), engine)
        except Exception as error:
            raise UnavailableError(f"{type(error).__name__}: {error}") from error
        return {}, []

    def _engine(self, key: str, preserve: bool = False) -> Engine:
        if (key, preserve) not in self._engines:
            self._engines[key, preserve] = self._make(self._contents[key], self._options, preserve)
            self._beat()
        return self._engines[key, preserve]

    def _describe(self, header: Header, arrays: list[Array]) -> Answer:
        return self._engine(header["keys"][0]).signature(), []

    def _run(self, header: Header, arrays: list[Array]) -> Answer:
        names = header.get("names")
        engine = self._engine(header["keys"][0], preserve=names is not None)
        getters = engine.getters if names is None else engine.tensor_getters(names)
        results: list[Array] = []
        count = len(arrays[0])
        for position in range(count):
            engine.reset()  # states of a recurrent operator would go on from sample to sample
            engine.feed([array[position] for array in arrays])
            engine.invoke()
            values = [get() for get in getters]
            if not results:
                results = [np.empty((count, *value.shape), value.dtype) for value in values]
            for result, value in zip(results, values, strict=True):
                if result.shape[1:] != value.shape:
                    raise ModelError(f"the shape of an output changes: {result.shape[1:]}, then {value.shape}")
                result[position] = value
            self._beat()
        return {}, results

    def _latency(self, header: Header, arrays: list[Array]) -> Answer:
        engines = [self._engine(key) for key in header["keys"]]
        samples = [_sample(engine.signature()["inputs"]) for engine in engines]
        runs, warmup = header["runs"], header["warmup"]
        times = np.zeros((len(engines), runs, 2), np.int64)
        gc.collect()
        gc.disable()
        try:
            for turn in range(-warmup, runs):
                for offset in range(len(engines)):
                    # Rotated, so that no model always runs behind the same neighbour.
                    which = (turn + offset) % len(engines)
                    engines[which].feed(samples[which])
                    start = time.perf_counter_ns()
                    engines[which].invoke()
                    end = time.perf_counter_ns()
                    if turn >= 0:
                        times[which, turn] = start, end
                    self._beat()
        finally:
            gc.enable()
        return {"delegates": [engine.delegate() for engine in engines]}, [times]

    def _memory(self, header: Header, arrays: list[Array]) -> Answer:
        gc.collect()
        before = resident_bytes()
        engine = self._engine(header["keys"][0])
        engine.feed(_sample(engine.signature()["inputs"]))
        engine.invoke()
        peak = max(0, peak_bytes() - before)
        return {"memory": engine.memory() or {"peak_memory_bytes": peak}}, []

    def _crash(self, header: Header, arrays: list[Array]) -> Answer:
        os.write(2, b"a last word\n")
        os.abort()

    def _sleep(self, header: Header, arrays: list[Array]) -> Answer:
        time.sleep(header["sleep_seconds"])
        return {}, []


def _sample(inputs: Sequence[Header]) -> list[Array]:
    """Seeded inputs for timing: [0, 1) for floats, any value for 8 and 16 bits, 0 for indices."""
    generator = np.random.default_rng(0)
    arrays = []
    for spec in inputs:
        dtype, shape = np.dtype(spec["dtype"]), tuple(spec["shape"])
        if dtype.kind == "f":
            arrays.append(generator.random(shape).astype(dtype))
        elif dtype.name in ("int8", "uint8", "int16"):
            bits = generator.integers(0, 256, (*shape, dtype.itemsize), np.uint8)
            arrays.append(bits.view(dtype).reshape(shape))
        else:
            arrays.append(np.zeros(shape, dtype))
    return arrays


def main() -> None:
    """Serves on the standard streams it was started with."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The native runtimes print to descriptors 1 and 2: move the protocol out of their reach first.
    source = os.fdopen(os.dup(0), "rb", buffering=0)
    sink = os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    bound_files()
    try:
        Worker(source, sink).serve()
    except (FrameError, OSError):
        pass
    finally:
        # A broken model may have left destructors that crash; nothing here needs them.
        os._exit(0)


if __name__ == "__main__":
    main()
