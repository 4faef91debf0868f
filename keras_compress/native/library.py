"""The compiled library: looked for, or made of the sources beside this file at its first use."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

# Delegates that the library holds.
NAMES = ("kc_binary",)
# A ready-made library: for computers without a compiler, or made with other flags.
LIBRARY_VARIABLE = "KC_BINARY_LIBRARY"
# Where what is compiled here is kept.
CACHE_VARIABLE = "KERAS_COMPRESS_CACHE"
COMPILERS = ("c++", "g++", "clang++")
# Products and sums are rounded one by one, as XNNPACK rounds them.
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden", "-pthread", "-shared")
# A C++ library in the process may be older than the compiler's; not all systems have a static one.
STATIC = ("-static-libstdc++", "-static-libgcc")
COMPILE_SECONDS = 300.0
_FOLDER = Path(__file__).parent


def sources() -> list[Path]:
    """The C++ files to compile, in order."""
    return sorted(_FOLDER.glob("*.cc"))


def micro_sources() -> dict[str, bytes]:
    """Name -> content of the files that TFLite-Micro needs for weights stored as bits."""
    paths = (_FOLDER / "kc_bits.h", *sorted((_FOLDER / "micro").glob("kc_*")))
    return {path.name: path.read_bytes() for path in paths}


def library_path() -> Path:
    """The library for this computer, compiled now if it never was.

    `KC_BINARY_LIBRARY` names a ready-made one. What is compiled is kept in `KERAS_COMPRESS_CACHE`, by default
    `keras_compress` in the user's cache folder, under a name that follows from sources, flags and compiler. It is
    loaded into the process: a folder or file there that another user owns or can exchange is refused.

    Raises:
        RuntimeError: There is no compiler, it fails or takes more than `COMPILE_SECONDS`, the named library is not
            there, or others can write what is kept.
    """
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise RuntimeError(f"Expected a library at {LIBRARY_VARIABLE}. Received: {named}, which is no file")
        return Path(named)
    if os.name == "nt":
        raise RuntimeError(
            f"Expected Linux or macOS to compile kc_binary on, or a library named by {LIBRARY_VARIABLE}. "
            "Received: Windows"
        )
    compiler = _compiler()
    path = _cache_folder() / f"kc_binary-{_fingerprint(compiler)}.so"
    _make_folder(path.parent)
    if not path.is_file():
        _compile(compiler, path)
    _refuse_strangers(path)
    return path


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _no_folder(error) from error
    _refuse_strangers(folder)


def _no_folder(error: OSError) -> RuntimeError:
    return RuntimeError(
        f"Expected a folder that kc_binary can be kept in ({CACHE_VARIABLE} names another). Received: {error}"
    )


def _refuse_strangers(path: Path) -> None:
    """Raises where another user than this one and root owns the file or folder, or the link to it, or can change it."""
    status = path.stat()
    owners = {status.st_uid, path.lstat().st_uid}
    # In a folder like /tmp, with the sticky bit, all may add files, and none may exchange those of others.
    open_to_all = bool(status.st_mode & stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
    if owners <= {os.geteuid(), 0} and not open_to_all:
        return
    raise RuntimeError(
        f"Expected what kc_binary is loaded from to be this user's, for no one else to write ({CACHE_VARIABLE} names "
        f"another folder). Received: {path}, of user {status.st_uid}, with mode {stat.filemode(status.st_mode)}"
    )


def _compiler() -> str:
    for name in filter(None, (os.environ.get("CXX"), *COMPILERS)):
        found = shutil.which(name)
        if found:
            return found
    raise RuntimeError(
        f"Expected a C++ compiler ({', '.join(COMPILERS)}, or CXX) to make kc_binary with, or a library named by "
        f"{LIBRARY_VARIABLE}. Received: neither; on Debian and Ubuntu `apt install g++` installs one"
    )


def _cache_folder() -> Path:
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "keras_compress"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keras_compress"


def _fingerprint(compiler: str) -> str:
    """Of all that the library follows from; a compiler that was updated has another time."""
    status = os.stat(compiler)
    parts = [*FLAGS, *STATIC, compiler, str(status.st_mtime_ns), platform.machine(), sys.platform]
    found = hashlib.sha256("\0".join(parts).encode())
    for path in sorted([*sources(), *_FOLDER.glob("*.h")]):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def _compile(compiler: str, path: Path) -> None:
    try:
        handle, made = tempfile.mkstemp(suffix=".so", prefix="making-", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise _no_folder(error) from error
    try:
        done = _run(compiler, made, STATIC)
        if done.returncode:
            done = _run(compiler, made, ())
        if done.returncode:
            raise RuntimeError(
                f"Expected {compiler} to compile kc_binary. Received: exit code {done.returncode}\n"
                + "\n".join(done.stderr.strip().splitlines()[:10])
            )
        os.chmod(made, 0o755)
        # Two processes may compile at once: each puts a whole library in place.
        os.replace(made, path)
    finally:
        Path(made).unlink(missing_ok=True)


def _run(compiler: str, made: str, more: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    command = [compiler, *FLAGS, *more, *map(str, sources()), "-o", made]
    try:
        # A compiler starts others: a session of their own is what can be ended as one.
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            try:
                said, errors = process.communicate(timeout=COMPILE_SECONDS)
            except BaseException:  # of Ctrl-C too, which does not reach another session
                _kill_session(process)
                raise
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"Expected {compiler} to compile kc_binary. Received: {error}") from error
    return subprocess.CompletedProcess(command, process.returncode, said, errors)


def _kill_session(process: subprocess.Popen[str]) -> None:
    # Only one that ended by itself in the meantime is not there.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
