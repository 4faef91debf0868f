"""Sensitivity scan: what a metric does when one group of channels after the other is pruned, each alone."""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core.global_state import global_state_kept
from keras_compress.core.outputs import check_output
from keras_compress.core.progress import ProgressLine
from keras_compress.core.registry import lookup, register
from keras_compress.core.selection import Selector, exactly
from keras_compress.core.shown import Shown, names, text_of
from keras_compress.data.examples import Examples
from keras_compress.structured.accuracy import Accuracy
from keras_compress.structured.channel_graph import ChannelGraph, ChannelGroup, WeightAxis
from keras_compress.structured.criteria.criterion import Criterion, Scores
from keras_compress.structured.dependency import channel_graph
from keras_compress.structured.gates import opened_to_masks
from keras_compress.structured.prune import checked_criterion, finite_scores, limits_of
from keras_compress.structured.selection import rounded
from keras_compress.structured.surgery import mask_factor, refuse_transforms

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# Without its makers, its own scale and its readers a channel is gone, whatever activation stands between them.
_ROLES = ("out", "through", "in")
_Found = TypeVar("_Found", bound="Scan")


@dataclass(frozen=True)
class GroupSensitivity:
    """What the pruning of one group does.

    Attributes:
        name: Name of the group: the path of the first layer that makes its channels.
        layers: Paths of all of them.
        width: Number of its channels.
        values: The metric at each ratio that was tried.
    """

    name: str
    layers: tuple[str, ...]
    width: int
    values: tuple[float, ...]


@dataclass(frozen=True, repr=False)
class Scan(Shown):
    """What a scan found: a metric, part by part, at some settings of each.

    Attributes:
        criterion: What chose or measured.
        unpruned: The metric of the whole model.
        tried: The settings: of what is removed, shares of a group.
        groups: One entry for each group, in the order of the model.
        measured: What the metric is called, such as `"accuracy"`.

    Class attributes:
        unit: What the width of a group counts.
        parts: Attributes that hold groups.
        tried_are: What the settings are, for tables and plots.
        begins_at: Setting at which the model is whole; `None` where there is no such setting.
    """

    criterion: str
    unpruned: float
    tried: tuple[float, ...]
    groups: tuple[GroupSensitivity, ...]
    measured: str = "metric"
    unit: ClassVar[str] = "channels"
    parts: ClassVar[tuple[str, ...]] = ("groups",)
    tried_are: ClassVar[str] = "share removed"
    begins_at: ClassVar[float | None] = 0.0

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines; `print` shows the table."""
        worst = sorted(self.groups, key=lambda group: min(group.values, default=0.0))
        lowest = [f"{group.name} {min(group.values):.4g}" for group in worst if group.values]
        return f"{type(self).__name__} of {len(self.groups)} groups of {self.unit}, by {self.criterion}", [
            ("unpruned", f"{self.unpruned:.6g}"),
            ("tried", ", ".join(f"{ratio:g}" for ratio in self.tried)),
            ("lowest", names(lowest, ".groups")),
        ]

    def table(self) -> RenderableType:
        """The metric by group and ratio, as a rich table."""
        return lookup("report", "sensitivity_table")(self)  # type: ignore[no-any-return]

    def plot(self, where: Any = None, title: str | None = None, max_drop: float | None = None) -> Figure:
        """The metric by group and ratio as a figure: curves, or a map of cells where groups are many.

        Args:
            where: Path of an image to write, or matplotlib axes to draw on; `None` only makes the figure.
            title: Above the plot.
            max_drop: A loss of the metric that is tolerated, to be drawn as a line.

        Raises:
            ImportError: Without matplotlib, which the extra `report` brings.
        """
        return lookup("report", "sensitivity_plot")(self, where, title, max_drop)  # type: ignore[no-any-return]

    def to_json(self) -> str:
        """All of it as JSON."""
        return json.dumps(asdict(self), indent=1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, whole or not at all.

        Args:
            path: Ends in `.json`.

        Raises:
            ValueError: For another ending.
        """
        path = check_output(path, ".json")
        # A name that is nobody's.
        temporary = path.with_name(f".keras_compress-{secrets.token_hex(8)}.tmp")
        try:
            with open(temporary, "x", encoding="utf-8") as file:
                file.write(self.to_json())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def from_json(cls: type[_Found], text: str) -> _Found:
        """What `to_json` wrote.

        Raises:
            ValueError: For anything else.
        """
        try:
            found = json.loads(text)
            groups = {
                part: tuple(
                    GroupSensitivity(each["name"], tuple(each["layers"]), each["width"], tuple(each["values"]))
                    for each in found[part]
                )
                for part in cls.parts
            }
            result = cls(**{**found, "tried": tuple(found["tried"]), **groups})
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"Expected JSON that `Sensitivity.to_json` wrote. Received: {error!r}") from error
        if any(len(group.values) != len(result.tried) for part in groups.values() for group in part):
            raise ValueError("Expected JSON that `Sensitivity.to_json` wrote. Received: groups with too few values")
        return result

    @classmethod
    def load(cls: type[_Found], path: str | os.PathLike[str]) -> _Found:
        """What `save` wrote."""
        with open(path, encoding="utf-8") as file:
            return cls.from_json(file.read())

    def __str__(self) -> str:
        return text_of(self.table())


