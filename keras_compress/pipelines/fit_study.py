"""Trials of `fit_to` shared by any number of processes, over Optuna: kept when one is killed, and counted once.

A trial that is running says so by a number that it raises all the time. One whose number stands still, or whose process
is known to be dead, is failed by the first that notices, and its setting is handed out again: Optuna lets only one
process fail it, and refuses the result of one that was taken for dead and was not.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from keras_compress.core.warn import warn
from keras_compress.pipelines.fit_space import Setting, Space

# How long a journal's lock may be held before others take its holder for dead.
_LOCK_SECONDS = 10
# Draws in a row that were done before, after which there is taken to be nothing new.
_REPEATS = 50
_ATTEMPTS = 3
SAMPLERS = ("tpe", "nsga2", "random")


def optuna() -> Any:
    """Optuna, which is an extra.

    Raises:
        ImportError: Without it.
    """
    try:
        import optuna as found
    except ImportError as error:
        raise ImportError("Expected optuna: `pip install 'keras-compress[search]'`. Received: none") from error
    return found


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna says errors alone while it is open.

    Raises:
        ImportError: Without Optuna.
    """
    logging = optuna().logging
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def storage_of(study: str | os.PathLike[str]) -> Any:
    """Where trials are kept: a journal file, an SQLite file (`.db`, `.sqlite`), or the URL of a database.

    Raises:
        ValueError: Where it cannot be reached.
    """
    storages = optuna().storages
    text = os.fspath(study)
    try:
        if "://" in text or Path(text).suffix in (".db", ".sqlite", ".sqlite3"):
            return _database(storages, text if "://" in text else f"sqlite:///{Path(text).absolute()}")
        journal = storages.journal
        lock = journal.JournalFileSymlinkLock(text, grace_period=_LOCK_SECONDS)
        return storages.JournalStorage(journal.JournalFileBackend(text, lock_obj=lock))
    except Exception as error:
        # What drivers of databases raise is theirs.
        cause = " ".join(str(error).split())
        secret = _password(text)
        shown, said = ((each.replace(secret, "***") if secret else each) for each in (text, cause))
        raise ValueError(
            "Expected `study` as a journal file, an .db file or the URL of a database, that can be reached. "
            f"Received: study={shown!r} ({type(error).__name__}: {said[:300]})"
        ) from (error if said == cause else None)


def _password(url: str) -> str:
    """The password in a database's URL, empty where there is none."""
    found = re.search(r"://[^:@/]*:(.*)@", url)
    return found[1] if found else ""


def _database(storages: Any, url: str) -> Any:
    for attempt in range(_ATTEMPTS):
        try:
            return storages.RDBStorage(url)
        except Exception:
            # Another process may be making the tables of a new database.
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.3)
    return None


