"""Child processes that run models, so that a crash or a hang of a native runtime becomes an exception.

One idle child per runtime and options is kept for the next request. The children speak frames.py over pipes,
have a time limit without progress and a limit on their address space, and end with their parent.
"""

import atexit
import contextlib
import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from keras_compress.core.interrupts import interrupts_delayed
from keras_compress.runtime.frames import Array, FrameError, Header, read_frame, write_frame

START_SECONDS = 60.0
WORKER = Path(__file__).with_name("worker.py")


class RuntimeCrash(RuntimeError):
    """The runtime's process died while it worked on a model."""


class RuntimeTimeout(RuntimeError):
    """The runtime did not answer within the time limit."""


class RequestError(Exception):
    """The child lives and says that it failed: `kind` is unavailable, argument, model or memory."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class _Watchdog:
    """Kills a process that lets `seconds` pass without a sign of life, or takes longer than `total_seconds`."""

    def __init__(self, process: subprocess.Popen[bytes], seconds: float, total_seconds: float | None) -> None:
        self._process, self._seconds = process, seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._end = time.monotonic() + (math.inf if total_seconds is None else total_seconds)
        self.expired = False
        self.push()

    def push(self) -> None:
        self._deadline = min(time.monotonic() + self._seconds, self._end)

    @property
    def total_passed(self) -> bool:
        return time.monotonic() >= self._end

    def _watch(self) -> None:
        while (left := self._deadline - time.monotonic()) > 0:
            if self._done.wait(left):
                return
        self.expired = True
        self._process.kill()

    def __enter__(self) -> "_Watchdog":
        try:
            with interrupts_delayed():
                self._thread.start()
        except BaseException:
            # Ctrl-C while the thread started: without `__exit__` it would watch on, and kill a child at work later.
            self._done.set()
            if self._thread.ident is not None:
                self._thread.join()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()


class Child:
    """One process with one runtime in it. Not for two threads at once."""

    def __init__(self, runtime: str, options: Header) -> None:
        self.runtime = runtime
        self._noise = _noise_file()
        with _FORK_LOCK:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(WORKER), *filter(os.path.isabs, sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._noise,
                bufsize=0,
                # NumPy's thread pool costs start-up time and address space, and nothing here uses it.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
            _LIVING.add(self)
        self._held: list[str] = []
        self.served = 0
        start = {"op": "start", "runtime": runtime, "options": options}
        try:
            self.request(start, seconds=START_SECONDS, label=f"starting the {runtime} runtime")
        except RequestError:
            self.close()
            raise
        self.served = 0

    def request(
        self,
        header: Header,
        contents: Sequence[bytes] = (),
        arrays: Sequence[Array] = (),
        *,
        seconds: float,
        total_seconds: float | None = None,
        memory_bytes: int | None = None,
        label: str = "",
    ) -> tuple[Header, list[Array]]:
        """Sends one request, waits for its answer.

        Args:
            seconds: longest time without a sign of life.
            total_seconds: longest time in all; no limit by default.
            memory_bytes: address space of the child.

        Raises:
            RequestError: the child says that it failed; it can take the next request.
            RuntimeCrash, RuntimeTimeout: the child is gone.
        """
        self.served += 1
        keys = [hashlib.sha256(content).hexdigest() for content in contents]
        new = {key: content for key, content in zip(keys, contents, strict=True) if key not in self._held}
        header = {**header, "keys": keys, "sent": list(new), "seconds": seconds, "memory_bytes": memory_bytes}
        arrays_sent = [np.frombuffer(content, np.uint8) for content in new.values()] + list(arrays)
        watchdog = _Watchdog(self._process, seconds, total_seconds)
        try:
            with watchdog:
                write_frame(self._stdin, header, arrays_sent)
                answer, results = read_frame(self._stdout, memory_bytes or 1 << 33)
                while answer.get("beat"):
                    watchdog.push()
                    answer, results = read_frame(self._stdout, memory_bytes or 1 << 33)
        except (FrameError, OSError) as error:
            raise self._gone(watchdog, seconds, label) from error
        except BaseException:  # Ctrl-C: the stream is in the middle of a frame
            self.close()
            raise
        if watchdog.expired:
            self.close()
        self._held = answer["held"]
        if "error" in answer:
            raise RequestError(answer["error"], self._explain(answer["reason"]))
        return answer, results

    @property
    def _stdin(self) -> Any:
        return self._process.stdin

    @property
    def _stdout(self) -> Any:
        return self._process.stdout

    def alive(self) -> bool:
        """Whether the process can take a request."""
        return self in _LIVING and self._process.poll() is None

    def close(self) -> None:
        """Ends the process at once; harmless when it is gone already."""
        _LIVING.discard(self)
        self._process.kill()
        self._process.wait()
        self.drop()

    def drop(self) -> None:
        """Closes this side's files and leaves the process alone."""
        for stream in (self._stdin, self._stdout, self._noise):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def disown(self) -> None:
        """In a forked copy of the caller: forgets a process that belongs to the original."""
        self._process.returncode = 0
        self.drop()

    def _gone(self, watchdog: _Watchdog, seconds: float, label: str) -> RuntimeError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        code = self._process.poll()
        noise = self._last_words()
        self.close()
        if watchdog.expired:
            what = "was not done in time" if watchdog.total_passed else f"gave no sign of life for {seconds:g} s"
            return RuntimeTimeout(f"{self.runtime} {what} on {label}{noise}")
        return RuntimeCrash(f"{self.runtime} crashed ({_death(code)}) on {label}{noise}")

    def _explain(self, reason: str) -> str:
        return _printable(reason)[:1000] + self._last_words()

    def _last_words(self) -> str:
        if self._noise is None:
            return ""
        size = self._noise.seek(0, os.SEEK_END)
        self._noise.seek(max(0, size - 4096))
        lines = [line for line in self._noise.read().decode(errors="replace").splitlines() if line.strip()]
        said = [_printable(line)[:300] for line in lines if not line.startswith("INFO:")][-5:]
        return "\nThe runtime's last words:\n  " + "\n  ".join(said) if said else ""


