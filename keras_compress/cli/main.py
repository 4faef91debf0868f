"""The command `keras-compress`. Light: Keras and TensorFlow are loaded by a command that runs, not by `--help`."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from keras_compress.cli.command import PROGRAM, Command
from keras_compress.cli.flags import COMMANDS
from keras_compress.core.descriptors import turned
from keras_compress.core.printable import printable

OK, REFUSED, USAGE, INTERRUPTED = 0, 1, 2, 130
# A message is one line; what a runtime or a converter says can be long.
_LONGEST_MESSAGE = 1000


# Group of entry points of packages that have methods: each names a module.
ENTRY_POINTS = "keras_compress.methods"


class UsageError(Exception):
    """A command line that cannot be understood."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Program and arguments; those of this process by default.

    Returns:
        0; 1 for a refused input, with one line on stderr; 2 for a command line that cannot be understood; 130 after
        Ctrl-C.
    """
    arguments = list(sys.argv if argv is None else argv)[1:]
    if not arguments or arguments[0] in ("help", "-h", "--help", "-help", "--helpfull", "--helpshort"):
        _print(overview())
        return OK if arguments else USAGE
    if arguments[0] == "--version":
        _print(_version())
        return OK
    try:
        name, values = parse(arguments)
    except UsageError as error:
        print(f"Error: {one_line(str(error))}", file=sys.stderr)
        return USAGE
    if values is None:
        _print(help_of(name))
        return OK
    return _run(COMMANDS[name], values)


def parse(arguments: Sequence[str]) -> tuple[str, flags.FlagValues | None]:
    """Sub-command and its flags; `None` for the flags where help was asked for.

    Raises:
        UsageError: For an unknown command or flag, a bad or missing value.
    """
    name, *rest = arguments
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        raise UsageError(f"Expected a command out of {known}. Received: {name!r} (try `{PROGRAM} --help`)")
    if any(argument in ("-h", "--help", "-help", "--helpfull", "--helpshort", "help") for argument in rest):
        return name, None
    values = COMMANDS[name].flags()
    hint = f"(try `{PROGRAM} {name} --help`)"
    try:
        left_over = values([name, *rest])[1:]
    except flags.Error as error:
        raise UsageError(f"{error} {hint}") from error
    if left_over:
        raise UsageError(f"Expected flags such as --out=folder. Received: {' '.join(left_over)} {hint}")
    missing = [f"--{flag}=" for flag in COMMANDS[name].required if not values[flag].value]
    if missing:
        raise UsageError(f"Expected {' and '.join(missing)} for `{PROGRAM} {name}`. Received: nothing for it {hint}")
    return name, values


def overview() -> str:
    """Text of `keras-compress --help`."""
    lines = [
        f"{PROGRAM}: prune, cluster and quantize Keras 3 models; convert, verify and measure them.",
        "",
        "Start here (a minute or two, nothing is downloaded):",
        f"  {PROGRAM} demo --out=out",
        "",
        "Commands:",
        *(f"  {name:<10} {command.summary}" for name, command in COMMANDS.items()),
        "",
        "Examples:",
        *(f"  {command.example}" for command in COMMANDS.values()),
        "",
        f"`{PROGRAM} COMMAND --help` tells the flags of a command.",
    ]
    return "\n".join(lines)


def help_of(name: str) -> str:
    """Text of `keras-compress NAME --help`."""
    import textwrap

    command, values = COMMANDS[name], COMMANDS[name].flags()
    details = command.details.format(recipes=", ".join(_recipe_names())) if "{" in command.details else command.details
    lines = [f"{PROGRAM} {name}: {command.summary}", "", textwrap.fill(details, 100), "", "Example:"]
    lines += [f"  {command.example}", "", "Flags:"]
    for flag in (values[key] for key in values):
        default = "" if flag.default is None or flag.default is False else f" Default: {flag.default}."
        if flag.name in command.required:
            default = " Required."
        lines.append(f"  --{flag.name}")
        lines.append(textwrap.indent(textwrap.fill(f"{flag.help}{default}", 94), "      "))
    return "\n".join(lines)


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _reader_gone()


def _reader_gone() -> None:
    # The reader, such as `head`, has gone; Python would complain again when it flushes at its end.
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _recipe_names() -> list[str]:
    from pathlib import Path

    # As `Recipe.names`, which would load Keras.
    return sorted(path.stem for path in (Path(__file__).parents[1] / "recipes").glob("*.json"))


def _version() -> str:
    import importlib.metadata

    try:
        return f"{PROGRAM} {importlib.metadata.version('keras-compress')}"
    except importlib.metadata.PackageNotFoundError:
        return f"{PROGRAM} (not installed)"


def _run(command: Command, values: flags.FlagValues) -> int:
    try:
        if not command.light:
            load_quietly()
            import_methods_of_others([name for listed in values["import"].value for name in listed.split(",")])
        module, function = command.runs.split(":")
        return int(getattr(importlib.import_module(module), function)(values) or OK)
    except KeyboardInterrupt:
        print("Interrupted: nothing was left half-written.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _reader_gone()
        return OK
    except Exception as error:
        if values.debug:
            traceback.print_exc()
        print(f"Error: {describe(error)}", file=sys.stderr)
        return REFUSED


def describe(error: BaseException) -> str:
    """An exception in one line; one that is no refusal names its class."""
    text = one_line(str(error))
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename is not None else ""
        return one_line(f"{error.strerror}{where}")
    expected = isinstance(error, (ValueError, TypeError, RuntimeError, OSError, ImportError)) and text
    return text if expected else f"{type(error).__name__}: {text} (--debug shows where)"


def one_line(text: str) -> str:
    """Text without line breaks and control characters, not longer than a few lines of a terminal.

    What is too long loses its middle: a message ends with what was received, and what may have been meant.
    """
    text = printable(re.sub(r"[\x00-\x20\x7f-\x9f]+", " ", text).strip())
    if len(text) <= _LONGEST_MESSAGE:
        return text
    end = _LONGEST_MESSAGE // 2
    return f"{text[: _LONGEST_MESSAGE - end - 5]} ... {text[-end:]}"


def import_methods_of_others(modules: Sequence[str]) -> None:
    """Import modules that register methods: those of installed packages' entry points, then those that were named.

    Args:
        modules: Names, also of modules in the current folder.

    Raises:
        ValueError: For a module that cannot be imported.
    """
    import importlib.metadata

    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        point.load()
    if modules:
        # A command that was installed does not look there by itself, as `python -m` does.
        sys.path.insert(0, os.getcwd())
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(f"Expected --import= as modules that Python finds. Received: {name} ({error})") from error


def load_quietly() -> None:
    """Import Keras, TensorFlow and the methods without the lines that TensorFlow writes when it starts."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with _captured_stderr():
        tensorflow: Any = importlib.import_module("tensorflow")
        # The first operation looks for devices, and logs what it does not find.
        tensorflow.constant(0)
        # So does the first program that XLA compiles, in TensorFlow 2.18.
        tensorflow.function(lambda: tensorflow.constant(0) + 1, jit_compile=True)()
        tensorflow.get_logger().setLevel("ERROR")
        # They enter what `.keras` files and recipes name into the registry.
        for package in ("pruning", "clustering", "quantizers", "core.schedule", "core.wrapper"):
            importlib.import_module(f"keras_compress.{package}")


@contextlib.contextmanager
def _captured_stderr() -> Iterator[None]:
    """Keeps back what is written to file descriptor 2, native code included; shows it if something fails."""
    with tempfile.TemporaryFile() as noise:
        try:
            with turned((2,), noise.fileno()):
                yield
        except Exception:
            noise.seek(0)
            sys.stderr.flush()
            os.write(2, noise.read())
            raise
