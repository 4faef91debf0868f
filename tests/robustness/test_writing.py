"""Disks, folders and neighbours that get in the way of a file: clear errors, and nothing lost."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.cli import commands as cli_commands
from keras_compress.cli import main as cli
from keras_compress.convert import files
from keras_compress.convert.files import make_folder, save_keras_atomic, write_atomic
from keras_compress.convert.keras_file import load_keras


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(40, activation="relu"), keras.layers.Dense(3)])


@pytest.fixture(scope="module")
def folder(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and an older file for each that the tests write."""
    made = tmp_path_factory.mktemp("files")
    model.save(made / "intact.keras")
    x = np.random.default_rng(0).random((8, 6), np.float32)
    np.savez(made / "data.npz", x=x, y=np.arange(8) % 3)
    return made


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may become longer than 1,000 bytes: what a disk with as much room left does, as an error too.

    Only around the call that is tried: pytest's own output may be a file as well.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_full_disk_leaves_the_old_keras_file(model: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="Could not write .*model.keras: ") as caught, full_disk():
        save_keras_atomic(model, path)
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["model.keras"]


def test_a_full_disk_and_the_command_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    # The converter's own files are not what this is about.
    monkeypatch.setattr("keras_compress.cli.commands.convert_model", lambda *a, **k: _Converted())
    with full_disk():
        status = cli.main(["kc", "convert", f"--model={folder}/intact.keras", f"--out={path}", "--mode=float32"])
    assert status == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("Error: Could not write")
    assert "model.tflite: File too large" in error
    assert len(error.splitlines()) == 1
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["model.tflite"]


def test_a_full_disk_does_not_cost_the_training(
    model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, room = tmp_path / "full" / "model.keras", tmp_path / "room"
    room.mkdir()
    path.parent.mkdir()
    path.write_bytes(b"old")
    monkeypatch.setattr(tempfile, "tempdir", str(room))

    def save(trained: keras.Model, where: Path) -> None:
        if where == path:
            raise OSError(errno.ENOSPC, f"Could not write {where}: No space left on device")
        save_keras_atomic(trained, where)

    monkeypatch.setattr(cli_commands, "save_keras_atomic", save)
    with pytest.raises(OSError, match="No space left on device. The trained model was saved as .*model.keras"):
        cli_commands._save_trained(model, path)
    (saved,) = room.rglob("model.keras")
    np.testing.assert_array_equal(load_keras(saved).get_weights()[0], model.get_weights()[0])
    assert path.read_bytes() == b"old"


class _Converted:
    float_ops, notes = (), ()

    def save(self, path: Path) -> None:
        write_atomic(path, bytes(5000))


def test_a_device_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    opened = open

    def on_full_device(name: Path, mode: str) -> object:
        opened(name, mode).close()
        return opened("/dev/full", "wb")

    monkeypatch.setattr(files, "open", on_full_device, raising=False)
    with pytest.raises(OSError, match="Could not write .*model.tflite: No space left on device"):
        write_atomic(path, bytes(100_000))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["model.tflite"]


def _convert(folder: Path, out: Path) -> list[str]:
    return ["convert", f"--model={folder}/intact.keras", "--mode=float32", f"--out={out}"]


def _compress(folder: Path, out: Path) -> list[str]:
    return ["compress", f"--model={folder}/intact.keras", f"--data={folder}/data.npz", "--recipe=ptq", f"--out={out}"]


@pytest.mark.parametrize("command", [_convert, _compress])
def test_places_that_cannot_be_written(
    command: Callable[[Path, Path], list[str]], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file where a folder should be, and a folder where a file should be: refused before any work."""
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "model.tflite").mkdir()
    out = tmp_path / "file" / "model.tflite"
    began = time.monotonic()
    assert cli.main(["kc", *command(folder, out)]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("Error: Could not write to the folder")
    assert str(tmp_path / "file") in error
    assert time.monotonic() - began < 30
    if command is _convert:
        assert cli.main(["kc", *command(folder, tmp_path / "model.tflite")]) == 1
        assert "Expected --out as a file such as model.tflite. Received: the folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file", "model.tflite"]


def test_a_missing_folder_is_made_by_commands_and_refused_by_functions(
    folder: Path, model: keras.Model, tmp_path: Path
) -> None:
    assert cli.main(["kc", *_convert(folder, tmp_path / "new" / "deep" / "model.tflite")]) == 0
    content = (tmp_path / "new" / "deep" / "model.tflite").read_bytes()
    assert kc.inspect_tflite(content).weight_payload_bytes == 4 * (6 * 40 + 40 * 3)
    with pytest.raises(FileNotFoundError, match="Could not write .*none/m.keras: its folder does not exist"):
        save_keras_atomic(model, tmp_path / "none" / "m.keras")
    with pytest.raises(IsADirectoryError, match="Could not write .*new: it is a folder"):
        write_atomic(tmp_path / "new", b"content")


def test_a_read_only_folder(tmp_path: Path) -> None:
    """In a process of its own that is not root, without TensorFlow."""
    (tmp_path / "locked").mkdir()
    old = tmp_path / "locked" / "model.tflite"
    old.write_bytes(b"old")
    (tmp_path / "locked").chmod(0o555)
    tmp_path.chmod(0o755)
    code = f"""
import os, runpy
made = runpy.run_path({files.__file__!r})
os.getuid() or os.setuid(65534)
for name, argument in (("write_atomic", {str(old)!r}), ("make_folder", {str(tmp_path / "locked")!r})):
    try:
        made[name](*[argument, b"new"][: 2 - (name == "make_folder")])
    except PermissionError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    (tmp_path / "locked").chmod(0o755)
    first, second = done.stdout.splitlines()
    assert "Could not write" in first
    assert "locked/model.tflite: Permission denied" in first
    assert "Could not write to the folder" in second
    assert old.read_bytes() == b"old"
    assert names(tmp_path / "locked") == ["model.tflite"]


def test_two_threads_saving_one_keras_file(model: keras.Model, tmp_path: Path) -> None:
    """Whoever comes last wins; every reader sees a whole file. Two processes: tests/convert/test_files.py."""
    import threading
    import zipfile

    path = tmp_path / "model.keras"
    failures: list[BaseException] = []

    def save() -> None:
        try:
            for _ in range(5):
                save_keras_atomic(model, path)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=save) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None
    assert failures == []
    assert names(tmp_path) == ["model.keras"]


def test_what_a_killed_process_left_is_removed_an_hour_later(tmp_path: Path) -> None:
    left, young, others = (tmp_path / n for n in (".keras_compress-1.tmp", ".keras_compress-2.keras", "notes.tmp"))
    for path in (left, young, others):
        path.write_bytes(b"half")
    os.utime(left, (time.time() - 7200,) * 2)
    os.utime(others, (0, 0))
    write_atomic(tmp_path / "model.tflite", b"new")
    assert names(tmp_path) == [".keras_compress-2.keras", "model.tflite", "notes.tmp"]


def test_a_probe_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="Could not write to the folder .*: No space left on device"):
        make_folder(tmp_path)
    assert names(tmp_path) == []
