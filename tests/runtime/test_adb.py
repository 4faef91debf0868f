"""`measure_on_device`, with a stand-in for `adb` that replays what devices said."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

import keras_compress as kc
from keras_compress.cli import main as cli
from keras_compress.runtime.adb import FOLDER, adb_lines

FILE = Path(__file__).parents[2] / "tflite_models" / "digits_int8.tflite"
# Said by benchmark_model on a phone in 2020 (tensorflow/tensorflow#42507), and by a build that tells percentiles.
PHONE = """STARTING!
Log parameter values verbosely: [0]
Num threads: [4]
#threads used for CPU inference: [4]
Loaded model /data/local/tmp/espcn.tflite
The input model file size (MB): 0.004448
Initialized session in 0.855ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=15 first=49060 curr=33682 min=32825 max=49060 avg=34825.1 std=3930

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=32891 curr=33978 min=32641 max=34005 avg=33209.4 std=450

Inference timings in us: Init: 855, First inference: 49060, Warmup (avg): 34825.1, Inference (avg): 33209.4
Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory
Peak memory footprint (MB): init=0 overall=12.8672
"""
LATER = """INFO: Initialized session in 3.1ms.
INFO: count=812 first=640 curr=611 min=590 max=1210 avg=613.2 std=28 p5=600 median=611 p95=640
INFO: count=1627 first=614 curr=613 min=589 max=780 avg=612.5 std=9 p5=601 median=612 p95=626

INFO: Inference timings in us: Init: 3100, First inference: 640, Warmup (avg): 613.2, Inference (avg): 612.5
INFO: Memory footprint delta from the start of the tool (MB): init=2.5 overall=4.75
"""
# As tensorflow/core/util/stats_calculator.h has it where all values are the same.
ONE_RUN = """Initialized session in 0.855ms.
count=15 first=49060 curr=33682 min=32825 max=49060 avg=34825.1 std=3930

count=1 curr=12345

Inference timings in us: Init: 855, First inference: 49060, Warmup (avg): 34825.1, Inference (avg): 12345
"""
ADB = """#!{python}
import pathlib, sys
here = pathlib.Path(__file__).parent
arguments = sys.argv[1:]
with open(here / "calls", "a") as calls:
    calls.write(" ".join(arguments) + "\\n")
if arguments[0] == "-s":
    arguments = arguments[2:]
line = " ".join(arguments)
if line == "devices":
    print("List of devices attached\\n" + (here / "devices").read_text())
elif line.startswith("shell getprop"):
    told = {{"ro.product.model": "Pixel 9", "ro.board.platform": "zuma", "ro.build.version.release": "16"}}
    print(told[arguments[2]])
elif line.startswith("shell ls"):
    print((here / "there").read_text())
elif "--graph=" in line:
    print((here / "said").read_text())
    sys.exit(int((here / "code").read_text()))
"""


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "adb"
    program.write_text(ADB.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    told = {"devices": "R5CT\tdevice\n", "said": PHONE, "there": f"{FOLDER}/benchmark_model", "code": "0"}
    for name, text in told.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_figures_of_the_timed_runs(phone: Path) -> None:
    found = kc.measure_on_device(FILE, threads=4)
    assert (found.mean_ms, found.std_ms, found.min_ms, found.max_ms) == (33.2094, 0.45, 32.641, 34.005)
    assert (found.runs, found.init_ms, found.memory_bytes) == (50, 0.855, round(12.8672 * 1_048_576))
    assert found.device == "Pixel 9 (zuma, Android 16)"
    assert found.raw_bytes == FILE.stat().st_size
    assert "33.21 ms mean (std 0.45, 32.64 to 34.01, 50 runs; 4 threads, XNNPACK)" in repr(found)


def test_figures_of_later_builds(phone: Path) -> None:
    (phone / "said").write_text(LATER)
    found = kc.measure_on_device(FILE.read_bytes(), xnnpack=False)
    assert (found.mean_ms, found.runs, found.init_ms, found.memory_bytes) == (0.6125, 1627, 3.1, 4_980_736)
    assert found.delegate == "none (built-in kernels)"


def test_figures_of_one_run(phone: Path) -> None:
    (phone / "said").write_text(ONE_RUN)
    found = kc.measure_on_device(FILE, runs=1)
    assert (found.mean_ms, found.std_ms, found.min_ms, found.max_ms) == (12.345, 0.0, 12.345, 12.345)
    assert (found.runs, found.init_ms, found.memory_bytes) == (1, 0.855, None)


def test_commands_are_those_that_are_printed_and_the_file_is_removed(phone: Path) -> None:
    kc.measure_on_device(FILE, threads=2, runs=60)
    calls = [line.removeprefix("-s R5CT ") for line in (phone / "calls").read_text().splitlines()]
    printed = [line.removeprefix("adb ") for line in adb_lines("m.tflite", threads=2, runs=60)]
    assert printed[1] in calls
    assert calls[2].startswith("push ")
    assert any(line.startswith("shell rm -f") for line in calls)
    assert printed[1] == (
        f"shell {FOLDER}/benchmark_model --graph={FOLDER}/keras_compress.tflite --num_threads=2 --num_runs=60 "
        "--warmup_runs=10 --use_xnnpack=true"
    )


def test_the_program_is_copied_where_it_is_given(phone: Path) -> None:
    (phone / "there").write_text("")
    kc.measure_on_device(FILE, benchmark_model="android_aarch64_benchmark_model")
    calls = (phone / "calls").read_text()
    assert f"push android_aarch64_benchmark_model {FOLDER}/benchmark_model" in calls
    assert f"shell chmod 755 {FOLDER}/benchmark_model" in calls


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("devices", "", "an Android device that has USB debugging on .* Received: none"),
        ("devices", "R5CT\tunauthorized\n", r"Received: R5CT \(unauthorized\)"),
        ("devices", "A\tdevice\nB\tdevice\n", "Expected `serial` .* Received: A, B"),
        ("there", "", "android_aarch64_benchmark_model"),
        ("said", "Could not open model", "Expected figures of benchmark_model. Received: Could not open model"),
        ("code", "1", "Expected `adb shell .*benchmark_model` to work"),
    ],
)
def test_what_is_missing_is_said(phone: Path, name: str, text: str, message: str) -> None:
    (phone / name).write_text(text)
    with pytest.raises(RuntimeError, match=message):
        kc.measure_on_device(FILE)


def test_without_adb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="Expected `adb` on the PATH"):
        kc.measure_on_device(FILE)


def test_the_command(phone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["keras-compress", "measure", f"--model={FILE}", "--device=adb"]
    assert cli.main([*arguments, "--serial=R5CT"]) == 0
    assert "33.21 ms mean" in capsys.readouterr().out
    assert cli.main([*arguments, "--serial=other"]) == 1
    assert "Expected device 'other'. Received: R5CT (device)" in capsys.readouterr().err
    assert cli.main([*arguments, "--target=tflm"]) == 1
    assert cli.main([*arguments[:3], "--serial=R5CT"]) == 1
    assert "Expected --device=adb" in capsys.readouterr().err
