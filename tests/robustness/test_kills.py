"""Eight runs of `convert` and `compress`, killed; 200 in benchmarks/kills.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from robustness import killing

import keras_compress


@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has TensorFlow in it, and waits with waitid")
def test_a_killed_run_leaves_the_old_file_or_the_new_one() -> None:
    # The package that is tested, from the checkout or installed.
    environment = {**os.environ, "PYTHONPATH": str(Path(keras_compress.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, killing.__file__, "6", "2", "0"],
        capture_output=True, text=True, timeout=240, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    *runs, end = map(json.loads, done.stdout.splitlines())
    assert [run["command"] for run in runs] == ["convert"] * 6 + ["compress"] * 2
    assert [run for run in runs if not run["whole"]] == []
    assert sum(not run["finished"] for run in runs) >= 4
    assert end["leftovers_after_cleaning"] == 0
