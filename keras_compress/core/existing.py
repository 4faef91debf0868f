"""What a plain weight already is, sparse or of few values, and the transforms that keep it so.

`strip` puts masked and clustered values into plain layers, and so do files of other tools: nothing says any more that
the zeros are to stay. Training would give all of them values of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.core.registry import resolve
from keras_compress.core.slots import Slot
from keras_compress.core.transform import WeightTransform
from keras_compress.core.warn import warn
from keras_compress.core.wrapper import Compressed

Array = NDArray[Any]
KINDS = ("sparsity", "clusters")
PRUNE_FIRST = "Prune first, and cluster the pruned model."
# A trained weight has hardly a zero by chance, and few weights prove nothing.
_LEAST_SPARSE = 0.1
_FEWEST = 32
_MOST_VALUES = 256
_WEIGHTS_PER_VALUE = 8
_FEWER_IN_CHANNELS = 4
_SAMPLE = 8192


@dataclass(frozen=True)
class Existing:
    """What was found in a weight.

    Attributes:
        sparsity: Share of zeros, 0 where it is no sparse weight.
        values: Distinct values, zero counted, of the tensor or of the channel that has most; 0 where they are many.
        per_channel: Whether each channel has values of its own.
    """

    sparsity: float = 0.0
    values: int = 0
    per_channel: bool = False

    def words(self, kinds: Iterable[str] = KINDS) -> str:
        """In words: `"52.0 % zeros, 16 distinct values"`; empty where there is nothing of these kinds."""
        said = [f"{100 * self.sparsity:.1f} % zeros"] if self.sparsity and "sparsity" in kinds else []
        if self.values and "clusters" in kinds:
            said.append(f"{self.values} distinct values" + (" in each channel" if self.per_channel else ""))
        return ", ".join(said)


def existing(weight: Any, channel_axes: Sequence[int]) -> Existing:
    """Whether a weight is sparse, and whether it has few values.

    Args:
        weight: Array or variable.
        channel_axes: Its output-channel axes.
    """
    values = np.asarray(weight)
    if values.size < _FEWEST or not values.any():
        return Existing()
    sparsity = share_of_zeros(values)
    sparse = sparsity if sparsity >= _LEAST_SPARSE else 0.0
    whole = _few_values(values.reshape(1, -1))
    axes = [axis % values.ndim for axis in channel_axes]
    inputs = [axis for axis in range(values.ndim) if axis not in axes]
    channels = math.prod(values.shape[axis] for axis in axes)
    each = _few_values(values.transpose([*axes, *inputs]).reshape(channels, -1)) if axes else 0
    # Few channels with few values each have few values together, but no codebook.
    if each and (not whole or _FEWER_IN_CHANNELS * each <= whole):
        return Existing(sparse, each, per_channel=True)
    return Existing(sparse, whole)


def share_of_zeros(values: Array) -> float:
    """Share of zeros of a weight that has others too, else 0."""
    return float(np.mean(values == 0)) if values.any() else 0.0


def _few_values(rows: Array) -> int:
    """The most distinct values that a row has, 0 and one more counted; 0 where some row has many."""
    most = min(_MOST_VALUES, rows.shape[1] // _WEIGHTS_PER_VALUE)
    if len(np.unique(rows[0, :_SAMPLE])) > most:
        return 0
    counts = [len(np.unique(row)) + (row.all() and not rows.all()) for row in rows]
    count = int(max(counts))
    return count if 2 <= count <= most and not _on_8_bits(rows, count) else 0


def _on_8_bits(rows: Array, count: int) -> bool:
    """Whether the values are those of 8-bit weights, which a quantizer finds again without help."""
    steps = np.abs(rows).max(axis=1, keepdims=True) / 127
    multiples = rows / np.where(steps > 0, steps, 1.0)
    return count > 64 and bool((np.abs(multiples - np.rint(multiples)) < 1e-3).all())


def keeping(found: Existing, kinds: Iterable[str]) -> list[WeightTransform]:
    """The transforms that keep what was found: the mask of the zeros, and the values as centroids."""
    made: list[WeightTransform] = []
    if found.sparsity and "sparsity" in kinds:
        # It acts in the first step, on the zeros that are there, and never again.
        schedule = {"target_sparsity": found.sparsity, "begin_step": 0, "end_step": 0}
        made.append(_made("MagnitudePruner", schedule={"class_name": "ConstantSparsity", "config": schedule}))
    if found.values and "clusters" in kinds:
        made.append(_made("CentroidClusterer", number_of_clusters=found.values, cluster_per_channel=found.per_channel))
    return made


def _made(name: str, **config: Any) -> WeightTransform:
    made: WeightTransform = resolve("weight_transform", {"class_name": name, "config": config})
    return made


def found_in(wrapper: Compressed, slot: Slot) -> Existing:
    """What the plain weight of a slot is; nothing where it has transforms, which say themselves what stays."""
    if wrapper.transforms.get(slot.name):
        return Existing()
    return existing(slot.variable(wrapper.layer), slot.channel_axes)


def clusters_in(wrapper: Compressed, slot: Slot) -> str:
    """In words, the few values of a plain weight; empty where they are many."""
    return found_in(wrapper, slot).words(("clusters",))


def kinds_of(preserve: Any) -> tuple[str, ...]:
    """What a user's `preserve` stands for.

    Raises:
        ValueError: For anything but `"auto"`, `None`, one of `KINDS` or several of them.
    """
    if preserve == "auto":
        return KINDS
    kinds = () if preserve is None else (preserve,) if isinstance(preserve, str) else tuple(preserve)
    if not all(kind in KINDS for kind in kinds):
        raise ValueError(f"Expected `preserve` as 'auto', None, or out of {KINDS}. Received: preserve={preserve!r}")
    return kinds


def kept_by(kinds: Iterable[str], found: Existing, after: Sequence[WeightTransform]) -> tuple[str, ...]:
    """Those kinds that transforms behind the weight let stay."""
    promises = {"sparsity": "zeros", "clusters": "channel_codebook" if found.per_channel else "codebook"}
    return tuple(kind for kind in kinds if all(promises[kind] in transform.preserves for transform in after))


def warn_of(what: str, places: Sequence[tuple[str, str]], cure: str) -> None:
    """One warning for the layers of a model; none where there are no places.

    Args:
        what: Beginning of the sentence.
        places: `(path, what was found there)`.
        cure: What can be done about it.
    """
    if places:
        listed = "; ".join(f"{path}: {words}" for path, words in places[:10])
        more = f"; and {len(places) - 10} more" if len(places) > 10 else ""
        warn(f"{what} ({listed}{more}). {cure}")
