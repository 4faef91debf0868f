"""The machinery of `benchmarks/zoo.py`: what it records, what it derives, and that it goes on where it stopped."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> Any:
    if not (FOLDER / "zoo.py").is_file():
        pytest.skip("no checkout around these tests")
    monkeypatch.syspath_prepend(str(FOLDER))
    import zoo

    if not zoo.flags.FLAGS.is_parsed():
        zoo.flags.FLAGS.mark_as_parsed()
    return zoo


def test_a_tiny_network_is_converted_read_back_and_verified(zoo: Any, tmp_path: Path) -> None:
    from zoo_child import convert
    from zoo_members import TINY
    from zoo_stages import Stages

    path = tmp_path / "tiny_convert.json"
    convert(TINY, Stages(path), 0, 4)
    found = json.loads(path.read_text())
    assert list(found["stages"])[:4] == ["build", "convert", "read_back", "verify_litert"]
    assert all(stage["peak_bytes"] > 50_000_000 for stage in found["stages"].values())
    assert found["parameters"] == 3 * 3 * 3 * 8 + 4 * 8 + 8 * 4 + 4
    assert found["float_ops"] == []
    assert (found["litert"]["operators"], found["litert"]["operators_beyond_bound"]) == (5, 0)
    assert 0 < found["parts"]["freeze"]["cpu_s"] < found["stages"]["convert"]["cpu_s"]
    share = zoo.share_of_conversion(found, {"stages": {"ptq": {"cpu_s": 2.0}}})
    spent = found["stages"]["convert"]["cpu_s"] - found["parts"]["calibrate"]["cpu_s"]
    assert share["own_cpu_s"] == pytest.approx(spent, abs=2e-3)
    assert share["share_cpu"] == pytest.approx(spent / 2, abs=2e-3)


def test_an_error_is_remembered_as_its_stage(zoo: Any, tmp_path: Path) -> None:
    from zoo_stages import Stages

    path = tmp_path / "facts.json"
    stages = Stages(path)
    with pytest.raises(ValueError, match="no kernel"), stages.stage("convert"):
        raise ValueError("no kernel for\n  layer 'a'")
    found = json.loads(path.read_text())
    assert found["failed"] == {"stage": "convert", "error": "ValueError", "message": "no kernel for layer 'a'"}
    assert zoo.outcome({"convert": found, "train": {}, "converter": {}}) == "refused"
    assert zoo.peak(found, "convert") is None
    crash = {"failed": {"stage": "process", "error": "crash", "message": "exit code -9"}}
    assert zoo.outcome({"convert": crash, "train": {}, "converter": {}}) == "failed"
    assert zoo.outcome({"convert": {}, "train": {}, "converter": {}}) == "not run"


def test_parts_are_summed_and_functions_put_back(zoo: Any) -> None:
    import time

    from zoo_stages import Parts

    module = type(sys)("module")
    module.work = original = lambda seconds: time.sleep(seconds)
    parts = Parts()
    with parts.watch(work=(module, "work"), other=(module, "there_is_none")):
        module.work(0.02)
        module.work(0.03)
    assert module.work is original
    assert 0.05 <= parts.seconds["work"]["wall_s"] < 2.0
    assert set(parts.seconds) == {"work"}


def test_finished_sides_are_not_run_again(zoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo_members import TINY

    ran = []

    def run_child(which: Any, side: str, path: Path) -> str | None:
        ran.append(side)
        if side == "convert":
            return "exit code -11"
        path.write_text(json.dumps({"stages": {}, "finished": True}))
        return None

    monkeypatch.setattr(zoo, "run_child", run_child)
    for _ in range(2):
        found = {side: zoo.facts_of(TINY, side, tmp_path) for side in zoo.SIDES}
    assert ran == ["train", "convert", "converter"]
    assert found["convert"]["failed"]["message"] == "exit code -11"
    row = zoo.row_of(TINY, found)
    assert (row["outcome"], row["share_cpu"], row["memory_ratio"]) == ("failed", None, None)
    goals = zoo.goals_of([row])
    assert [goal.met for goal in goals] == [False]
    zoo.print_table([row])


def test_exponent_of_growth(zoo: Any) -> None:
    assert zoo.exponent([(1.0, 3.0), (10.0, 30.0), (100.0, 300.0)]) == pytest.approx(1.0)
    assert zoo.exponent([(1.0, 1.0), (2.0, 4.0), (8.0, 64.0)]) == pytest.approx(2.0)


def test_names_are_files_and_unknown_ones_are_refused(zoo: Any) -> None:
    from zoo_members import MEMBERS, member

    assert len({each.name for each in MEMBERS}) == len(MEMBERS)
    assert member("MobileNet_alpha0.25").arguments == {"alpha": 0.25}
    with pytest.raises(ValueError, match="Received: 'LeNet'"):
        member("LeNet")
