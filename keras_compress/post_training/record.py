"""What passes know of a model beside its weights: statistics of its channels, and what was done to it.

BatchNormalizations are gone once they are folded, so their statistics are kept here, by the path of the layer whose
outputs they describe. A model that was saved and loaded has no record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core import history
from keras_compress.graph import graph
from keras_compress.post_training.effect import LayerEffect

Vector = NDArray[np.float64]


class NotApplicable(ValueError):
    """A pass finds nothing in a model that it could work on; a list of passes goes on without it, and says so."""


@dataclass(frozen=True)
class ChannelStatistics:
    """Mean and standard deviation of each output channel of a layer, before its activation; `(channels,)` each."""

    mean: Vector
    std: Vector

    def scaled(self, factor: Vector) -> ChannelStatistics:
        """Those of the channels times positive factors."""
        return ChannelStatistics(self.mean * factor, self.std * factor)

    def taken(self, indices: NDArray[Any]) -> ChannelStatistics:
        """Those of some of the channels, in this order."""
        return ChannelStatistics(self.mean[indices], self.std[indices])


@dataclass(frozen=True)
class Record(history.Record):
    """What is carried from model to model.

    Attributes:
        statistics: Path of a layer -> statistics of its outputs.
        notes: What the passes did and left, a line each.
        effects: What those with data did to each layer.
        report: What changed from pass to pass: see `keras_compress.post_training.compare`.
    """

    statistics: Mapping[str, ChannelStatistics] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    effects: tuple[LayerEffect, ...] = ()
    report: Any = None

    def lines(self) -> list[str]:
        """The notes, for `summary`."""
        return [f"Post-training: {note}" for note in self.notes]

    def noted(self, *notes: str) -> Record:
        """The record with more notes; none twice."""
        return replace(self, notes=tuple(dict.fromkeys((*self.notes, *notes))))

    def did(self, effects: Sequence[LayerEffect], note: str) -> Record:
        """The record with what a method did to each layer, and a note that says it in short."""
        return replace(self.noted(note), effects=(*self.effects, *effects))


def record_of(model: keras.Model) -> Record:
    """What is known of a model; an empty record where no pass made it."""
    return history.kept(model, Record) or Record()


def carry(model: keras.Model, record: Record) -> keras.Model:
    """Keep a record with a model, and return the model."""
    return history.keep(model, record)


def check_statistics(model: keras.Model, record: Record) -> None:
    """Refuse a model of whose channels nothing is known.

    Raises:
        NotApplicable: With the cure.
    """
    norms = (layer for _, layer in graph.walk(model) if isinstance(layer, keras.layers.BatchNormalization))
    if not record.statistics and next(norms, None) is None:
        raise NotApplicable(
            "Expected a model with BatchNormalizations behind its layers, or one that passes made of it (their record "
            f"is not saved with a model). Received: {model.name!r}, of whose channels no statistics are known"
        )
