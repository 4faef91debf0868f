"""Trials shared by processes: each setting done once, none lost where a process is killed."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keras_compress.pipelines.fit_space import METHODS, Setting, Space
from keras_compress.pipelines.fit_study import SAMPLERS, Trials, quiet_optuna, storage_of

optuna = pytest.importorskip("optuna")
SPACE = Space.of(("channels", "training"), "tflm")


def opened(study: Path, count: int, stale_after_s: float = 30.0) -> Trials:
    options: dict[str, Any] = {"sampler": "tpe", "seed": 0, "epochs": 2, "stale_after_s": stale_after_s}
    return Trials(storage_of(study), "toy", SPACE, count=count, **options)


def value_of(setting: Setting) -> float:
    return setting.channels + (setting.training == "qat")


def work(trials: Trials, log: Path, seconds: float = 0.0) -> None:
    """Do trials, and write each that counted to a file of the process."""
    for trial, setting in trials:
        with trials.alive(trial), open(log / f"{os.getpid()}", "a") as file:
            file.write(f"began {trial.number}\n")
            file.flush()
            time.sleep(seconds)
            if trials.tell(trial, value_of(setting)):
                file.write(f"told {trial.number}\n")


def forked(function: Callable[[], None]) -> int:
    """Run a function in a copy of this process, which ends with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the copy runs no TensorFlow
        process = os.fork()
    if process == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    return process


def settings_done(trials: Trials) -> Counter[str]:
    return Counter(str(sorted(each.params.items())) for each in trials.finished())


@pytest.mark.parametrize("name", ["trials.journal", "trials.db"])
def test_two_processes_share_a_search_and_one_is_killed(tmp_path: Path, name: str) -> None:
    log = tmp_path / "log"
    log.mkdir()
    study = tmp_path / name
    victim = forked(lambda: work(opened(study, 6), log, 30.0))
    while not (log / f"{victim}").exists() or "began" not in (log / f"{victim}").read_text():
        time.sleep(0.02)
    other = forked(lambda: work(opened(study, 6), log, 0.05))
    time.sleep(0.2)
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)
    assert os.waitpid(other, 0)[1] == 0
    assert "told" not in (log / f"{victim}").read_text()
    trials = opened(study, 6)
    lost = next(each for each in trials.study.trials if each.number == 0)
    assert lost.state.name == "FAIL"
    done = trials.finished()
    # Six, all different, and what was being done when the process died is among them.
    assert len(done) == 6
    assert set(settings_done(trials).values()) == {1}
    (again,) = [each for each in done if each.user_attrs.get("again") == 0]
    assert again.params == lost.params
    assert again.value == value_of(SPACE.suggest(optuna.trial.FixedTrial(lost.params)))
    # Nothing is left to do.
    assert list(opened(study, 6)) == []


def test_a_worker_taken_for_dead_does_not_count_twice(tmp_path: Path) -> None:
    study = tmp_path / "trials.journal"
    slow, other = opened(study, 2), opened(study, 2, stale_after_s=0.2)
    other._me = "another:1:1"
    trial, setting = next(iter(slow))
    trial.set_user_attr("worker", "far away:1:1")  # of another computer, which shows no sign of life
    began = time.monotonic()
    for each, drawn in other:
        with other.alive(each):
            assert other.tell(each, value_of(drawn))
    assert time.monotonic() - began > 0.2
    with pytest.warns(UserWarning, match="Trial 0 is not counted: no sign of life"):
        assert not slow.tell(trial, value_of(setting))
    assert len(slow.finished()) == 2
    assert set(settings_done(slow).values()) == {1}


