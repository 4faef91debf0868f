"""`export_c`: a converted model as C++ sources for a TFLite-Micro project."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from keras_compress.convert.artifact import Artifact
from keras_compress.convert.compressed import expand_content
from keras_compress.convert.files import make_folder, write_atomic
from keras_compress.core.outputs import check_not_read
from keras_compress.native import micro_sources
from keras_compress.runtime import c_source
from keras_compress.runtime.deployed import content_of
from keras_compress.runtime.target import TensorSpec, target
from keras_compress.tflite.bit_format import of_bits
from keras_compress.tflite.flatbuffer import Graph, read_model
from keras_compress.tflite.inspection import check_dense
from keras_compress.tflite.passes.store_bits import arena_of_bits

# TFLite-Micro keeps what it allocates on boundaries of this size.
_ALIGNMENT_BYTES = 16
# For a version of TFLite-Micro whose own structures are larger than those of the one that measured.
ARENA_MARGIN_BYTES = 1024
_MEASURED = """The model starts in
   {least} bytes, measured on a 64-bit host with the reference kernels; {margin} were added. On a 32-bit device
   pointers take half as much; optimised kernels (CMSIS-NN and the like) can need more for scratch: MicroInterpreter's
   arena_used_bytes() tells it there."""
_COMPILE_SECONDS = 120.0
_FLAGS = ("-std=c++17", "-Wall", "-Werror", "-c")
_SHOWN_LINES = 10
# Of the files written: the array, what is known of it, and its operators.
_ENDINGS = ("_data.cc", "_data.h", "_ops.h")


def export_c(
    model: Artifact | bytes | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    name: str = "model",
    arena_bytes: int | None = None,
    compile_with: str | None = None,
) -> list[Path]:
    """Write a model as C++17 sources for TFLite-Micro: `<name>_data.cc`, `<name>_data.h` and `<name>_ops.h`.

    `<name>_data.h`, for C too, has the array, its size, `<NAME>_ARENA_BYTES`, and number, elements, scale and zero
    point of inputs and outputs. `<name>_ops.h`, for those that have TFLite-Micro's headers, has a resolver for exactly
    the operators used, and the function that adds them. Weights stored as bits (`weights_storage="bits"`) are read by
    operators whose sources are written as well: `kc_binary_tflm.cc`, to be compiled with the others, and its headers.

    Args:
        model: What `convert` returned, the bytes of a `.tflite` file, or its path.
        folder: Made if it is not there. Either all files are written or, when something fails, none.
        name: A C identifier that starts with a letter.
        arena_bytes: Size of the arena, in bytes, rounded up to 16; the model is then not run. By default the least in
            which it starts here, on a 64-bit host with the reference kernels, and 1,024 bytes. Optimised kernels, such
            as CMSIS-NN's, can need more for scratch.
        compile_with: A C++ compiler, with options as in a shell, such as
            `"arm-none-eabi-g++ -mcpu=cortex-m4 -mthumb"`, that must take the sources before they are written.

    Returns:
        Paths of the files written.

    Raises:
        ValueError: For a bad name or size, a file that is not a `.tflite` file, an operator that TFLite-Micro lacks, a
            model that would be overwritten.
        RuntimeError: If the arena cannot be measured here, the compiler is missing, refuses the sources or hangs.
        RuntimeCrash: If the runtime dies of the file.
        RuntimeTimeout: If it does not answer.
        OSError: If the files cannot be written.
    """
    _check(name, arena_bytes)
    if isinstance(model, (str, os.PathLike)):
        for ending in _ENDINGS:
            check_not_read(Path(folder) / f"{name}{ending}", {"model": model}, "what is written")
    content, label = content_of(model)
    check_dense(content, label)
    try:
        graph = Graph(read_model(content))
        methods = c_source.resolver_methods(graph.model)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error
    arena = _arena(content, label, arena_bytes)
    header = c_source.data_header(name, content, arena, _specs(graph, "inputs"), _specs(graph, "outputs"))
    sources = (c_source.data_source(name, content), header, c_source.ops_header(name, methods))
    files = {f"{name}{ending}": source for ending, source in zip(_ENDINGS, sources, strict=True)}
    if any(method.startswith("AddCustom:") for method in methods):
        files |= micro_sources()
    if compile_with is not None:
        _compile(compile_with, files, f"{name}{_ENDINGS[0]}")
    return _write(make_folder(folder), files)


def _check(name: str, arena_bytes: int | None) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ValueError(f"Expected `name` as a C identifier that starts with a letter. Received: name={name!r}")
    if arena_bytes is not None and not (type(arena_bytes) is int and 0 < arena_bytes < 2**31):
        raise ValueError(f"Expected `arena_bytes` from 1 to 2**31 - 1. Received: arena_bytes={arena_bytes!r}")


def _arena(content: bytes, label: str, given: int | None) -> tuple[int, str]:
    """Bytes of the arena, and a comment that says where they come from."""
    if given is not None:
        return _rounded_up(given), "As given to the export."
    runner = target("tflm")
    reason = runner.available()
    if reason is not None:
        raise RuntimeError(f"Expected tflite-micro, to measure the arena, or `arena_bytes`. Received: {reason}")
    # No runtime here has the operators that read bits: the stock ones, and what those take beside them.
    plain = expand_content(content) if of_bits(content) else content
    least = runner.memory(plain, label)["arena_minimum_bytes"] + arena_of_bits(Graph(read_model(content)))
    return _rounded_up(least + ARENA_MARGIN_BYTES), _MEASURED.format(least=least, margin=ARENA_MARGIN_BYTES)


def _rounded_up(count: int) -> int:
    return -(-count // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def _specs(graph: Graph, kind: str) -> list[TensorSpec]:
    """Inputs or outputs in the file's order, which is that of TFLite-Micro's `input(i)` and `output(i)`."""
    signature = next((s for s in graph.model.signatureDefs or () if s.subgraphIndex == 0), None)
    entries = () if signature is None else getattr(signature, kind) or ()
    names = {entry.tensorIndex: (entry.name or b"").decode("utf-8", "replace") for entry in entries}
    specs = []
    for tensor in getattr(graph, kind):
        scales, zero_point = graph.quantization(tensor) or ((), 0)
        numbers = tuple(float(scale) for scale in scales)
        common = (graph.name(tensor), names.get(tensor, ""), graph.shape(tensor), graph.dtype(tensor))
        specs.append(TensorSpec(*common, numbers, (zero_point,) * len(numbers), 0))
    return specs


def _write(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Writes all files; when one fails, puts back what was there before."""
    before: dict[Path, bytes | None] = {}
    try:
        for name, content in files.items():
            path = folder / name
            before[path] = path.read_bytes() if path.is_file() else None
            write_atomic(path, content)
    except BaseException:
        for path, old in before.items():
            # The first failure is the one to report.
            with contextlib.suppress(OSError):
                if old is not None:
                    write_atomic(path, old)
                elif path.is_file():
                    path.unlink()
        raise
    return list(before)


