"""Which indices of which weights must be removed together: what channel pruning decides on and cuts by."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core.shown import Shown, columns, names
from keras_compress.structured.channel_ids import Ids

Removed = NDArray[np.bool_]
# How often each unit is to be there.
Copies = NDArray[np.int64]
# Why the channels of an output stay.
OUTPUT = "an output of the model keeps its shape"
# What an axis of a weight has to do with its channels:
# "out" makes them, "through" acts on each of them alone, "in" reads them, "statistic" describes them.
ROLES = ("out", "through", "in", "statistic")


@dataclass(frozen=True)
class WeightAxis:
    """One axis of a weight whose indices are channels.

    Attributes:
        path: Path of the layer, with the names of the models around it.
        layer: The layer.
        variable: The weight.
        axis: Its axis, non-negative.
        ids: An id for each index.
        role: One of `ROLES`.
    """

    path: str
    layer: keras.layers.Layer
    variable: keras.Variable
    axis: int
    ids: Ids
    role: str


@dataclass(frozen=True)
class Reading:
    """A tensor whose channels a layer sums over, or that leaves the model: the last place where channels are apart.

    Attributes:
        tensor: Symbolic tensor of the model.
        axis: Its channel axis.
        ids: An id for each channel.
        operation: What reads it; `None` where it leaves the model.
    """

    tensor: Any
    axis: int
    ids: Ids
    operation: Any = None


@dataclass(frozen=True)
class Setting:
    """An entry of a configuration that counts channels.

    Attributes:
        ids: An id for each channel.
        default: Channels that are counted where the entry is `None`; `None` for a fixed width.
    """

    ids: Ids
    default: Ids | None = None


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that the same layers make, so that they compete with each other.

    Attributes:
        name: Path of the first layer that makes them; of all of them, where another group has that name.
        layers: Paths of all the layers that make them.
        units: Numbers of the channels, each with all that is removed with it.
        reason: Why none of them can be removed, or `None`.
    """

    name: str
    layers: tuple[str, ...]
    units: NDArray[np.int64]
    reason: str | None = None

    def __len__(self) -> int:
        return len(self.units)


@dataclass(frozen=True)
class Product:
    """Multiplications of a call: `constant` times the channels that are left on each of some axes."""

    constant: int
    axes: tuple[Ids, ...]


