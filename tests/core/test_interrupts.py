"""Ctrl-C is not lost in a destructor, and does not come in the middle of a clean-up."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from keras_compress.core import progress
from keras_compress.core.interrupts import interrupts_delayed, interrupts_kept, temporary_folder


class InterruptedInDestructor:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_one_that_python_ignores_comes_at_the_end_of_the_block() -> None:
    reached = []
    before = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117
        with interrupts_kept():
            thing = InterruptedInDestructor()
            del thing
            reached.append(1)
    assert reached == [1]
    assert sys.unraisablehook is before
    with interrupts_kept():
        pass


def test_long_work_stops_at_its_next_step() -> None:
    reached = []

    @progress.shown("work")
    def work() -> None:
        thing = InterruptedInDestructor()
        del thing
        reached.append(1)
        progress.advance()
        reached.append(2)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == [1]


def test_a_clean_up_is_ended_first() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117
        with interrupts_delayed():
            signal.raise_signal(signal.SIGINT)
            reached.append(1)
    assert reached == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_temporary_folder_is_gone_whatever_happens() -> None:
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117
        with temporary_folder() as folder:
            (Path(folder) / "file").write_bytes(b"content")
            signal.raise_signal(signal.SIGINT)
    assert not os.path.exists(folder)
