"""Several threads: each conversion gives what it gives alone, and the process is left as it was."""

import logging
import os
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.convert.native_log import quiet_native_logs
from keras_compress.core.descriptors import turned
from keras_compress.core.interrupts import interrupts_kept
from keras_compress.core.quiet import ignored_warnings, quiet_tensorflow


def of_the_process():
    """What belongs to no thread."""
    files = [(found.st_dev, found.st_ino) for found in map(os.fstat, (1, 2))]
    levels = [logging.getLogger(name).level for name in ("tensorflow", "absl")]
    return files, levels, sys.unraisablehook, list(warnings.filters), keras.config.dtype_policy().name


def test_blocks_that_overlap_restore_what_was_there():
    """One thread enters, another enters, the first leaves, then the other."""
    for block in (interrupts_kept, quiet_tensorflow, lambda: ignored_warnings("nothing")):
        before, inside, may_leave = of_the_process(), threading.Event(), threading.Event()

        def other(block=block, inside=inside, may_leave=may_leave):
            with block():
                inside.set()
                may_leave.wait(10)

        thread = threading.Thread(target=other)
        if block in (interrupts_kept, quiet_tensorflow):
            with block():
                thread.start()
                assert inside.wait(10)
        else:  # these take turns
            thread.start()
            assert inside.wait(10)
            threading.Timer(0.05, may_leave.set).start()
            with block():
                assert may_leave.is_set()
        may_leave.set()
        thread.join()
        assert of_the_process() == before


def test_each_thread_reads_its_own_log_and_blocks_nest(capfd):
    before = of_the_process()

    def write(number):
        with quiet_native_logs() as outer:
            os.write(2, b"outer %d;" % number)
            with quiet_native_logs() as inner:
                os.write(1, b"inner %d;" % number)
            os.write(1, b"again %d;" % number)
        return outer.text, inner.text

    with ThreadPoolExecutor(8) as pool:
        logs = list(pool.map(write, range(64)))
    assert logs == [(f"outer {n};again {n};", f"inner {n};") for n in range(64)]
    assert of_the_process() == before
    os.write(1, b"after")
    assert capfd.readouterr() == ("after", "")


def test_a_closed_descriptor_is_left_alone(tmp_path):
    with open(tmp_path / "sink", "wb") as sink:
        free = os.dup(1)
        os.close(free)
        with turned((free,), sink.fileno()):
            pass
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(free)


def test_conversions_in_threads_are_those_made_alone():
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)
    nets = [
        keras.Sequential([keras.Input((8,)), keras.layers.Dense(n, "relu", name="d"), keras.layers.Dense(3, name="e")])
        for n in (4, 5)
    ]
    # Two of the same model at once, and different modes.
    work = [
        *((nets[0], {"representative_dataset": x}), (nets[0], {"representative_dataset": x[:8]})),
        *((nets[1], {"mode": "float32"}), (nets[1], {"representative_dataset": x, "mode": "16x8"})),
    ]

    def convert(job):
        model, options = job
        return kc.convert(model, **options).content

    alone = list(map(convert, work))
    before = of_the_process()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(convert, work))
    assert together == alone
    assert len(set(alone)) == 4
    assert of_the_process() == before