class ChannelGraph(Shown):
    """The channels of a model, in groups of those that compete and units of those that are removed together.

    Args:
        model: The model.
        units: `id -> unit`.
        reasons: `unit -> why it cannot be removed`.
        weights: Axes of weights that are channels.
        settings: `id(operation) -> {entry of its configuration: what it counts}`; an entry inside others is a tuple of
            keys.
        inputs: `id(tensor) -> axes` for the inputs of nested models.
        products: Multiplications.
        readings: Tensors that are read.
        left_alone: `path -> reason` of layers with weights whose channels are not known: groups of no channels.
        parts: Channels of which something has to be left, as they are read apart from others of the same maker.
    """

    def __init__(
        self,
        model: keras.Model,
        units: NDArray[np.int32],
        reasons: dict[int, str],
        *,
        weights: Sequence[WeightAxis],
        settings: dict[int, dict[Any, Setting]],
        inputs: dict[int, dict[int, Ids]],
        products: Sequence[Product],
        readings: Sequence[Reading],
        left_alone: Mapping[str, str],
        parts: Sequence[Ids] = (),
    ) -> None:
        self.model = model
        self.units = units
        self.weights = list(weights)
        self.settings = settings
        self.inputs = inputs
        self.products = list(products)
        self.readings = list(readings)
        self.unit_count = int(units.max()) + 1 if len(units) else 0
        none = np.zeros(0, np.int64)
        self.groups = _groups(self, reasons, parts)
        self.groups += [ChannelGroup(path, (path,), none, reason) for path, reason in left_alone.items()]
        self._axes_of: dict[int, dict[int, Ids]] = {}
        for each in self.weights:
            self._axes_of.setdefault(id(each.variable), {})[each.axis] = each.ids

    @property
    def prunable(self) -> list[ChannelGroup]:
        """Groups whose channels can be removed."""
        return [group for group in self.groups if group.reason is None]

    @property
    def frozen(self) -> list[ChannelGroup]:
        """Groups whose channels have to stay, each with its reason."""
        return [group for group in self.groups if group.reason is not None]

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines; `summary()` tells all."""
        return f"ChannelGraph of {self.model.name}: {len(self.groups)} groups, {self.params():,} parameters", [
            ("prunable", names([group.name for group in self.prunable], ".prunable")),
            ("frozen", names([f"{group.name}: {group.reason}" for group in self.frozen], ".frozen")),
        ]

    def none_removed(self) -> Removed:
        """The decision to remove nothing: `False` for every unit."""
        return np.zeros(self.unit_count, bool)

    def kept(self, ids: Ids, removed: Removed | Copies) -> NDArray[np.int64]:
        """Positions in `ids` that are left: once, or as often as a number of copies for each unit says."""
        found = removed[self.units[ids]]
        return np.flatnonzero(~found) if found.dtype == bool else np.repeat(np.arange(len(ids)), found)

    def axes_of(self, variable: keras.Variable) -> dict[int, Ids]:
        """`axis -> ids` of the channel axes of a weight."""
        return self._axes_of.get(id(variable), {})

    def macs(self, removed: Removed | None = None) -> int:
        """Multiply-accumulates of one sample, of convolutions, products with matrices and attention."""
        counts = _Counts(self, removed)
        return sum(product.constant * counts.all(product.axes) for product in self.products)

    def params(self, removed: Removed | None = None) -> int:
        """Number of weights, also of those that are not trained."""
        counts = _Counts(self, removed)
        total = 0
        for variable in self.model.weights:
            axes = self.axes_of(variable)
            fixed = [n for axis, n in enumerate(variable.shape) if axis not in axes]
            total += int(np.prod(fixed, dtype=np.int64)) * counts.all(axes.values())
        return total

    def summary(self, removed: Removed | None = None) -> str:
        """A table of the groups: which layers make them, how many channels they have, and why some have to stay.

        Args:
            removed: For each unit, whether it goes: the table then says how many are left, too.
        """
        rows = [["group", "channels", "layers", "has to stay, as"]]
        for group in self.groups:
            count = str(len(group)) if len(group) else "?"
            if removed is not None and len(group):
                count += f" -> {len(group) - self.removed_of(group, removed)}"
            layers = group.layers[0] + (f" and {len(group.layers) - 1} more" if len(group.layers) > 1 else "")
            rows.append([group.name, count, layers, group.reason or ""])
        lines = [*columns(rows, ruled=True), ""]
        for name, cost in (("MACs", self.macs), ("parameters", self.params)):
            lines.append(f"{name}: {cost():,}" + ("" if removed is None else f" -> {cost(removed):,}"))
        return "\n".join(lines)

    def removed_of(self, group: ChannelGroup, removed: Removed) -> int:
        """How many channels of a group are removed."""
        return int(removed[group.units].sum())


class _Counts:
    """How many channels of an axis are left, each axis counted once."""

    def __init__(self, graph: ChannelGraph, removed: Removed | None) -> None:
        self._graph = graph
        self._removed = removed
        self._known: dict[int, int] = {}

    def all(self, axes: Iterable[Ids]) -> int:
        total = 1
        for ids in axes:
            if id(ids) not in self._known:
                self._known[id(ids)] = self._count(ids)
            total *= self._known[id(ids)]
        return total

    def _count(self, ids: Ids) -> int:
        return len(ids) if self._removed is None else len(self._graph.kept(ids, self._removed))


def _groups(graph: ChannelGraph, reasons: dict[int, str], parts: Sequence[Ids]) -> list[ChannelGroup]:
    """Units in groups of the same makers, and of the same part. A group is frozen where any of its units is."""
    makers = [each for each in graph.weights if each.role == "out"]
    made_by = np.zeros((graph.unit_count, len(makers) + len(parts)), bool)
    for number, ids in enumerate([*(each.ids for each in makers), *parts]):
        made_by[graph.units[ids], number] = True
    known: dict[bytes, list[int]] = {}
    for unit in np.flatnonzero(made_by[:, : len(makers)].any(axis=1)):
        known.setdefault(made_by[unit].tobytes(), []).append(int(unit))
    groups: list[ChannelGroup] = []
    for units in known.values():
        paths = tuple(dict.fromkeys(makers[number].path for number in np.flatnonzero(made_by[units[0], : len(makers)])))
        reason = next((reasons[unit] for unit in units if unit in reasons), None)
        name = _new_name(paths, {group.name for group in groups})
        groups.append(ChannelGroup(name, paths, np.array(units, np.int64), reason))
    return groups


def _new_name(paths: Sequence[str], taken: Collection[str]) -> str:
    """A layer may share some of its channels with one layer, some with another, and keep more to itself.

    >>> _new_name(["a", "b"], {"a"}), _new_name(["a"], {"a"})
    ('a+b', 'a+2')
    """
    numbered = (f"{paths[0]}+{number}" for number in range(2, len(taken) + 3))
    return next(name for name in (paths[0], "+".join(paths), *numbered) if name not in taken)
