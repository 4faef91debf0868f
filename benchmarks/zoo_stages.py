"""Time and peak memory of the stages of a process, kept in a JSON file as they end."""

from __future__ import annotations

import contextlib
import functools
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class Stages:
    """Measures named stages; what is finished is in the file even if the process then dies.

    Args:
        path: The JSON file.
    """

    def __init__(self, path: Path) -> None:
        self.facts: dict[str, Any] = {"stages": {}}
        self._path = path

    def save(self, **facts: Any) -> None:
        """Remember facts beside the stages."""
        self.facts.update(facts)
        self._path.write_text(json.dumps(self.facts))

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Wall-clock time, CPU time of all threads, and the highest resident memory of this process meanwhile.

        An error is remembered as this stage's and passed on.
        """
        _forget_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        except Exception as error:
            text = " ".join(str(error).split())
            self.facts["failed"] = {"stage": name, "error": type(error).__name__, "message": text[:600]}
            raise
        finally:
            self.facts["stages"][name] = {
                "wall_s": round(time.perf_counter() - wall, 3),
                "cpu_s": round(time.process_time() - cpu, 3),
                "peak_bytes": peak_bytes(),
            }
            self.save()


class Parts:
    """Time spent in functions of other modules while they are watched, summed over their calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, float]] = {}

    @contextlib.contextmanager
    def watch(self, **functions: tuple[Any, str]) -> Iterator[None]:
        """Put a clock around `label=(module, function name)`; a name that the module does not have is left out."""
        with contextlib.ExitStack() as stack:
            for label, (module, name) in functions.items():
                original = getattr(module, name, None)
                if original is not None:
                    setattr(module, name, self._timed(label, original))
                    stack.callback(setattr, module, name, original)
            yield

    def _timed(self, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent = self.seconds.setdefault(label, {"wall_s": 0.0, "cpu_s": 0.0})
                spent["wall_s"] = round(spent["wall_s"] + time.perf_counter() - wall, 3)
                spent["cpu_s"] = round(spent["cpu_s"] + time.process_time() - cpu, 3)

        return timed


def peak_bytes() -> int:
    """Highest resident memory of this process since the peak was last forgotten (Linux) or since its start."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
