"""The command that lets shells complete commands and flags, by shtab."""

from __future__ import annotations

import argparse

from absl import flags

from keras_compress.cli.command import PROGRAM
from keras_compress.cli.flags import COMMANDS

# Flags that name a file or a folder.
_PATHS = ("model", "data", "out", "baseline", "file", "teacher", "recipe", "save_to", "metadata", "benchmark_model")


def run(values: flags.FlagValues) -> None:
    """`keras-compress completion`.

    Raises:
        ImportError: Without shtab.
    """
    print(script(values.shell))


def script(shell: str) -> str:
    """What the shell is to evaluate.

    Args:
        shell: `"bash"`, `"zsh"` or `"tcsh"`.

    Raises:
        ImportError: Without shtab, which the extra `completion` brings.
    """
    try:
        import shtab
    except ImportError as error:
        raise ImportError("Expected shtab: `pip install 'keras-compress[completion]'`. Received: none") from error
    # shtab reads argparse, so the same commands and flags are told to it.
    parser = argparse.ArgumentParser(PROGRAM)
    commands = parser.add_subparsers(dest="command")
    for name, command in COMMANDS.items():
        mine = commands.add_parser(name, help=command.summary.replace("%", "%%"))
        known = command.flags()
        for flag in (known[key] for key in known):
            options: dict[str, object] = {"help": flag.help.split(". ")[0].replace("%", "%%")}
            if flag.boolean:
                options["action"] = "store_true"
            elif flag.flag_type() == "string enum":
                options["choices"] = flag.parser.enum_values
            action = mine.add_argument(f"--{flag.name}", **options)  # type: ignore[arg-type]
            if flag.name in _PATHS:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    made: str = shtab.complete(parser, shell)
    return made