@pytest.mark.parametrize("write", ["report", "set_constraint", "set_user_attr"])
def test_a_worker_taken_for_dead_goes_on_with_the_next(tmp_path: Path, write: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {"report": (0.5, 1), "set_constraint": ("bytes", 0.1)}
    slow = opened(tmp_path / "trials.journal", 1, stale_after_s=0.04)
    trials = iter(slow)
    trial, _ = next(trials)
    said = f"Trial {trial.number} is not counted"

    def lose() -> None:
        with slow.alive(trial):
            slow._hand_on(slow._frozen(trial))  # as another process does
            time.sleep(0.05)  # the heart beats once more
            getattr(trial, write)(*arguments.get(write, ("stopped", "some reason")))

    with pytest.warns(UserWarning, match=said):
        lose()
    again, setting = next(trials)
    assert again.params == trial.params
    with slow.alive(again):
        assert slow.tell(again, value_of(setting))
    assert list(trials) == []
    assert [each.user_attrs["again"] for each in slow.finished()] == [0]


def test_an_interrupted_trial_is_handed_on(tmp_path: Path) -> None:
    study = tmp_path / "trials.journal"
    trials = opened(study, 3)
    trial, _ = next(iter(trials))
    with pytest.raises(KeyboardInterrupt), trials.alive(trial):
        raise KeyboardInterrupt
    assert trials.finished() == []
    work(opened(study, 3), tmp_path)
    assert len(trials.finished()) == 3
    assert set(settings_done(trials).values()) == {1}


def test_a_start_that_was_not_drawn_yet_is_handed_on(tmp_path: Path) -> None:
    trials = opened(tmp_path / "trials.journal", 1)
    asked = trials.study.ask()  # the process ends here
    assert trials._frozen(asked).params == {}
    trials._hand_on(trials._frozen(asked))
    _, setting = next(iter(trials))
    assert setting == SPACE.starts()[0]


def test_optuna_says_errors_alone_for_a_while(tmp_path: Path) -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        opened(tmp_path / "trials.journal", 1)
        assert optuna.logging.get_verbosity() == optuna.logging.WARNING
        with quiet_optuna():
            assert optuna.logging.get_verbosity() == optuna.logging.ERROR
        assert optuna.logging.get_verbosity() == optuna.logging.WARNING
    finally:
        optuna.logging.set_verbosity(before)


def test_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str) -> None:
        raise OSError(f"no connection to {url}")

    monkeypatch.setattr(optuna.storages, "RDBStorage", refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    shown = r"study='mysql://me:\*\*\*@host/name' \(OSError: no connection to mysql://me:\*\*\*@host/name\)"
    with pytest.raises(ValueError, match=shown) as error:
        storage_of("mysql://me:s3c@ret@host/name")
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_that_has_tried_all_there_is_ends(tmp_path: Path, sampler: str) -> None:
    space = Space.of(("training",), "tflm")
    trials = Trials(
        storage_of(tmp_path / "t.journal"), "toy", space, count=9, sampler=sampler, seed=0, epochs=1, stale_after_s=9.0
    )
    for trial, setting in trials:
        trials.tell(trial, value_of(setting))
    assert sorted(each.params["training"] for each in trials.finished()) == ["ptq", "qat"]


def test_storages_that_cannot_be_reached(tmp_path: Path) -> None:
    for study in (
        tmp_path / "nowhere" / "trials.journal",
        tmp_path / "nowhere" / "trials.db",
        "no_such_database://host/name",
        f"sqlite:///{tmp_path}",
    ):
        with pytest.raises(ValueError, match="`study` as a journal file.*that can be reached. Received: study="):
            opened(study, 1)


def test_spaces() -> None:
    assert Space.of(None, "tflm").methods == tuple(METHODS)
    assert Space.of(None, "litert").methods == ("channels", "low_rank", "bits", "training")
    # Starts of fewer methods are those that only move what these do.
    assert Space.of(("training",), "tflm").starts() == [Setting(), Setting(training="qat")]
    assert len(Space.of(None, "tflm").starts()) == 6
    for space in (Space.of(None, "tflm"), Space.of(("channels", "bits"), "litert")):
        for start in space.starts():
            assert space.suggest(optuna.trial.FixedTrial(space.parameters(start))) == start
    for methods, message in (
        (("chanels",), r"`methods` out of channels, .*'chanels' \(did you mean 'channels'\?\)"),
        ((), "at least one of `methods`"),
    ):
        with pytest.raises(ValueError, match=message):
            Space.of(methods, "tflm")
    with pytest.raises(ValueError, match="smaller. Received: clusters"):
        Space.of(("clusters",), "litert")
