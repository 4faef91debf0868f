"""TFLite-Micro's host build in the child process."""

import importlib
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from .engine import ModelError, known_names, tensor_info
from .frames import Array, Header
from .limits import set_alarm

# How an attempt in a process of its own ended; what dies of a signal ends in a negative number.
_WELL, _REFUSED = 0, 1
_LONGEST_ATTEMPT_SECONDS = 60


class TFLMEngine:
    """One model loaded in TFLite-Micro's host build, in an arena that grows until the model fits."""

    FIRST_ARENA_BYTES = 1 << 18
    LARGEST_ARENA_BYTES = 1 << 30
    # What TFLM mostly prints when the arena is what was missing.
    _TOO_SMALL = re.compile(r"missing: \d+|Failed to allocate|too small|Failed starting model allocation")

    def __init__(self, content: bytes, options: Header, preserve: bool = False) -> None:
        self._runtime = importlib.import_module("tflite_micro.python.tflite_micro.runtime")
        modes = self._runtime.InterpreterConfig
        self._mode = modes.kPreserveAllTensors if preserve else modes.kAllocationRecording
        self._alternate_bytes = int(options.get("alt_decompression_memory_bytes", 0))
        self._content = content
        self._model = self._runtime.schema_fb.Model.GetRootAsModel(content, 0)
        self._graph = self._model.Subgraphs(0)
        if self._graph is None:
            raise ModelError("the model has no graph")
        self._interpreter = self._grow()
        count = self._graph.OutputsLength()
        self.getters = [self._getter(index) for index in range(count)]

    def reset(self) -> None:
        self._interpreter.reset()

    def signature(self) -> Header:
        graph, interpreter = self._graph, self._interpreter
        inputs = [graph.Inputs(i) for i in range(graph.InputsLength())]
        outputs = [graph.Outputs(i) for i in range(graph.OutputsLength())]
        return {
            "inputs": self._tensor_infos("Inputs", inputs, interpreter.get_input_details),
            "outputs": self._tensor_infos("Outputs", outputs, interpreter.get_output_details),
        }

    def _tensor_infos(self, kind: str, indices: list[int], details: Callable[[int], Header]) -> list[Header]:
        named = self._signature_names(kind)
        return [
            tensor_info(self._tensor_name(index), details(position), named.get(index, ""))
            for position, index in enumerate(indices)
        ]

    def delegate(self) -> str:
        return "none"

    def feed(self, sample: Sequence[Array]) -> None:
        for index, array in enumerate(sample):
            self._interpreter.set_input(array, index)

    def invoke(self) -> None:
        self._interpreter.invoke()

    def tensor_getters(self, names: Sequence[str]) -> list[Callable[[], Array]]:
        indices = {self._tensor_name(i): i for i in range(self._graph.TensorsLength())}
        return [self._tensor_getter(indices[name]) for name in known_names(names, indices)]

    def _tensor_getter(self, index: int) -> Callable[[], Array]:
        get = self._interpreter.GetTensor
        return lambda: get(index, 0)["tensor_data"]

    def memory(self) -> Header:
        """Arena bytes in use after a run, its two ends, and the smallest arena that can start the model."""
        start = os.fstat(2).st_size
        self._interpreter.print_allocations()
        text = os.pread(2, 1 << 20, start).decode(errors="replace")
        found = dict(re.findall(r"Arena allocation (total|head|tail) (\d+) bytes", text))
        used = int(found["total"])
        return {
            "arena_bytes": used,
            "arena_head_bytes": int(found["head"]),
            "arena_tail_bytes": int(found["tail"]),
            "arena_minimum_bytes": self._smallest_arena(used),
        }

    def _smallest_arena(self, used: int) -> int:
        # Preparing a kernel takes temporary space that is given back, so `used` itself may not suffice.
        too_small, step = used - 16, 64
        while not self._starts_in(too_small + step):
            too_small, step = too_small + step, 2 * step
        enough = too_small + step
        while enough - too_small > 16:
            middle = (too_small + enough) // 2 // 16 * 16
            middle = middle if middle > too_small else too_small + 16
            if self._starts_in(middle):
                enough = middle
            else:
                too_small = middle
        return enough

    def _starts_in(self, arena_bytes: int) -> bool:
        return self._attempt(arena_bytes) == _WELL

    def _attempt(self, arena_bytes: int) -> int:
        """How loading ends. TFLM dies of some arenas that are too small: it uses persistent memory it did not get."""
        if not hasattr(os, "fork"):
            try:
                self._load(arena_bytes)
            except RuntimeError:
                return _REFUSED
            return _WELL
        process = os.fork()
        if process == 0:
            # Without destructors, and without the caller's alarm, which a fork does not inherit.
            set_alarm(_LONGEST_ATTEMPT_SECONDS)
            try:
                self._load(arena_bytes)
            except BaseException:
                os._exit(_REFUSED)
            os._exit(_WELL)
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    def _grow(self) -> Any:
        arena_bytes = self.FIRST_ARENA_BYTES
        while True:
            # The largest is not tried out: a model that dies in it dies of something else, and its caller is told.
            while arena_bytes < self.LARGEST_ARENA_BYTES and self._attempt(arena_bytes) < 0:
                arena_bytes = min(4 * arena_bytes, self.LARGEST_ARENA_BYTES)
            start = os.fstat(2).st_size
            try:
                return self._load(arena_bytes)
            except RuntimeError:
                missing = self._missing_bytes(start)
                if missing is None or arena_bytes + missing > self.LARGEST_ARENA_BYTES:
                    raise
            arena_bytes = min(max(4 * arena_bytes, arena_bytes + missing), self.LARGEST_ARENA_BYTES)

    def _missing_bytes(self, start: int) -> int | None:
        """Bytes by which the arena was too small, None if that was not what went wrong."""
        noise = os.pread(2, 1 << 16, start).decode(errors="replace")
        # Some kernels do not say that memory was what they did not get.
        if not self._TOO_SMALL.search(noise) and not self._starts_in(self.LARGEST_ARENA_BYTES):
            return None
        return max((int(found) for found in re.findall(r"missing: (\d+)", noise)), default=1)

    def _load(self, arena_bytes: int) -> Any:
        return self._runtime.Interpreter.from_bytes(
            self._content,
            arena_size=arena_bytes,
            intrepreter_config=self._mode,
            alt_decompression_memory_size=self._alternate_bytes,
        )

    def _signature_names(self, kind: str) -> dict[int, str]:
        if not self._model.SignatureDefsLength():
            return {}
        signature = self._model.SignatureDefs(0)
        maps = [getattr(signature, kind)(i) for i in range(getattr(signature, kind + "Length")())]
        return {entry.TensorIndex(): (entry.Name() or b"").decode(errors="replace") for entry in maps}

    def _tensor_name(self, index: int) -> str:
        return (self._graph.Tensors(index).Name() or b"").decode(errors="replace")

    def _getter(self, index: int) -> Callable[[], Array]:
        get: Callable[[int], Array] = self._interpreter.get_output
        return lambda: get(index)
