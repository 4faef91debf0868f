"""Losses measured where the other parts have the bits that were chosen for them, not where they are float."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from keras_compress.core.progress import ProgressLine
from keras_compress.pipelines.bit_choice import Choice, Item
from keras_compress.pipelines.bit_probe import Array, BitProbe

# Of a part that is as good as float.
_UNROUNDED = 16
Loss = Callable[[Array], float]


class Together:
    """Losses of a model all of whose parts are rounded.

    Args:
        probe: The model.
        items: Its parts: weights of layers and activations, by their names in the probe.
        loss: Loss of the model with these grids of activations and the weights that it has now.
    """

    def __init__(self, probe: BitProbe, items: Sequence[Item], loss: Loss) -> None:
        self._probe, self._items, self._loss = probe, items, loss

    def loss(self, choice: Choice) -> float:
        """Of a choice as it is."""
        with self._probe.rounded(self._of("weights", choice)):
            return self._loss(self._probe.grids(self._of("activations", choice)))

    def around(self, choice: Choice) -> list[Item]:
        """The parts with losses measured at a choice: by what the loss rises where one of them is rounded, too."""
        with self._probe.rounded(self._of("weights", choice)), ProgressLine("refining", len(self._items)) as line:
            return [self._around(item, choice, line) for item in self._items]

    def _around(self, item: Item, choice: Choice, line: ProgressLine) -> Item:
        line.describe(item.name)
        floor = self._with(item, _UNROUNDED, choice)
        line.advance()
        return replace(item, losses={width: self._with(item, width, choice) - floor for width in item.losses})

    def _with(self, item: Item, width: int, choice: Choice) -> float:
        points = self._of("activations", choice)
        if item.kind == "activations":
            return self._loss(self._probe.grids({**points, item.name: width}))
        with self._probe.rounded({item.name: width}):
            return self._loss(self._probe.grids(points))

    def _of(self, kind: str, choice: Choice) -> dict[str, int]:
        return {item.name: width for item, width in zip(self._items, choice, strict=True) if item.kind == kind}