class Trials:
    """The trials of one search, in this process and others.

    Args:
        storage: See `storage_of`.
        name: Of the search: all that decides its results is in it.
        space: What is drawn.
        count: How many trials there are to be.
        sampler: Out of `SAMPLERS`.
        seed: Of the sampler.
        epochs: Most epochs that a trial trains: Hyperband's largest budget.
        stale_after_s: How long a trial of another computer may show no sign of life.
    """

    def __init__(
        self,
        storage: Any,
        name: str,
        space: Space,
        *,
        count: int,
        sampler: str,
        seed: int,
        epochs: int,
        stale_after_s: float,
    ) -> None:
        self._optuna = optuna()
        self._storage = storage
        self._space, self._count, self._stale_after_s = space, count, stale_after_s
        self._states = self._optuna.trial.TrialState
        self._finished_already = self._optuna.exceptions.UpdateFinishedTrialError
        self._me = f"{socket.gethostname()}:{os.getpid()}:{time.time_ns()}"
        self._seen: dict[int, tuple[Any, float]] = {}
        # Workers that draw from one seed would draw the same.
        own = (seed + os.getpid()) % 2**31 if storage_has(storage, name) else seed
        self.study = self._optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize",
            load_if_exists=True,
            sampler=_sampler(self._optuna, sampler, own),
            pruner=self._optuna.pruners.HyperbandPruner(min_resource=1, max_resource=max(epochs + 1, 2)),
        )
        self._enqueue_starts()

    def _enqueue_starts(self) -> None:
        for setting in self._space.starts()[: self._count]:
            self.study.enqueue_trial(self._space.parameters(setting), skip_if_exists=True)

    def shared(self, key: str, value: Any) -> Any:
        """A value that all processes of a search take: that of the first one."""
        if key not in self.study.user_attrs:
            self.study.set_user_attr(key, value)
        return self.study.user_attrs[key]

    def __iter__(self) -> Iterator[tuple[Any, Setting]]:
        """Trials of this process and their settings, until all are done; waits for those of others at the end."""
        repeats = 0
        while True:
            self._revive()
            waiting = any(each.state == self._states.WAITING for each in self._counted())
            if self._left() and (waiting or repeats < _REPEATS):
                trial = self.study.ask()
                try:
                    setting, counts = self._space.suggest(trial), self._counts(trial)
                except self._finished_already:
                    continue  # another process took this one for dead while it drew
                if counts:
                    repeats = 0
                    yield trial, setting
                else:
                    repeats += 1
            elif self._others_running():
                time.sleep(min(1.0, self._stale_after_s / 4))
            else:
                return

    @contextmanager
    def alive(self, trial: Any) -> Iterator[None]:
        """While it is open, others see that the trial is worked on; left by an error, its setting is handed on.

        Where another process took this one for dead, what is written of the trial is refused: that is warned of, and
        ends the block without an error.
        """
        with suppress(self._finished_already):
            trial.set_user_attr("worker", self._me)
        ended = threading.Event()

        def beat() -> None:
            number = 0
            with suppress(self._finished_already):
                while not ended.wait(self._stale_after_s / 4):
                    number += 1
                    trial.set_user_attr("beat", number)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        except self._finished_already:
            self._say_lost(trial)
        except BaseException:
            self._hand_on(self._frozen(trial))
            raise
        finally:
            ended.set()
            thread.join()

    def tell(self, trial: Any, value: float | None) -> bool:
        """Keep what a trial came to; `None`: it was stopped.

        Returns:
            Whether it counts: not where another process took this one for dead, which is warned of.
        """
        state = self._states.PRUNED if value is None else self._states.COMPLETE
        try:
            self.study.tell(trial, value, state=state)
        except (ValueError, RuntimeError, self._optuna.exceptions.OptunaError):
            if not self._frozen(trial).state.is_finished():
                raise
            self._say_lost(trial)
            return False
        return True

    def _say_lost(self, trial: Any) -> None:
        warn(
            f"Trial {trial.number} is not counted: no sign of life of this process was seen for `stale_after_s`="
            f"{self._stale_after_s:g} seconds, and its setting was handed to another"
        )

    def finished(self) -> list[Any]:
        """Trials that are done and count, in order."""
        states = (self._states.COMPLETE, self._states.PRUNED)
        return [each for each in self.study.get_trials(deepcopy=False) if each.state in states]

    def _frozen(self, trial: Any) -> Any:
        return self._storage.get_trial(trial._trial_id)

    def _counted(self) -> list[Any]:
        """Trials that are done, are running, or wait."""
        return [each for each in self.study.get_trials(deepcopy=False) if each.state != self._states.FAIL]

    def _left(self) -> bool:
        begun = [each for each in self._counted() if each.state != self._states.WAITING]
        return len(begun) < self._count

    def _counts(self, trial: Any) -> bool:
        """Whether a trial is one of those that are wanted, which no other is already doing; the others are failed."""
        begun = [e for e in self._counted() if e.number < trial.number and e.state != self._states.WAITING]
        mine = self._frozen(trial).params
        same = next((each.number for each in begun if each.params == mine), None)
        if same is None and len(begun) < self._count:
            return True
        trial.set_user_attr("not_counted", "there were enough" if same is None else f"the same as trial {same}")
        self.study.tell(trial, state=self._states.FAIL)
        return False

    def _others_running(self) -> bool:
        return any(each.state == self._states.RUNNING for each in self._counted())

    def _revive(self) -> None:
        """Hand the settings of trials whose process is gone to others."""
        for each in self._counted():
            if each.state == self._states.RUNNING and self._is_dead(each):
                self._hand_on(each)

    def _hand_on(self, trial: Any) -> None:
        """Fail a trial and put its setting at the end of the queue, unless another process has done so."""
        try:
            self._storage.set_trial_state_values(trial._trial_id, state=self._states.FAIL)
        except (RuntimeError, ValueError, self._optuna.exceptions.OptunaError):
            return
        # What was queued and not drawn yet is known from the queue alone.
        setting = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if setting:
            self.study.enqueue_trial(setting, user_attrs={"again": trial.number})

    def _is_dead(self, trial: Any) -> bool:
        worker = trial.user_attrs.get("worker", "")
        if worker == self._me:
            return False
        host, _, rest = worker.partition(":")
        if host == socket.gethostname() and not _is_running(int(rest.partition(":")[0])):
            return True
        sign = (worker, trial.user_attrs.get("beat"))
        before, since = self._seen.setdefault(trial.number, (sign, time.monotonic()))
        if before != sign:
            self._seen[trial.number] = (sign, time.monotonic())
            return False
        return time.monotonic() - since > self._stale_after_s


def storage_has(storage: Any, name: str) -> bool:
    """Whether a search has begun."""
    return any(each.study_name == name for each in storage.get_all_studies())


def _sampler(library: Any, name: str, seed: int) -> Any:
    made: Mapping[str, Any] = {
        # A constant liar: what other processes try is not tried again at the same place.
        "tpe": lambda: library.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=8),
        "nsga2": lambda: library.samplers.NSGAIISampler(seed=seed, population_size=8),
        "random": lambda: library.samplers.RandomSampler(seed=seed),
    }
    if name not in made:
        raise ValueError(f"Expected `sampler` out of {', '.join(SAMPLERS)}. Received: sampler={name!r}")
    return made[name]()


def _is_running(process: int) -> bool:
    if os.name != "posix":
        return True  # signal 0 would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
