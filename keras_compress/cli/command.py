"""What a sub-command of `keras-compress` is, and how its flags are defined. Light: without Keras and TensorFlow."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from absl import flags

PROGRAM = "keras-compress"


def command_line(name: str, values: flags.FlagValues) -> str:
    """The command that these flags were read from, for a shell."""
    given = sorted((key, values[key].value) for key in values if values[key].present)
    pairs = [f"--{key}={','.join(map(str, value)) if isinstance(value, list) else value}" for key, value in given]
    return shlex.join([PROGRAM, name, *pairs])


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
        figures: Whether it finds figures, which `--json` prints for programs.
        light: Whether it needs neither Keras nor TensorFlow.
    """

    summary: str
    details: str
    example: str
    runs: str
    define: Callable[[Definer], None]
    required: tuple[str, ...] = ()
    figures: bool = False
    light: bool = False

    def flags(self) -> flags.FlagValues:
        """New, unparsed flags of this sub-command."""
        values = flags.FlagValues()
        self.define(Definer(values))
        if self.figures:
            flags.DEFINE_boolean("json", False, "Print one JSON document, and no tables.", flag_values=values)
        modules = "A Python module with methods of your own, which recipes and models may name; may be repeated."
        flags.DEFINE_multi_string("import", [], modules, flag_values=values)
        flags.DEFINE_boolean("debug", False, "Show where an error comes from.", flag_values=values)
        return values


class ChoiceWithEarlier(flags.EnumParser):
    """One of some names, which help shows; earlier ones work for one release, with a warning that is always shown."""

    def __init__(self, options: list[str], earlier: Mapping[str, str]) -> None:
        super().__init__(options)
        self.earlier = earlier

    def parse(self, argument: str) -> str:
        """The name that the choice has now."""
        if argument in self.earlier:
            warnings.warn(f"{argument!r} is {self.earlier[argument]!r} now.", FutureWarning, stacklevel=2)
        return str(super().parse(self.earlier.get(argument, argument)))


class Definer:
    """Defines flags on one set of values, so that each sub-command has its own."""

    def __init__(self, values: flags.FlagValues) -> None:
        self._values = values

    def text(self, name: str, default: str | None, about: str) -> None:
        flags.DEFINE_string(name, default, about, flag_values=self._values)

    def number(self, name: str, default: int | None, lowest: int, about: str) -> None:
        flags.DEFINE_integer(name, default, about, lower_bound=lowest, flag_values=self._values)

    def real(self, name: str, about: str) -> None:
        flags.DEFINE_float(name, None, about, lower_bound=0.0, flag_values=self._values)

    def choice(self, name: str, default: str | None, options: list[str], about: str) -> None:
        flags.DEFINE_enum(name, default, options, about, flag_values=self._values)

    def switch(self, name: str, about: str) -> None:
        flags.DEFINE_boolean(name, False, about, flag_values=self._values)

    def numbers(self, name: str, about: str) -> None:
        flags.DEFINE_list(name, None, about, flag_values=self._values)

    def data(self, use: str) -> None:
        self.text("data", None, f"{use} An .npz file with x_train, y_train, x_test, y_test, or x, y.")

    def target(self) -> None:
        self.choice("target", "litert", ["litert", "tflm"], "Runtime: of phones, or of microcontrollers.")

    def file_target(self) -> None:
        about = "Runtime: of phones, or of microcontrollers; ethos_u: the plain integer file that Vela compiles."
        self.choice("target", "litert", ["litert", "tflm", "ethos_u"], about)

    def sparsity(self) -> None:
        about = (
            "litert: how weights with zeros are stored. auto: without them where that is faster (dense layers pruned "
            "in blocks of 4 inputs, of 16 in int8); block: wherever a kernel takes it, 1x1 convolutions too."
        )
        self.choice("sparsity", "auto", ["auto", "none", "block"], about)

    def weights_storage(self) -> None:
        about = (
            "Weights of integer models: int4 and int2 pack wherever they fit and the runtime takes it; lut, bitmap and "
            "huffman are decoded by TFLite-Micro while it runs, vectors looked up in their codebook; auto takes the "
            "smallest of lut, bitmap and huffman there, and on LiteRT packs where that is free; bits: a bit or two a "
            "weight of binary and ternary nets, for kc_binary alone. By default what costs neither time nor memory."
        )
        storages = ["auto", "int8", "int4", "int2", "lut", "bitmap", "huffman", "vectors", "bits"]
        parser = ChoiceWithEarlier(storages, {"prune": "bitmap"})
        flags.DEFINE(parser, "weights_storage", None, about, flag_values=self._values)
