"""How the library is found, compiled and refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

import keras_compress as kc
import keras_compress.native.library as library
from keras_compress.runtime.target import target
from keras_compress.testing.binary_layers import BinaryLayer


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no library named by the environment."""
    monkeypatch.setenv(library.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(library.LIBRARY_VARIABLE, raising=False)
    return tmp_path / "cache"


def fake_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch, lines: str) -> None:
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{lines}\n", encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))


def test_sources_are_in_the_package() -> None:
    names = {path.name for path in library.sources()}
    assert {"delegate.cc", "layer.cc", "path_avx2.cc", "path_avx512.cc", "path_neon.cc", "path_portable.cc"} <= names
    assert (Path(library.__file__).parent / "paths.h").is_file()


def test_it_is_compiled_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = tmp_path / "count"
    # The last argument is the file to make.
    fake_compiler(tmp_path, monkeypatch, f'echo x >> {count}; for last; do :; done; echo made > "$last"')
    first, again = library.library_path(), library.library_path()
    assert first == again
    assert first.read_text() == "made\n"
    assert os.listdir(cache) == [first.name]
    assert count.read_text() == "x\n"


def test_another_compiler_makes_another_file(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = 'for last; do :; done; echo made > "$last"'
    fake_compiler(tmp_path, monkeypatch, lines)
    first = library.library_path()
    os.utime(tmp_path / "compiler", (1, 1))
    assert library.library_path() != first


def test_a_system_without_a_static_library(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = 'case "$*" in *-static-*) exit 1;; esac; for last; do :; done; echo made > "$last"'
    fake_compiler(tmp_path, monkeypatch, lines)
    assert library.library_path().read_text() == "made\n"


def test_what_a_compiler_says_is_told(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler(tmp_path, monkeypatch, "echo no such instruction >&2; exit 3")
    with pytest.raises(RuntimeError, match=r"(?s)compile kc_binary. Received: exit code 3.*no such instruction"):
        library.library_path()
    assert os.listdir(cache) == []


def test_a_compiler_that_takes_too_long(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = tmp_path / "late"
    # The compiler proper is another process, which holds what the driver's output goes to.
    fake_compiler(tmp_path, monkeypatch, f"(sleep 2; echo late > {late}) & wait")
    monkeypatch.setattr(library, "COMPILE_SECONDS", 0.5)
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match=r"compile kc_binary. Received: .*timed out"):
        library.library_path()
    assert os.listdir(cache) == []
    time.sleep(max(0.0, begin + 2.5 - time.monotonic()))
    assert not late.exists()


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes another user own it; who cannot do that becomes another one."""
    if os.geteuid() == 0:
        os.chown(path, 4242, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4242)


def test_what_others_can_write_is_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler(tmp_path, monkeypatch, 'for last; do :; done; echo made > "$last"')
    made = library.library_path()
    assert cache.stat().st_mode & 0o777 == 0o700
    cache.chmod(0o777)
    with pytest.raises(RuntimeError, match=rf"{library.CACHE_VARIABLE} names.*Received: .*cache, .*drwxrwxrwx"):
        library.library_path()
    # As /tmp is: the files of others are safe there, and those that others made are not ours.
    cache.chmod(0o1777)
    assert library.library_path() == made
    made.chmod(0o666)
    with pytest.raises(RuntimeError, match=rf"Received: .*{made.name}, .*-rw-rw-rw-"):
        library.library_path()
    made.chmod(0o644)
    give_away(made, monkeypatch)
    with pytest.raises(RuntimeError, match=r"Expected what kc_binary is loaded from to be this user's"):
        library.library_path()


def test_no_compiler(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    content = BinaryLayer().content()
    with pytest.raises(RuntimeError, match=r"litert.*cannot be measured here: Expected a C\+\+ compiler.*apt install"):
        kc.measure(content, delegate="kc_binary")
    with pytest.raises(RuntimeError, match="Expected a C"):
        target("litert", delegate="kc_binary").run(content, [BinaryLayer().values()])


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_compiler(tmp_path, monkeypatch, "exit 0")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(library.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    monkeypatch.delenv(library.LIBRARY_VARIABLE, raising=False)
    with pytest.raises(RuntimeError, match=library.CACHE_VARIABLE):
        library.library_path()


def test_a_named_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.LIBRARY_VARIABLE, str(tmp_path / "none.so"))
    with pytest.raises(RuntimeError, match=f"{library.LIBRARY_VARIABLE}. Received: .*none.so, which is no file"):
        library.library_path()
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(b"\x7fELF and no more")
    monkeypatch.setenv(library.LIBRARY_VARIABLE, str(damaged))
    assert library.library_path() == damaged
    with pytest.raises(RuntimeError, match=r"Expected a delegate for this computer. Received: .*damaged.so"):
        kc.measure(BinaryLayer().content(), delegate="kc_binary")


def test_a_library_for_another_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = shutil.which("aarch64-linux-gnu-g++")
    if compiler is None:
        pytest.skip("no cross compiler for AArch64")
    other = tmp_path / "other.so"
    empty = tmp_path / "empty.cc"
    empty.write_text("")
    subprocess.run([compiler, "-shared", "-nostdlib", str(empty), "-o", str(other)], check=True)
    monkeypatch.setenv(library.LIBRARY_VARIABLE, str(other))
    with pytest.raises(RuntimeError, match=r"Expected a delegate for this computer. Received: .*other.so"):
        kc.measure(BinaryLayer().content(), delegate="kc_binary")


def test_a_library_without_the_delegate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    other, empty = tmp_path / "other.so", tmp_path / "empty.cc"
    empty.write_text("")
    subprocess.run([compiler, "-shared", str(empty), "-o", str(other)], check=True)
    monkeypatch.setenv(library.LIBRARY_VARIABLE, str(other))
    with pytest.raises(RuntimeError, match=r"Expected a delegate for this computer. Received: .*other.so"):
        kc.measure(BinaryLayer().content(), delegate="kc_binary")


def test_names_that_are_none() -> None:
    content = BinaryLayer().content()
    with pytest.raises(ValueError, match="Expected a delegate out of kc_binary. Received: delegate='binary'"):
        kc.measure(content, delegate="binary")
    with pytest.raises(ValueError, match="Expected target='litert' for delegate='kc_binary'. Received: target='tflm'"):
        kc.measure(content, delegate="kc_binary", target="tflm")
    with pytest.raises(ValueError, match="Expected kernels='xnnpack' beside delegate='kc_binary'"):
        target("litert", delegate="kc_binary", kernels="reference")
    with pytest.raises(ValueError, match="Received: delegate_options.*without a delegate"):
        target("litert", delegate_options={"path": "portable"})
