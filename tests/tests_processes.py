"""Python programs in processes of their own that need not import TensorFlow first: copies of one that has.

Starting it takes longer than most commands do. Run as a program, this file imports everything and makes a copy of
itself for each line that it reads.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import keras_compress

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@contextmanager
def python_copies(scratch: Path) -> Iterator[Run]:
    """`run(folder, *arguments, limit_s=600)`: what `python *arguments` does in a folder.

    Args:
        scratch: An empty folder, for what the programs print.

    Raises:
        TimeoutError: By `run`, for a program that takes longer.
    """
    package = str(Path(keras_compress.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, __file__],
        env={**os.environ, "PYTHONPATH": package},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def run(folder: Path, *arguments: str, limit_s: float = 600.0) -> subprocess.CompletedProcess[str]:
            files = [str(scratch / name) for name in ("stdout", "stderr")]
            print(json.dumps([str(folder), list(arguments), *files]), file=process.stdin, flush=True)
            if not select.select([process.stdout], [], [], limit_s)[0]:
                process.kill()
                raise TimeoutError(f"{arguments} took more than {limit_s} s")
            code = int(process.stdout.readline())
            return subprocess.CompletedProcess(arguments, code, *(Path(file).read_text() for file in files))

        try:
            yield run
        finally:
            process.kill()


def _become(folder: str, arguments: list[str]) -> None:
    """What Python's own start does with a command line."""
    import runpy

    os.chdir(folder)
    if arguments[0] == "-m":
        sys.path.insert(0, folder)
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(folder, arguments[0]).parent))
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def _in_a_copy(folder: str, arguments: list[str], stdout: str, stderr: str) -> int:
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, file in ((1, stdout), (2, stderr)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        _become(folder, arguments)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    # No operation is run here: TensorFlow's threads would not survive a fork.
    import h5py  # noqa: F401
    import tensorflow  # noqa: F401
    from tests_xla import xla

    import keras_compress.cli.commands
    import keras_compress.demo.demo  # noqa: F401

    xla.turn(False)
    del sys.path[0]  # this file's folder
    for line in sys.stdin:
        print(_in_a_copy(*json.loads(line)), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    main()