def _compile(command: str, files: Mapping[str, bytes], source: str) -> None:
    words = shlex.split(command)
    program = shutil.which(words[0]) if words else None
    if program is None:
        raise RuntimeError(
            f"Expected a C++ compiler that is installed. Received: compile_with={command!r}. arm-none-eabi-g++ is in "
            "Debian's package gcc-arm-none-eabi (apt install gcc-arm-none-eabi), or Arm's GNU toolchain; no Python "
            "package has it"
        )
    with tempfile.TemporaryDirectory(prefix="keras_compress-") as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        code, said = _run([os.path.abspath(program), *words[1:], *_FLAGS, source, "-o", "model.o"], folder)
    if code is None:
        raise RuntimeError(f"Expected {words[0]} to end in {_COMPILE_SECONDS:g} s. Received: no end")
    if code != 0:
        shown = "\n".join(said.splitlines()[:_SHOWN_LINES])
        raise RuntimeError(f"Expected sources that {words[0]} takes. Received: exit code {code}: {shown}")


def _run(command: list[str], folder: str) -> tuple[int | None, str]:
    """Exit code, `None` past the time limit, and what was printed."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
        try:
            code: int | None = process.wait(_COMPILE_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
        said.seek(0)
        return code, said.read().decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        # Its group: the compiler proper is a child of the program that was started.
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