_FORK_LOCK = threading.Lock()
_LIVING: set[Child] = set()
_IDLE: dict[str, Child] = {}


@contextlib.contextmanager
def borrowed_child(runtime: str, options: Header, fresh: bool = False) -> Iterator[Child]:
    """A child for one caller: the idle one of this runtime and options, or a new one.

    Args:
        fresh: start a new process and end it afterwards.
    """
    key = json.dumps([runtime, options], sort_keys=True)
    child = None if fresh else _IDLE.pop(key, None)
    if child is not None and not child.alive():
        child.close()
        child = None
    child = child or Child(runtime, options)
    try:
        yield child
    finally:
        keep = child.alive() and not fresh and _IDLE.setdefault(key, child) is child
        if not keep:
            child.close()


def ask(
    runtime: str,
    options: Header,
    header: Header,
    contents: Sequence[bytes] = (),
    arrays: Sequence[Array] = (),
    *,
    fresh: bool = False,
    **limits: Any,
) -> tuple[Header, list[Array]]:
    """One request to a borrowed child; see `Child.request` for the limits and errors.

    A crash of a child that served others before is tried once more in a new one: what an earlier, broken
    model did to the process's memory must not be blamed on this model.
    """
    with borrowed_child(runtime, options, fresh) as child:
        try:
            return child.request(header, contents, arrays, **limits)
        except RuntimeCrash:
            if child.served == 1:
                raise
        except RequestError as error:
            if error.kind == "memory":
                child.close()
            raise
    with borrowed_child(runtime, options, fresh=True) as child:
        return child.request(header, contents, arrays, **limits)


def close_children() -> None:
    """Ends all children; new requests start new ones."""
    _IDLE.clear()
    for child in list(_LIVING):
        child.close()


def _forget_children() -> None:
    for child in list(_LIVING):
        child.disown()
    _LIVING.clear()
    _IDLE.clear()
    _FORK_LOCK.release()


def _noise_file() -> IO[bytes] | None:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("keras_compress_noise"), "w+b", buffering=0)
    try:
        return tempfile.TemporaryFile(buffering=0)
    except OSError:
        return None


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


def _printable(text: str) -> str:
    """Without the control characters that a hostile file could send to the terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text).strip()


atexit.register(close_children)
if hasattr(os, "register_at_fork"):
    # A fork between the making of the pipes and their closing here would keep them open in the copy.
    os.register_at_fork(before=_FORK_LOCK.acquire, after_in_parent=_FORK_LOCK.release, after_in_child=_forget_children)
