"""The C++ kernels by themselves: against plain loops, under sanitizers, and on AArch64 the same integers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import keras_compress.native.library as library

DRIVER = Path(__file__).with_name("driver.cc")
FOLDER = Path(library.__file__).parent
FLAGS = ["-std=c++17", "-ffp-contract=off", "-pthread", "-Wall", "-Wextra", "-Werror", f"-I{FOLDER}"]
CASES = "80"
# What speaks with LiteRT; the driver needs none of it.
DELEGATE = {"delegate.cc", "graph.cc"}


def compiled(compiler: str, target: Path, *flags: str) -> Path:
    """The driver with the kernels in it; a warning fails."""
    kernels = [str(path) for path in library.sources() if path.name not in DELEGATE]
    done = subprocess.run(
        [compiler, *FLAGS, *flags, *kernels, str(DRIVER), "-o", str(target)],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[:3000]
    return target


def checksums(*command: str) -> tuple[list[str], str]:
    done = subprocess.run([*command, CASES], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[:2000] + done.stderr[:3000]
    lines = done.stdout.split("\n")[:-1]
    assert len(lines) == int(CASES)
    return lines, done.stderr


def a_compiler() -> str:
    found = shutil.which("g++") or shutil.which("clang++")
    if found is None:
        pytest.skip("no C++ compiler")
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    compiler = a_compiler()
    made = tmp_path_factory.mktemp("driver") / "driver"
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    lines, said = checksums(str(compiled(compiler, made, *flags)))
    assert "portable" in said
    return lines


def test_the_delegate_compiles_without_warnings() -> None:
    sources = [str(FOLDER / name) for name in sorted(DELEGATE)]
    done = subprocess.run(
        [a_compiler(), *FLAGS, "-fsyntax-only", *sources], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[:3000]


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
