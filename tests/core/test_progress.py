"""One line of progress where somebody sees it, nothing elsewhere."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import keras
import pytest

import keras_compress
from keras_compress.core import progress

ROOT = Path(keras_compress.__file__).parents[1]
PROGRAM = """
import os, sys, time
os.environ["KERAS_BACKEND"] = "tensorflow"
saved = os.dup(2)
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # TensorFlow's own start-up lines
import keras
from keras_compress.core import progress
from keras_compress.convert.native_log import quiet_native_logs
os.dup2(saved, 2)

def work(name):
    with progress.ProgressLine("outer"), quiet_native_logs() as log:
        for number in range(3):
            progress.step("part", 40)
            progress.advance(number)
            time.sleep(0.25)
    assert log.text == "", log.text
    os.write(2, f"after {name};".encode())

progress.DELAY_SECONDS = 0.1
work("drawn")
keras.config.disable_interactive_logging()
work("turned off")
keras.config.enable_interactive_logging()
os.environ["TERM"] = "dumb"
work("dumb terminal")
os.environ["TERM"] = "xterm"
progress.DELAY_SECONDS = 60
work("soon done")
assert len(os.listdir("/proc/self/fd")) < 40
"""


def on_a_terminal(code: str) -> str:
    """What a program shows on the terminal that its stderr is."""
    main, terminal = pty.openpty()
    found = bytearray()

    def read() -> None:
        # Linux says so by an error when the other end is closed.
        with contextlib.suppress(OSError):
            while True:
                found.extend(os.read(main, 4096))

    reader = threading.Thread(target=read)
    reader.start()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, stderr=terminal, timeout=120, check=False)
    os.close(terminal)
    reader.join()
    os.close(main)
    assert done.returncode == 0, found.decode()
    return found.decode()


def test_a_terminal_shows_one_line_that_goes_away() -> None:
    drawn, *others = on_a_terminal(PROGRAM).split(";")
    assert "outer: part" in drawn
    # It is drawn over and over in one row, though the converter's log is captured, and wiped out in the end.
    assert drawn.count("\r") > 3
    assert drawn.count("\n") == 1
    assert drawn.endswith("\x1b[1A\x1b[2Kafter drawn")
    assert others == ["after turned off", "after dumb terminal", "after soon done", ""]


def test_nothing_is_drawn_where_stderr_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with progress.ProgressLine("work") as line:
        assert not line.drawn
    assert capfd.readouterr() == ("", "")


def test_a_line_inside_another_adds_its_words() -> None:
    assert progress._OPEN.lines == []
    progress.step("outside of any line")
    progress.advance()
    with progress.ProgressLine("compressing", 40) as outer:
        outer.advance(3)
        with progress.ProgressLine("converting"):
            progress.step("calibrating", 9)
            progress.advance(2)
            assert outer.text() == "compressing: converting: calibrating"
            assert outer.count() == (3, 40)
        assert outer.text() == "compressing"
        outer.step("other")
        assert outer.count() == (0, None)
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117
            with progress.ProgressLine("inner"):
                progress.advance(5)
                assert outer.count() == (5, None)
                raise KeyboardInterrupt
        assert outer.text() == "compressing: other"
    assert progress._OPEN.lines == []


def test_shown_functions_keep_their_signature_and_result() -> None:
    @progress.shown("adding")
    def add(a: int, b: int = 2) -> str:
        """Adds."""
        return f"{progress._OPEN.lines[0].text()} {a + b}"

    assert add(1) == "adding 3"
    assert (add.__name__, add.__doc__) == ("add", "Adds.")


class Screen:
    """Remembers what is drawn."""

    interval_seconds = 0.01

    def __init__(self) -> None:
        self.drawn: list[str] = []
        self.said: list[str] = []
        self.closed = 0

    def open(self) -> None:
        pass

    def draw(self, text: str, done: int, total: int | None, seconds: float) -> None:
        self.drawn.append(text)
        if text.endswith("broken"):
            raise OSError("the terminal has gone")

    def finish(self, what: str, seconds: float) -> None:
        self.said.append(what)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def screens(monkeypatch: pytest.MonkeyPatch) -> list[Screen]:
    found: list[Screen] = []

    def make() -> Screen:
        found.append(Screen())
        return found[-1]

    monkeypatch.setattr(progress, "_view", lambda: make)
    monkeypatch.setattr(progress, "DELAY_SECONDS", 0.0)
    return found


def test_two_threads_do_not_share_the_terminal(screens: list[Screen]) -> None:
    def other() -> None:
        with progress.ProgressLine("other") as line:
            assert not line.drawn

    with progress.ProgressLine("first") as line:
        assert line.drawn
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        line._ended.wait(0.2)
    assert len(screens) == 1
    assert set(screens[0].drawn) == {"first"}
    assert (screens[0].said, screens[0].closed) == (["first"], 1)


def test_what_cannot_be_drawn_does_not_stop_the_work(screens: list[Screen]) -> None:
    with progress.ProgressLine("broken") as line:
        line._ended.wait(0.2)
    assert (screens[0].said, screens[0].closed) == ([], 1)
    with progress.ProgressLine("next") as line:
        assert line.drawn


def test_the_switch_is_that_of_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    assert keras.config.is_interactive_logging_enabled()
    assert progress._view() is progress._Notebook
    keras.config.disable_interactive_logging()
    try:
        assert progress._view() is None
    finally:
        keras.config.enable_interactive_logging()