@dataclass(frozen=True, repr=False)
class Sensitivity(Scan):
    """What `sensitivity` of channels found.

    Attributes:
        criterion: Name of the criterion that ranked the channels.
        unpruned: The metric of the unpruned model.
        tried: Shares of a group's channels that were removed.
        groups: One entry for each group, in the order of the model.
    """

    def ratios(self, max_drop: float = 0.01) -> list[dict[str, Any]]:
        """Rules for `prune_channels`: for each group the largest ratio tried that loses at most `max_drop`.

        A group that loses more at every ratio is skipped. The losses of groups pruned together add up to more than
        those of each alone.

        Args:
            max_drop: In units of the metric, >= 0: 0.01 is one point of accuracy.
        """
        if not max_drop >= 0:
            raise ValueError(f"Expected `max_drop` >= 0. Received: max_drop={max_drop}")
        uses = Counter(path for group in self.groups for path in group.layers)
        chosen: dict[str, float] = {}
        for group in self.groups:
            lost = self.unpruned - np.array(group.values)
            # 0.90 - 0.89 is a little more than 0.01.
            kept = [ratio for ratio, drop in zip(self.tried, lost, strict=True) if drop <= max_drop + 1e-9]
            # One layer stands for the group: one that is in no other, if there is one.
            path = min(group.layers, key=lambda each: uses[each])
            chosen[path] = min(chosen.get(path, 1.0), max(kept, default=0.0))
        return [
            {"layers": exactly(path, uses), "ratio": ratio} if ratio else {"layers": exactly(path, uses), "skip": True}
            for path, ratio in chosen.items()
        ]


@register("sensitivity", "channels")
@global_state_kept()
def channel_sensitivity(
    model: keras.Model,
    evaluate: Callable[[keras.Model], float] | None = None,
    *,
    data: Any = None,
    ratios: Sequence[float] = RATIOS,
    criterion: Criterion | str | Mapping[str, Any] = "l1",
    loss: Any = None,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
) -> Sensitivity:
    """How much a model minds the loss of channels, group by group: each is pruned alone, by several ratios.

    The channels are set to zero in one copy of the model, which computes what the cut model would (and has a
    `ChannelGate` where something without weights sums over channels). Nothing is built or
    traced for a point: each costs one evaluation.

    Args:
        model: Built model.
        evaluate: `evaluate(model)` -> a metric, the higher the better. It is given the same model each time, not
            compiled. By default the accuracy on `data`.
        data: `(x, y)`, or batches of them that can be gone through more than once: class numbers or one-hot rows. Also
            for criteria that need data.
        ratios: Shares of a group's channels to remove, in (0, 1).
        criterion: What channels are ranked by.
        loss: Loss for criteria that need gradients; the model's compiled one by default.
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}`.

    Returns:
        The metric at each point: `print(result)`, `result.plot("sensitivity.png")`, and
        `prune_channels(model, rules=result.ratios(max_drop=0.01))`.

    Raises:
        ValueError: Without a metric, for ratios out of (0, 1), a rule that matches nothing, or a model whose channels
            are all frozen.

    **Reference**: Li et al., "Pruning filters for efficient ConvNets" (2017), section 3.2 and figure 2 (b).
    **Deviations**: layers that make channels together are pruned together.
    """
    criterion = checked_criterion(criterion)
    tried = checked_ratios(ratios)
    metric = metric_of(evaluate, data, model)
    examples = Examples.for_model(model, data, loss, criterion.needs, f"criterion {type(criterion).__name__}")
    graph = _graph_of_copy(model)
    limits = limits_of(graph, {}, filters, rules)
    groups = [group for group in graph.prunable if group.name in limits]
    with ProgressLine("sensitivity", total=len(groups) * len(tried)) as line:
        line.describe("scores")
        scores = finite_scores(criterion, graph, examples)
        scan = _Scan(graph, scores, metric, metric(graph.model), line)
        found = tuple(GroupSensitivity(each.name, each.layers, len(each), scan.values(each, tried)) for each in groups)
    return Sensitivity(type(criterion).__name__, scan.unpruned, tried, found, name_of_metric(evaluate))


