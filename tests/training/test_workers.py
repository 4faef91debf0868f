"""`kc.DistributedTrainer` under `MultiWorkerMirroredStrategy`: two processes, started once, which run all rows."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tests_training as t
import tests_workers as w
from tests_shared import made_once

import keras_compress as kc

MASKED = [name for name in w.ROWS if name.startswith(("all three", "ranges"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "two_workers", run_both)


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    """What each worker saw."""
    return [json.loads((folder / f"found-{index}.json").read_text()) for index in (0, 1)]


def run_both(folder: Path) -> None:
    script = os.path.join(os.path.dirname(__file__), "two_workers.py")
    paths = [os.path.dirname(w.__file__), os.path.dirname(os.path.dirname(kc.__file__)), os.environ.get("PYTHONPATH")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    ports = ",".join(map(str, free_ports(2)))
    with ExitStack() as stack:
        running = []
        for index in (0, 1):
            log = stack.enter_context((folder / f"{index}.log").open("w"))
            command = [sys.executable, script, str(index), ports, str(folder)]
            running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            stack.callback(running[-1].wait)
            stack.callback(running[-1].kill)
        codes = [each.wait(timeout=500) for each in running]
    logs = "\n\n".join((folder / f"{index}.log").read_text()[-3000:] for index in (0, 1))
    assert codes == [0, -9], logs


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def stored(folder: Path, name: str, index: int) -> list[np.ndarray]:
    with np.load(folder / f"{name}-{index}.npz") as archive:
        return [archive[key] for key in archive.files]


def assert_equal(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    assert len(ours) == len(theirs) > 3
    for one, other in zip(ours, theirs):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", w.ROWS)
def test_all_variables_are_equal_on_both_workers(folder: Path, found: list, name: str) -> None:
    assert_equal(stored(folder, name, 0), stored(folder, name, 1))
    assert found[0]["history"][name] == found[1]["history"][name]


@pytest.mark.parametrize("name", w.ROWS)
def test_two_workers_equal_two_shards_of_one_process(folder: Path, found: list, name: str) -> None:
    """Bit for bit, with every codec: the sum of two numbers has no order."""
    model, history = w.train(name, workers=2)
    assert_equal(stored(folder, name, 0), w.values(model))
    for key, told in history.items():
        np.testing.assert_allclose(found[0]["history"][name][key], told, rtol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", MASKED)
def test_masks_and_ranges_have_moved_with_the_schedule(folder: Path, name: str) -> None:
    make, _ = w.ROWS[name]
    start, trained = make(), make()
    for variable, value in zip(trained.variables, stored(folder, name, 0)):
        variable.assign(value)
    t.assert_moved(trained, start)
    assert t.steps(trained) == ({8}, {8})
    if name.startswith("all three"):
        t.assert_pruned(trained)


def test_two_workers_equal_one_where_sums_are_exact(folder: Path) -> None:
    model, _ = w.train("whole numbers")
    assert_equal(stored(folder, "whole numbers", 0), w.values(model))
    assert not np.array_equal(w.values(model)[0], np.ones((6, 2)))


def test_two_workers_equal_one_but_for_rounding_otherwise(folder: Path) -> None:
    """Sums of a batch in another order."""
    model, _ = w.train("fractions")
    for one, other in zip(stored(folder, "fractions", 0), w.values(model)):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_trainer_on_one_worker_equals_fit() -> None:
    ours, fitted = (w.with_dropout() for _ in range(2))
    x, y = t.data(ours)
    history = kc.DistributedTrainer(ours).fit(x, y, batch_size=t.BATCH, epochs=2, shuffle=False).history
    expected = fitted.fit(x, y, batch_size=t.BATCH, epochs=2, shuffle=False, verbose=0).history
    for one, other in zip(w.values(ours), w.values(fitted)):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
    assert history["mae"] == pytest.approx(expected["mae"], rel=1e-5)
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_a_damaged_message_is_refused_by_both(found: list) -> None:
    for seen in found:
        kind, said, steps = seen["damaged"]
        assert kind == "ValueError"
        assert "worker 1's message with the checksum" in said
        assert steps == 2


def test_a_slow_worker_is_waited_for(found: list) -> None:
    for seen in found:
        seconds, steps = seen["slow"]
        assert seconds > 1.5
        assert steps == 4


def test_an_epoch_ends_where_the_first_worker_has_no_more(found: list) -> None:
    """Two epochs of three steps, though one worker has data for five."""
    assert found[0]["own_shards"] == found[1]["own_shards"]
    assert found[0]["own_shards"][0] == 6


def test_a_loop_of_ones_own_in_the_strategy_s_scope(found: list) -> None:
    """Pruned, clustered, quantized: all variables are equal."""
    ours, theirs = (seen["own_loop"] for seen in found)
    assert ours == theirs
    assert len(ours) > 10


def test_what_keras_cannot_do_there_fails_alike_with_and_without_wrappers(found: list) -> None:
    """`fit` of Keras 3 under this strategy; a model made in its scope is refused by the trainer."""
    plain, pruned, (kind, said) = found[0]["fit"]
    assert plain == pruned != ""
    assert kind == "ValueError"
    assert "outside the strategy's scope" in said


def test_a_killed_worker_is_an_error_on_the_other_and_all_go_on(found: list, folder: Path, tmp_path: Path) -> None:
    kind, said, seconds = found[0]["killed"]
    assert kind == "RuntimeError"
    assert "Expected all 2 workers to take part in each step. Received: one is gone" in said
    assert seconds < 60
    kept = json.loads((folder / "kept" / "latest.json").read_text())
    assert kept["epochs"] == w.KILLED_IN
    resumed, history = w.train_with_checkpoints(folder / "kept", workers=2)
    whole, whole_history = w.train_with_checkpoints(tmp_path / "whole", workers=2)
    assert_equal(w.values(resumed), w.values(whole))
    assert history["loss"] == whole_history["loss"][w.KILLED_IN :]
