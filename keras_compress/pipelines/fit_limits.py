"""What a deployed file may cost: the limits of a `Budget`, asked of the file itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras

from keras_compress.convert.convert import convert
from keras_compress.convert.file_bytes import FileBytes
from keras_compress.core.budget import Budget, Cost
from keras_compress.runtime.arena import Arena
from keras_compress.runtime.arena_probe import tflm_arena
from keras_compress.runtime.check import RUNTIME_CODE_BYTES, limits_of
from keras_compress.runtime.energy_cost import Energy, energy_uj
from keras_compress.runtime.latency import Latency

Figure = Callable[[bytes], float]
UNITS = {"bytes": "B", "arena": "B", "latency_ms": "ms", "energy_uj": "uJ"}


@dataclass(frozen=True)
class FileLimit:
    """One figure of a file and the most of it.

    Attributes:
        name: A key of `UNITS`.
        figure: Gives it, of a file's content.
        most: In the unit.
    """

    name: str
    figure: Figure
    most: float

    def excess(self, value: float) -> float:
        """How far a value is above the limit, as a share of it; at most 0 where it is kept."""
        return value / self.most - 1

    def said(self, value: float) -> str:
        """A value that is too large, in words."""
        unit = UNITS[self.name]
        # Bytes are told to the last one: a file may be too large by one.
        form = ",.0f" if unit == "B" else ",.6g"
        return f"{self.name}: {value:{form}} {unit} of {self.most:{form}}"


@dataclass(frozen=True)
class FileLimits:
    """All limits of a budget.

    Attributes:
        limits: In the order of the budget.
    """

    limits: tuple[FileLimit, ...]

    @classmethod
    def of(cls, budget: Budget | Mapping[Any, float], model: keras.Model, target: str) -> FileLimits:
        """The limits of a budget; fractions are of the float32 file of `model`.

        Raises:
            ValueError: For a cost that is not one of a file, or not of the target.
        """
        found: list[FileLimit] = []
        content: bytes | None = None
        for limit in Budget.of(budget):
            name, figure = _figure(limit.cost, target)
            most = limit.most
            if limit.is_fraction:
                if content is None:
                    content = convert(model, target, mode="float32").content
                most *= figure(content)
            found.append(FileLimit(name, figure, most))
        return cls(tuple(found))

    def pinned(self, limits: Mapping[str, float]) -> FileLimits:
        """The same with limits as they were resolved before: a fraction of a time is measured anew each time."""
        return FileLimits(tuple(replace(limit, most=limits[limit.name]) for limit in self.limits))

    def figures(self, content: bytes) -> dict[str, float]:
        """What a file costs, by name."""
        return {limit.name: float(limit.figure(content)) for limit in self.limits}

    def excess(self, figures: Mapping[str, float]) -> dict[str, float]:
        """How far each figure is above its limit, as a share of it."""
        return {limit.name: limit.excess(figures[limit.name]) for limit in self.limits}

    def reasons(self, figures: Mapping[str, float], slack: float = 0.0) -> list[str]:
        """What is too large, by more than a share of its limit."""
        return [
            limit.said(figures[limit.name]) for limit in self.limits if limit.excess(figures[limit.name]) > slack + 1e-9
        ]

    def most(self, name: str) -> int | None:
        """The limit of a name in whole units; `None` where there is none."""
        return next((int(limit.most) for limit in self.limits if limit.name == name), None)

    def to_dict(self) -> dict[str, float]:
        """Name -> limit."""
        return {limit.name: limit.most for limit in self.limits}


def budget_key(budget: Budget | Mapping[Any, float]) -> list[Any]:
    """What a budget says, before fractions are resolved."""
    costs = [(type(each.cost).__name__, getattr(each.cost, "core", None), each) for each in Budget.of(budget)]
    return [[name, core, each.most, each.is_fraction] for name, core, each in costs]


def _figure(cost: Cost, target: str) -> tuple[str, Figure]:
    if isinstance(cost, FileBytes):
        return "bytes", len
    if isinstance(cost, Arena) and target == "tflm":
        return "arena", tflm_arena
    if isinstance(cost, Latency) and target == "litert":
        return "latency_ms", lambda content: cost.medians({"candidate": content})["candidate"]
    if isinstance(cost, Energy):
        return "energy_uj", lambda content: energy_uj(content, cost.core)
    known = "bytes, arena, energy_uj" if target == "tflm" else "bytes, latency_ms, energy_uj"
    raise ValueError(f"Expected costs of a file for {target!r}, out of {known}. Received: {cost.noun}")


def board_limits(
    board: str | None, flash: Any = None, arena: Any = None, code: int = RUNTIME_CODE_BYTES
) -> dict[str, float]:
    """What a budget says for a microcontroller: flash less the runtime's code, and RAM; sizes given count more.

    Raises:
        ValueError: See `kc.check`; for flash that the code alone fills.

    >>> board_limits("nrf52840", arena="64kB")
    {'bytes': 1032576, 'arena': 64000}
    """
    flash_limit, arena_limit = limits_of(board, flash, arena)
    named: dict[str, float] = {}
    if flash_limit is not None:
        if flash_limit <= code + 1:
            raise ValueError(f"Expected `flash` above the runtime's {code:,} bytes of code. Received: {flash_limit:,}")
        named["bytes"] = flash_limit - code
    if arena_limit is not None:
        named["arena"] = max(arena_limit, 2)
    return named
