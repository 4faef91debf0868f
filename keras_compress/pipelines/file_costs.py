"""Costs that are read from the file of a choice: its bytes, its latency here, its arena on TFLite-Micro."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_compress.core.budget import Limit
from keras_compress.runtime.arena import Arena
from keras_compress.runtime.arena_probe import tflm_arena
from keras_compress.runtime.latency import Latency
from keras_compress.tflite.flatbuffer import PACKED_BITS
from keras_compress.tflite.inspection import inspect_tflite

FILE_COSTS = ("bytes", "latency", "arena")


class FileCost:
    """A cost that is read from files.

    Args:
        limit: The limit, whose cost tells how it is measured.
        model: The float model, which a fraction is of.
        target: What the files are for.

    Attributes:
        most: The limit as a figure.

    Raises:
        ValueError: For a latency or an arena of another target than that of the files.
    """

    def __init__(self, limit: Limit, model: keras.Model, target: str) -> None:
        self._cost = limit.cost
        own = _target(limit.cost, target)
        if own != target:
            raise ValueError(
                f"Expected a budget of {limit.cost.noun} on the target of the file. "
                f"Received: target={target!r}, {limit.cost.noun} on {own!r}"
            )
        # What times are compared with in each run, as machines are now slow and now quick.
        self._given = limit.cost.whole(model) if isinstance(limit.cost, Latency) and limit.is_fraction else b""
        self._first = self._times({})["given"] if self._given else 1.0
        whole = self._first if self._given else limit.cost.whole(model) if limit.is_fraction else 1.0
        self.most = limit.most * float(whole) if limit.is_fraction else limit.most

    def of(self, contents: Mapping[int, bytes]) -> dict[int, float]:
        """Of each file: bytes, or milliseconds by turns in one run."""
        if isinstance(self._cost, Latency):
            times = self._times({str(key): content for key, content in contents.items()})
            steady = self._first / times["given"] if self._given else 1.0
            return {key: times[str(key)] * steady for key in contents}
        measure = tflm_arena if isinstance(self._cost, Arena) else len
        return {key: float(measure(content)) for key, content in contents.items()}

    def _times(self, contents: dict[str, bytes]) -> dict[str, float]:
        return self._cost.medians({**contents, "given": self._given} if self._given else contents)  # type: ignore[attr-defined, no-any-return]


def _target(cost: Any, target: str) -> str:
    if isinstance(cost, Latency):
        return cost.runner.name
    return "tflm" if isinstance(cost, Arena) else target


@dataclass(frozen=True)
class Spread:
    """A cost of whole files as a sum over layers.

    Attributes:
        constant: That of the file whose weights have the most bits.
        terms: Path of a layer -> bits -> what it adds.
    """

    constant: float
    terms: Mapping[str, Mapping[int, float]] = field(default_factory=dict)


def spread(totals: Mapping[int, float], contents: Mapping[int, bytes], sizes: Mapping[str, int]) -> Spread:
    """What few bits add to a cost of files, given to the layers whose weights are packed, by their sizes.

    Args:
        totals: Bits of all weights -> the cost of that file.
        contents: Bits -> the file.
        sizes: Path of a layer -> its share, in any unit.
    """
    widest = max(totals)
    terms: dict[str, dict[int, float]] = {path: {} for path in sizes}
    for bits, content in contents.items():
        packed = packed_layers(content, list(sizes))
        whole = max(sum(sizes[path] for path in packed), 1)
        for path, size in sizes.items():
            added = (totals[bits] - totals[widest]) * size / whole
            terms[path][bits] = added if path in packed else 0.0
    return Spread(totals[widest], terms)


def packed_layers(content: bytes, paths: Sequence[str]) -> list[str]:
    """Layers of whose weights a file has some packed."""
    packed = [weight for weight in inspect_tflite(content).weights if weight.dtype.lower() in PACKED_BITS]
    return [path for path in paths if any(is_of(weight.name, path) for weight in packed)]


def is_of(weight: str, path: str) -> bool:
    """Whether a weight of the file is one of the layer, or of what the layer was taken apart into."""
    name = path.replace("/", ".")
    return weight.startswith((f"{name}/", f"{name}."))
