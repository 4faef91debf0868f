"""What `factorize` did to a model, kept with it until it is saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import keras

from keras_compress.core.history import Record, kept


@dataclass(frozen=True)
class FactorizedLayer:
    """One layer that was factorized.

    Attributes:
        path: The layer's path.
        scheme: How.
        rank: Its ranks.
        full_rank: The largest that they could be.
        error: Share of the energy that is lost, of the weight or, with data, of the outputs.
        macs: Multiply-accumulates of a sample, before and after.
    """

    path: str
    scheme: str
    rank: tuple[int, ...]
    full_rank: tuple[int, ...]
    error: float
    macs: tuple[int, int]

    def __str__(self) -> str:
        rank, full = shown(self.rank), shown(self.full_rank)
        before, after = self.macs
        return (
            f"{self.path}: {self.scheme} of rank {rank} of {full}, {self.error:.2%} of the energy lost, "
            f"{before:,} -> {after:,} MACs"
        )


def shown(rank: Sequence[int]) -> str:
    """A rank for a line: `"8"`, or of several `"8x16"`."""
    return "x".join(map(str, rank))


@dataclass(frozen=True)
class FactorizationRecord(Record):
    """All of it.

    Attributes:
        layers: Those that were factorized.
        left: `(path, reason)` of those that were not.
    """

    layers: tuple[FactorizedLayer, ...]
    left: tuple[tuple[str, str], ...]

    title: ClassVar[str] = "Low rank"

    @staticmethod
    def told(scheme: str, rank: Sequence[int]) -> str:
        """How a layer was replaced, in words."""
        return f"{scheme} of rank {shown(rank)}"

    def line(self, layer: FactorizedLayer) -> str:
        """What was done to a layer."""
        return str(layer)

    def lines(self) -> list[str]:
        """A line for each layer."""
        left = (f"{path}: left as it is: {reason}" for path, reason in self.left)
        return [f"{self.title}: {line}" for line in (*map(self.line, self.layers), *left)]


def factorization_of(model: keras.Model) -> FactorizationRecord | None:
    """What `factorize` did to a model; `None` where it did nothing, or the model was saved and loaded since."""
    return kept(model, FactorizationRecord)