def checked_ratios(ratios: Sequence[float]) -> tuple[float, ...]:
    """Ratios in ascending order.

    Raises:
        ValueError: For none, or one out of (0, 1).
    """
    tried = tuple(sorted({float(ratio) for ratio in ratios}))
    if not tried or not 0.0 < tried[0] <= tried[-1] < 1.0:
        raise ValueError(f"Expected `ratios` in (0, 1), at least one. Received: ratios={tuple(ratios)}")
    return tried


def name_of_metric(evaluate: Any) -> str:
    """What plots call the metric of `metric_of`: a function's own name, if it has one.

    >>> name_of_metric(None), name_of_metric(lambda model: 0.0)
    ('accuracy', 'metric')
    """
    if evaluate is None:
        return "accuracy"
    name = getattr(evaluate, "__name__", "metric")
    return name.replace("_", " ") if name.isidentifier() else "metric"


def metric_of(evaluate: Any, data: Any, model: keras.Model) -> Callable[[keras.Model], float]:
    """What a scan takes of a model: `evaluate`, or the accuracy on `data`.

    Raises:
        ValueError: For neither, or `evaluate` that is no function.
    """
    if evaluate is not None and not callable(evaluate):
        raise ValueError(
            "Expected `evaluate` as a function `model -> metric`; data go to `data=(x, y)`. "
            f"Received: {type(evaluate).__name__}"
        )
    if evaluate is None and data is None:
        raise ValueError(
            "Expected `evaluate`, a function `model -> metric`, or `data=(x, y)` to take the accuracy on. "
            "Received: neither"
        )
    return (lambda model: float(evaluate(model))) if evaluate is not None else Accuracy(Examples.fed_to(model, data))


def _graph_of_copy(model: keras.Model) -> ChannelGraph:
    """The channels of a copy of the model, whose weights may change."""
    graph = channel_graph(model)
    refuse_transforms(graph.model)
    return opened_to_masks(graph)


@dataclass(frozen=True)
class _Scan:
    """Sets channels of one group to zero, evaluates, and puts the weights back."""

    graph: ChannelGraph
    scores: Scores
    metric: Callable[[keras.Model], float]
    unpruned: float
    line: ProgressLine

    def values(self, group: ChannelGroup, ratios: Sequence[float]) -> tuple[float, ...]:
        """The metric at each ratio; ratios that remove as many channels share an evaluation."""
        self.line.describe(group.name)
        axes = [
            each
            for each in self.graph.weights
            if each.role in _ROLES and np.isin(self.graph.units[each.ids], group.units).any()
        ]
        before = {id(each.variable): keras.ops.convert_to_numpy(each.variable) for each in axes}
        order = group.units[np.argsort(self.scores[group.units], kind="stable")]
        known = {0: self.unpruned}
        found = []
        for ratio in ratios:
            count = len(group) - rounded(len(group) * (1.0 - ratio), len(group), 1)
            if count not in known:
                known[count] = self._without(order[:count], axes, before)
            found.append(known[count])
            self.line.advance()
        _assign(axes, before)
        return tuple(found)

    def _without(
        self, units: NDArray[np.int64], axes: Sequence[WeightAxis], before: Mapping[int, NDArray[Any]]
    ) -> float:
        removed = self.graph.none_removed()
        removed[units] = True
        values = dict(before)
        for each in axes:
            values[id(each.variable)] = values[id(each.variable)] * mask_factor(self.graph, removed, each)
        _assign(axes, values)
        return self.metric(self.graph.model)


def _assign(axes: Sequence[WeightAxis], values: Mapping[int, NDArray[Any]]) -> None:
    for variable in {id(each.variable): each.variable for each in axes}.values():
        variable.assign(values[id(variable)])
