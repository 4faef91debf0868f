"""`Budget`: how much a model may cost, for every method that takes a `target`; and what a cost is."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from keras_compress.core.registry import entries, resolve
from keras_compress.core.shown import Shown
from keras_compress.core.suggest import did_you_mean

# Words that people use for costs whose names are others.
_SYNONYMS = {
    "flops": "macs",
    "mac": "macs",
    "multiply_accumulates": "macs",
    "parameters": "params",
    "weights": "params",
    "file_bytes": "bytes",
    "size": "bytes",
    "file_size": "bytes",
    "flash": "bytes",
    "time": "latency",
    "ms": "latency_ms",
    "milliseconds": "latency_ms",
    "speed": "latency",
    "ram": "arena",
    "memory": "arena",
    "arena_bytes": "arena",
    "joules": "energy_uj",
    "microjoules": "energy_uj",
    "uj": "energy_uj",
}


class Cost:
    """What a model costs. A subclass implements `of`, and is entered by `@kc.register("cost")`.

    Class attributes:
        evaluations: How many candidates a search may try; `None` for a cost that is counted at once.
        tolerance: How far below its goal a search may stop, as a fraction of the whole cost.
        noun: What a fraction is of, for messages: `"MACs"`.
        unit: What figures are counted in; by default the noun.
        figure_name: Name in a `Budget` whose value is always a figure, never a fraction: of a cost whose figures may be
            below 1.
        predicted_by: Cost that is counted at once and grows with this one, which a search tries candidates by.
    """

    evaluations: int | None = 6
    tolerance: float = 0.0
    noun: str = ""
    unit: str = ""
    figure_name: str = ""
    predicted_by: str = "params"

    def of(self, model: keras.Model) -> float:
        """The cost of a model, in `unit`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `of(model)`.")

    def whole(self, model: keras.Model) -> Any:
        """What candidates are compared with, made once from the model given: its cost, by default."""
        return self.of(model)

    def fraction(self, model: keras.Model, whole: Any) -> float:
        """The cost of a candidate as a fraction of that of the model given.

        Args:
            model: The candidate.
            whole: What `whole` gave.
        """
        return self.of(model) / float(whole)


@dataclass(frozen=True)
class Limit:
    """One cost and the most of it.

    Attributes:
        cost: The cost.
        most: A fraction of the cost of the model given, or a figure in the cost's unit.
        is_fraction: Which of the two.
    """

    cost: Cost
    most: float
    is_fraction: bool

    def __str__(self) -> str:
        return f"{self.most:g} of the {self.cost.noun}" if self.is_fraction else self.figure(self.most)

    def figure(self, value: float) -> str:
        """A value of the cost with its unit."""
        return f"{value:,.10g} {self.cost.unit or self.cost.noun}"


class Budget(Shown):
    """How much a model may cost. Where there are several costs, all are kept.

    A value in (0, 1) is a fraction of the cost of the model given, one above 1 a figure in the cost's unit.

    Args:
        limits: Cost -> value: a name as below, or an object such as `kc.Latency("tflm")` or `kc.FileBytes("int8", x)`.
        **named: The same by name: `macs` (multiply-accumulates of a sample), `params` (number of weights), `bytes` (of
            the float32 file), `arena` (bytes of memory on TFLite-Micro), `latency` (of an invocation here),
            `latency_ms` (the same in milliseconds, whatever the value), `energy` (of an inference by a model of the
            hardware), `energy_uj` (the same in microjoules), `bops` (bit operations of a sample),
            `average_bits` (of a weight), `nonzeros` (weights that are not zero), and costs that were registered.

    Raises:
        ValueError: For no cost, the same one twice, an unknown one, or a value that is neither.

    >>> Budget(macs=0.5, bytes=200_000)
    Budget
      macs   0.5 of the MACs
      bytes  200,000 bytes
    """

    def __init__(self, limits: Mapping[Any, float] | None = None, /, **named: float) -> None:
        if limits is not None and not isinstance(limits, Mapping):
            raise ValueError(f"Expected costs and how much of each to keep, {{'macs': 0.5}}. Received: {limits!r}")
        given = [*(limits or {}).items(), *named.items()]
        if not given:
            raise ValueError("Expected at least one cost, as in Budget(macs=0.5). Received: none")
        labels = [_label(identifier) for identifier, _ in given]
        names = [identifier for identifier, _ in given if isinstance(identifier, str)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"Expected each cost once. Received: {twice} twice")
        self._limits = [(label, _limit(*each)) for label, each in zip(labels, given, strict=True)]

    @classmethod
    def of(cls, target: Budget | Mapping[Any, float]) -> Budget:
        """A budget from what a user may write for it: one, or a mapping.

        Raises:
            ValueError: See `Budget`.
        """
        return target if isinstance(target, Budget) else cls(target)

    def __iter__(self) -> Iterator[Limit]:
        return (limit for _, limit in self._limits)

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines."""
        return "Budget", [(label, str(limit)) for label, limit in self._limits]


def _label(identifier: Any) -> str:
    return identifier if isinstance(identifier, str) else type(identifier).__name__


def _limit(identifier: Any, most: Any) -> Limit:
    cost, figure = _cost(identifier)
    number = isinstance(most, (int, float)) or hasattr(most, "__float__")
    if not number or isinstance(most, bool) or not math.isfinite(most) or most <= 0 or (most == 1 and not figure):
        least = f"more than {0 if figure else 1} {cost.unit or cost.noun}"
        allowed = least if figure else f"a fraction in (0, 1) of the {cost.noun} to keep, or {least}"
        raise ValueError(f"Expected {allowed}. Received: {{{_label(identifier)!r}: {most!r}}}")
    return Limit(cost, float(most), is_fraction=not figure and most < 1)


def _cost(identifier: Any) -> tuple[Cost, bool]:
    """The cost behind what a user writes, and whether its value is a figure whatever it is."""
    figure = False
    if isinstance(identifier, str):
        known = _names()
        if identifier not in known:
            raise ValueError(
                f"Expected a cost out of {sorted({*known} - {*entries('cost')})}. "
                f"Received: {identifier!r}{did_you_mean(identifier, [*known], _SYNONYMS)}"
            )
        figure = identifier == entries("cost")[known[identifier]].figure_name
        identifier = known[identifier]
    cost = resolve("cost", identifier)
    if not isinstance(cost, Cost):
        raise ValueError(f"Expected a cost such as 'macs', 'params', 'bytes' or 'latency'. Received: {identifier!r}")
    return cost, figure


def _names() -> dict[str, str]:
    """What a cost may be called -> its name in the registry."""
    found = entries("cost")
    figures = {cost.figure_name: name for name, cost in found.items() if cost.figure_name}
    spelled = {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(): name for name in found}
    return {name: name for name in found} | spelled | figures
