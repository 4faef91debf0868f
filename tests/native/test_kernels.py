"""The C++ kernels by themselves: against plain loops, under sanitizers, and on AArch64 the same integers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import keras_compress.native.library as library

DRIVER, FUZZ = (Path(__file__).with_name(name) for name in ("driver.cc", "fuzz.cc"))
FOLDER = Path(library.__file__).parent
FLAGS = ["-std=c++17", "-ffp-contract=off", "-pthread", "-Wall", "-Wextra", "-Werror", f"-I{FOLDER}"]
SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
CASES, FUZZED = "80", "800"
# What speaks with LiteRT; the driver needs none of it.
DELEGATE = {"delegate.cc", "graph.cc"}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[:2000] + done.stderr[:3000]
    return done


def compiled(compiler: str, target: Path, *flags: str) -> Path:
    """The driver with the kernels in it; a warning fails."""
    kernels = [str(path) for path in library.sources() if path.name not in DELEGATE]
    run(compiler, *FLAGS, *flags, *kernels, str(DRIVER), "-o", str(target))
    return target


def checksums(*command: str) -> tuple[list[str], str]:
    done = run(*command, CASES)
    lines = done.stdout.split("\n")[:-1]
    assert len(lines) == int(CASES)
    return lines, done.stderr


def a_compiler() -> str:
    found = shutil.which("g++") or shutil.which("clang++")
    if found is None:
        pytest.skip("no C++ compiler")
    return found


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the whole library compiled under sanitizers; a warning fails."""
    folder = tmp_path_factory.mktemp("objects")
    for path in library.sources():
        run(a_compiler(), *FLAGS, *SANITIZERS, "-c", str(path), "-o", str(folder / f"{path.stem}.o"))
    return folder


def linked(objects: Path, source: Path, *flags: str) -> str:
    made = objects / source.stem
    parts = [str(path) for path in sorted(objects.glob("*.o"))]
    run(a_compiler(), *FLAGS, *SANITIZERS, *flags, *parts, str(source), "-o", str(made))
    return str(made)


@pytest.fixture(scope="module")
def expected(objects: Path) -> list[str]:
    lines, said = checksums(linked(objects, DRIVER))
    assert "portable" in said
    return lines


def test_graphs_with_something_wrong_in_them(objects: Path) -> None:
    """The fuzzer's target on random bytes: what is taken is right, and nothing is read that is not there."""
    said = run(linked(objects, FUZZ, "-DKC_ALONE"), FUZZED).stdout
    found = re.fullmatch(r"\d+ cases, (\d+) operators taken, (\d+) outputs compared\n", said)
    assert found is not None, said
    assert int(found[1]) > 100
    assert int(found[2]) > 400


def test_every_path_gives_the_integers_of_plain_loops(expected: list[str]) -> None:
    # The driver compares; it would fail by itself, or in a sanitizer.
    assert len(set(expected)) == len(expected)


def test_neon_gives_the_same_integers(expected: list[str], tmp_path: Path) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("no cross compiler for AArch64, or no qemu-user")
    lines, said = checksums(emulator, str(compiled(compiler, tmp_path / "driver", "-O1", "-static")))
    assert "neon" in said
    assert lines == expected
