"""Settings and data that every test shares."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import sys

# Before anything imports TensorFlow or matplotlib.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Started in the background of a shell. Python and its children must hear Ctrl-C, which some tests press.
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from tests_fast_loop import LONG_TESTS, TIMES, Recorder, mark
from tests_xla import xla

from keras_compress.demo import datasets

# Another one shows what a test's numbers owe to chance.
SEED = int(os.environ.get("TEST_SEED", "0"))


def seeded() -> None:
    random.seed(SEED)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(SEED)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record_times", action="store_true", help=f"Run everything; write {TIMES}.")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("record_times"):
        whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS or hasattr(config, "workerinput")
        if not whole or config.option.markexpr or config.option.keyword:
            raise pytest.UsageError(f"Expected all tests to be recorded. Received: a choice, {config.args}")
        config.pluginmanager.register(Recorder(writes=not hasattr(config, "workerinput")))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before pytest itself chooses by markers."""
    mark(items, json.loads(LONG_TESTS.read_text()))


def pytest_collection_finish() -> None:
    # Half a million objects of TensorFlow and Keras live until the end: nobody need look for garbage among them.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before fixtures of modules and sessions, which may draw weights and compile too."""
    seeded()
    xla.turn(item.get_closest_marker("xla") is not None)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    # Doctests, which this file does not reach, compile.
    xla.turn(True)


@pytest.fixture(autouse=True)
def fresh_keras() -> None:
    """Automatic layer names start at 0 and weights are the same in each test, whichever tests ran before."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.clear_session(free_memory=False)
    seeded()


@pytest.fixture(scope="session")
def digits() -> datasets.Dataset:
    return datasets.load("digits")


@pytest.fixture(scope="session")
def fashion_mnist() -> datasets.Dataset:
    """The 70,000 images, or the test is skipped with what is to be installed."""
    try:
        return datasets.load("fashion_mnist")
    except FileNotFoundError as error:
        pytest.skip(str(error))
