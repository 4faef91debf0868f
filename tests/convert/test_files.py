from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from keras_compress.convert import files
from keras_compress.convert.files import write_atomic

# Loads the module by path: a child that imports the package would wait for TensorFlow.
LOAD = f"import os, runpy, sys; write_atomic = runpy.run_path({files.__file__!r})['write_atomic']\n"


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    write_atomic(path, b"first")
    assert path.read_bytes() == b"first"
    write_atomic(str(path), b"second, longer")
    assert path.read_bytes() == b"second, longer"
    assert names(tmp_path) == ["model.tflite"]


def test_permissions_are_the_usual_ones_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    (tmp_path / "plain").write_bytes(b"")
    write_atomic(path, b"first")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    path.chmod(0o640)
    write_atomic(path, b"second")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "model.tflite"
    link.symlink_to(tmp_path / "real" / "target.tflite")
    write_atomic(link, b"through")
    assert link.is_symlink()
    assert (tmp_path / "real" / "target.tflite").read_bytes() == b"through"


def test_name_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    path = tmp_path / ("m" * 248 + ".tflite")
    write_atomic(path, b"x")
    assert path.read_bytes() == b"x"


def test_missing_folder(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "model.tflite"
    with pytest.raises(FileNotFoundError, match="Could not write .*missing/model.tflite: its folder does not exist"):
        write_atomic(path, b"x")
    assert names(tmp_path) == []


def test_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(NotADirectoryError, match="Could not write .*what should be its folder is a file"):
        write_atomic(tmp_path / "file" / "model.tflite", b"x")


def test_path_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").mkdir()
    with pytest.raises(IsADirectoryError, match="Could not write .*model.tflite: it is a folder"):
        write_atomic(tmp_path / "model.tflite", b"x")
    assert names(tmp_path) == ["model.tflite"]


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    # Root may write anywhere, so the child becomes somebody else first.
    code = LOAD + "os.getuid() or os.setuid(65534)\n"
    code += f"""
try:
    write_atomic({str(folder / "model.tflite")!r}, b"x")
except PermissionError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "Could not write" in done.stdout
    assert "locked/model.tflite: Permission denied" in done.stdout
    assert names(folder) == []


def test_disk_full_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.tflite"
    write_atomic(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="Could not write .*model.tflite: No space left on device") as caught:
        write_atomic(path, b"new")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["model.tflite"]


def test_write_that_really_stops_half_way(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    write_atomic(path, b"old")
    code = LOAD + "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    code += f"""
try:
    write_atomic({str(path)!r}, b"x" * 1_000_000)
except OSError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )  # fmt: skip
    assert "model.tflite: File too large" in done.stdout
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["model.tflite"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_interrupt_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    path = tmp_path / "model.tflite"
    write_atomic(path, b"old")

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, function, interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["model.tflite"]


def test_two_writers_leave_one_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    sizes = {b"a": 300_000, b"b": 200_000}
    writers = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                LOAD + f"for _ in range(60): write_atomic({str(path)!r}, {byte!r} * {size})",
            ]
        )
        for byte, size in sizes.items()
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            content = path.read_bytes()
            assert len(content) == sizes[content[:1]]
            assert content == content[:1] * len(content)
            seen.add(content[:1])
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen
    assert names(tmp_path) == ["model.tflite"]


def test_content_must_be_bytes(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Expected content as bytes. Received: str"):
        write_atomic(tmp_path / "model.tflite", "text")  # type: ignore[arg-type]
    assert names(tmp_path) == []
