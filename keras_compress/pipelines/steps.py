"""What each step of Deep Compression does: small values, checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keras_compress.clustering.centroids import CentroidClusterer
from keras_compress.convert.convert import check_arguments
from keras_compress.tflite.storage import current_storage


@dataclass(frozen=True)
class Pruning:
    """Rounds of pruning, each followed by training.

    Attributes:
        sparsities: Of all weights together after each round, in (0, 0.98]; done in ascending order.
        channels: Share of the channels (neurons) of each layer to cut out first, by L1, in (0, 1); `None`: none.

    Raises:
        ValueError: For a value out of range.
    """

    sparsities: Sequence[float] = (0.5, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95)
    channels: float | None = None

    def __post_init__(self) -> None:
        if not self.sparsities or not all(0 < each <= 0.98 for each in self.sparsities):
            raise ValueError(f"Expected `sparsities` in (0, 0.98], at least one. Received: {tuple(self.sparsities)}")
        if self.channels is not None and not 0 < self.channels < 1:
            raise ValueError(f"Expected `channels` in (0, 1), or None. Received: channels={self.channels}")


@dataclass(frozen=True)
class Clustering:
    """How weights come to share values.

    Attributes:
        number_of_clusters: Different values of each weight tensor, zero counted.
        rules: Exceptions, as for `cluster_weights`: fewer values for a large layer, say.

    Raises:
        ValueError: For a number that no clusterer takes.
    """

    number_of_clusters: int = 16
    rules: Sequence[Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        CentroidClusterer(self.number_of_clusters)


@dataclass(frozen=True)
class Conversion:
    """How the file is made, see `convert`.

    Attributes:
        target: What it is made for: `"tflm"`, `"litert"`.
        weights_storage: How weights lie in it: `"auto"`, `"huffman"`, `"lut"`, ...
        io: Type of inputs and outputs: `"float32"`, `"int8"`, `"uint8"`.

    Raises:
        ValueError: For values that do not go together.
    """

    target: str = "tflm"
    weights_storage: str = "auto"
    io: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights_storage", current_storage(self.weights_storage))
        check_arguments(self.target, "int8", self.io, self.weights_storage)
