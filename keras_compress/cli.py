"""The command `keras-compress`. Light: Keras and TensorFlow are loaded by a command that runs, not by `--help`."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from absl import flags

PROGRAM = "keras-compress"
OK, REFUSED, USAGE, INTERRUPTED = 0, 1, 2, 130
# A message is one line; what a runtime or a converter says can be long.
_LONGEST_MESSAGE = 1000


@dataclass(frozen=True)
class Command:
    """One sub-command.

    Attributes:
        summary: What it does, in a line.
        details: What to know before using it.
        example: A command line that works.
        runs: `"module:function"` that does it, given the parsed flags.
        define: Defines its flags.
        required: Flags that must be given.
    """

    summary: str
    details: str
    example: str
    runs: str
    define: Callable[[flags.FlagValues], None]
    required: tuple[str, ...] = ()


def _demo_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("out", "out", "Folder for the models and report.json; made if it is not there.", flag_values=values)
    flags.DEFINE_enum("dataset", "digits", ["digits", "fashion_mnist"], "Images to train and test on.", flag_values=values)
    flags.DEFINE_enum(
        "model", None, ["digits_cnn", "lenet5", "lenet300", "resnet20"],
        "Architecture; by default digits_cnn for digits and lenet5 for fashion_mnist.", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer("seed", 0, "Same seed, same machine: same files.", lower_bound=0, flag_values=values)
    flags.DEFINE_list(
        "epochs", None, "Epochs of the float model and of each stage (prune, cluster, quantize), such as 20,6,3,3; one "
        "number holds for all four.", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer("batch_size", None, "Images in a training batch.", lower_bound=1, flag_values=values)


def _model_flag(values: flags.FlagValues, text: str) -> None:
    flags.DEFINE_string("model", None, text, flag_values=values)


def _data_flag(values: flags.FlagValues, use: str) -> None:
    text = f"{use} An .npz file with x_train, y_train, x_test, y_test, or x, y."
    flags.DEFINE_string("data", None, text, flag_values=values)


def _conversion_flags(values: flags.FlagValues) -> None:
    modes = ["int8", "16x8", "dynamic", "float16", "float32"]
    flags.DEFINE_enum("target", "litert", ["litert", "tflm"], "Runtime: phones, or microcontrollers.", flag_values=values)
    flags.DEFINE_enum("mode", None, modes, "Arithmetic; by default what the model was trained for.", flag_values=values)
    flags.DEFINE_enum(
        "io", "float32", ["float32", "int8", "uint8", "int16"], "Type of inputs and outputs.", flag_values=values
    )


def _compress_flags(values: flags.FlagValues) -> None:
    _model_flag(values, "Trained Keras model, a .keras file.")
    _data_flag(values, "Data to train with; x_test, y_test to measure with.")
    flags.DEFINE_string("recipe", "pcqat", "Name of a packaged recipe, or a JSON file.", flag_values=values)
    flags.DEFINE_string("out", "out", "Folder for the compressed models and report.json.", flag_values=values)
    flags.DEFINE_integer("batch_size", 64, "Samples in a training batch.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Seed of the shuffling.", lower_bound=0, flag_values=values)


def _convert_flags(values: flags.FlagValues) -> None:
    _model_flag(values, "Keras model, a .keras file, plain or compressed by this library.")
    flags.DEFINE_string("out", None, "The .tflite file to write.", flag_values=values)
    _data_flag(values, "Real data to find the ranges of activations with, for int8 and 16x8 of a plain model.")
    _conversion_flags(values)


def _measure_flags(values: flags.FlagValues) -> None:
    _model_flag(values, "The .tflite file.")
    flags.DEFINE_string("baseline", None, "Another .tflite file, timed in turns with it.", flag_values=values)
    _data_flag(values, "Test data, for the accuracy.")
    flags.DEFINE_enum("target", "litert", ["litert", "tflm"], "Runtime.", flag_values=values)
    flags.DEFINE_integer("threads", 1, "Threads of LiteRT.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("runs", 50, "Timed invocations, at least 50.", lower_bound=50, flag_values=values)


def _verify_flags(values: flags.FlagValues) -> None:
    _model_flag(values, "Keras model, a .keras file, plain or compressed by this library.")
    _data_flag(values, "Real data to run it on.")
    flags.DEFINE_enum("target", "litert", ["litert", "tflm"], "Runtime.", flag_values=values)


def _report_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("out", "out", "Folder with a report.json.", flag_values=values)


def _inspect_flags(values: flags.FlagValues) -> None:
    _model_flag(values, "A .tflite or .keras file.")


COMMANDS: dict[str, Command] = {
    "demo": Command(
        "Train, compress, convert, verify and measure a small model on real images.",
        "Trains a float model, prunes, clusters and quantizes it (recipe pcqat), converts each stage to .tflite, checks "
        "the int8 file operator by operator against its simulation, and prints one table. About a minute or two for "
        "digits; fashion_mnist takes longer.",
        f"{PROGRAM} demo --out=out",
        "keras_compress.demo:run",
        _demo_flags,
    ),
    "compress": Command(
        "Compress your own .keras model by a recipe.",
        "Trains each stage of the recipe on your data, and writes model_compressed.keras, model_compressed.tflite and "
        "report.json. Packaged recipes: {recipes}. Loss and metric are the compiled model's, or else follow from the "
        "labels.",
        f"{PROGRAM} compress --model=m.keras --data=data.npz --recipe=pcqat --out=out",
        "keras_compress.cli_commands:compress",
        _compress_flags,
        ("model", "data"),
    ),
    "convert": Command(
        "Convert a .keras model to .tflite.",
        "A plain model needs --mode=float32, float16 or dynamic, or --data for int8.",
        f"{PROGRAM} convert --model=m.keras --data=data.npz --out=m.tflite --io=int8",
        "keras_compress.cli_commands:convert",
        _convert_flags,
        ("model", "out"),
    ),
    "measure": Command(
        "Measure a .tflite file on its runtime: size, latency, memory, accuracy.",
        "Runs in a process of its own with a time limit. Latency is this machine's; TFLM's says nothing about a "
        "microcontroller.",
        f"{PROGRAM} measure --model=m.tflite --baseline=float.tflite --data=data.npz",
        "keras_compress.cli_commands:measure",
        _measure_flags,
        ("model",),
    ),
    "verify": Command(
        "Check that the int8 file computes what was simulated, operator by operator.",
        "Converts the model to int8 and runs each operator on the integers that the simulation has there. Exit code 1 "
        "if one differs by more than a step, or in more than 1 % of the values.",
        f"{PROGRAM} verify --model=m.keras --data=data.npz --target=tflm",
        "keras_compress.cli_commands:verify",
        _verify_flags,
        ("model", "data"),
    ),
    "inspect": Command(
        "Show what a .tflite or .keras file holds: sparsity, distinct values, bytes of each weight.",
        "Figures of a .tflite file are read back from it; nothing is run.",
        f"{PROGRAM} inspect --model=m.tflite",
        "keras_compress.cli_commands:inspect",
        _inspect_flags,
        ("model",),
    ),
    "report": Command(
        "Print the table of an earlier demo or compress run again.",
        "Reads report.json; nothing is trained or run.",
        f"{PROGRAM} report --out=out",
        "keras_compress.cli_report:run",
        _report_flags,
    ),
}


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
        print(overview())
        return OK if arguments else USAGE
    if arguments[0] == "--version":
        print(_version())
        return OK
    try:
        name, values = parse(arguments)
    except UsageError as error:
        print(f"Error: {one_line(str(error))}", file=sys.stderr)
        return USAGE
    if values is None:
        print(help_of(name))
        return OK
    return _run(COMMANDS[name], values)


def parse(arguments: Sequence[str]) -> tuple[str, flags.FlagValues | None]:
    """Sub-command and its flags; `None` for the flags where help was asked for.

    Raises:
        UsageError: For an unknown command or flag, a bad or missing value.
    """
    name, *rest = arguments
    if name not in COMMANDS:
        raise UsageError(f"Expected a command out of {', '.join(COMMANDS)}. Received: {name!r} (try `{PROGRAM} --help`)")
    if any(argument in ("-h", "--help", "-help", "--helpfull", "--helpshort", "help") for argument in rest):
        return name, None
    values = _values(name)
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


def _values(name: str) -> flags.FlagValues:
    values = flags.FlagValues()
    COMMANDS[name].define(values)
    flags.DEFINE_boolean("debug", False, "Show where an error comes from.", flag_values=values)
    return values


def overview() -> str:
    """Text of `keras-compress --help`."""
    lines = [
        f"{PROGRAM}: prune, cluster and quantize Keras 3 models; convert, verify and measure them.",
        "",
        "Start here (a minute or two, nothing is downloaded):",
        f"  {PROGRAM} demo --out=out",
        "",
        "Commands:",
        *(f"  {name:<9} {command.summary}" for name, command in COMMANDS.items()),
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

    command, values = COMMANDS[name], _values(name)
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


def _recipe_names() -> list[str]:
    from pathlib import Path

    # As `Recipe.names`, which would load Keras.
    return sorted(path.stem for path in (Path(__file__).parent / "recipes").glob("*.json"))


def _version() -> str:
    import importlib.metadata

    try:
        return f"{PROGRAM} {importlib.metadata.version('keras-compress')}"
    except importlib.metadata.PackageNotFoundError:
        return f"{PROGRAM} (not installed)"


def _run(command: Command, values: flags.FlagValues) -> int:
    try:
        load_quietly()
        module, function = command.runs.split(":")
        return int(getattr(importlib.import_module(module), function)(values) or OK)
    except KeyboardInterrupt:
        print("Interrupted: nothing was left half-written.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, such as `head`, has gone; Python would complain again when it flushes at its end.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
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
    """Text without line breaks and control characters, not longer than a few lines of a terminal."""
    text = re.sub(r"[\x00-\x20\x7f-\x9f]+", " ", text).strip()
    return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 3] + "..."


def load_quietly() -> None:
    """Import Keras, TensorFlow and the methods without the lines that TensorFlow writes when it starts."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with _captured_stderr():
        tensorflow: Any = importlib.import_module("tensorflow")
        # The first operation looks for devices, and logs what it does not find.
        tensorflow.constant(0)
        # They enter what `.keras` files and recipes name into the registry.
        for package in ("pruning", "clustering", "quantizers", "core.schedule", "core.wrapper"):
            importlib.import_module(f"keras_compress.{package}")


@contextlib.contextmanager
def _captured_stderr() -> Iterator[None]:
    """Keeps back what is written to file descriptor 2, native code included; shows it if something fails."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as noise:
        saved = os.dup(2)
        os.dup2(noise.fileno(), 2)
        try:
            yield
        except BaseException:
            noise.seek(0)
            os.write(saved, noise.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)


if __name__ == "__main__":
    sys.exit(main())
