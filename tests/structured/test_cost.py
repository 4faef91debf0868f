from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.structured import channel_budget, cost
from keras_compress.structured.dependency import channel_graph


def net(width: int = 64) -> keras.Model:
    keras.utils.set_random_seed(0)
    named = [layers.Dense(width, name="a"), layers.Dense(width, name="b"), layers.Dense(3, name="c")]
    return keras.Sequential([keras.Input((16,), name="x"), *named], name="net")


def share_of_hundred(ratio: float) -> np.ndarray:
    return np.arange(100) < round(100 * ratio)


def test_within_budget_takes_the_smallest_ratio() -> None:
    removed = channel_budget.within_budget(share_of_hundred, lambda removed: float((~removed).sum()), 37.0)
    assert removed.sum() == 63
    assert channel_budget.within_budget(share_of_hundred, lambda removed: 1.0, 0.5).sum() == 100


@pytest.mark.parametrize(
    ("of_left", "most_evaluations"),
    [
        (lambda left: 0.1 + 0.009 * left, 3),  # a file: overhead and weights
        (lambda left: (left / 100) ** 2, 6),
        (lambda left: 0.3 if left < 57 else 1.0, 8),  # a cliff: what is just below it is found
    ],
)
def test_search_finds_the_largest_that_meets_the_goal(of_left: Any, most_evaluations: int) -> None:
    tried = []

    def measured(removed: np.ndarray) -> float:
        tried.append(int((~removed).sum()))
        return of_left(tried[-1])

    search = channel_budget._Search(share_of_hundred, measured, lambda removed: float((~removed).sum()), 0.5, 0.0)
    over = channel_budget._Candidate(share_of_hundred(0.0), 100.0, 1.0)
    found = search.run(
        over, channel_budget._Candidate(share_of_hundred(0.9), 10.0, of_left(10)), most_evaluations
    ).removed
    best = max(left for left in range(101) if of_left(left) <= 0.5)
    assert (~found).sum() == best
    assert len(tried) <= most_evaluations
    assert len(set(tried)) == len(tried)


def test_a_measured_cost_stops_within_its_tolerance() -> None:
    @dataclass
    class Squares(cost.ChannelCost):
        evaluations = 6
        tolerance = 0.05
        tried: list[float] = field(default_factory=list)
        __hash__ = object.__hash__

        def value(self, graph: Any, removed: Any) -> float:
            self.tried.append(float(graph.params(removed)) ** 2)
            return self.tried[-1]

    squares = Squares()
    pruned = kc.prune_channels(net(), target={squares: 0.4}, round_to=1)
    assert 0.35 <= (pruned.count_params() / net().count_params()) ** 2 <= 0.4
    # It needs fewer than it may, and one for the unpruned model.
    assert len(squares.tried) < 1 + squares.evaluations


def test_an_unreachable_target_says_the_nearest_before_anything_is_trained() -> None:
    trained: list[Any] = []
    model = net()
    nearest = kc.prune_channels(model, 0.5).count_params() / model.count_params()
    with pytest.raises(ValueError, match="Expected a target that can be reached.*fraction 0.1 of the parameters") as e:
        kc.prune_channels(
            model, target={"params": 0.1}, max_ratio=0.5, iterations=2, fine_tune=lambda model: trained.append(model)
        )
    assert f"the nearest is {nearest:.4g}" in str(e.value)
    assert not trained


def test_ratios_of_rules_count_in_full_when_reach_is_told() -> None:
    counts = []
    rules = [{"layers": "a", "ratio": 0.8}]
    target = {"params": 0.1}
    pruned = kc.prune_channels(net(), target=target, round_to=1, rules=rules, iterations=2, fine_tune=counts.append)
    assert pruned.count_params() <= 0.1 * net().count_params()
    assert counts[0].count_params() > 0.5 * net().count_params()


def test_steps_go_equal_parts_of_the_way() -> None:
    counts = []
    model = net()
    kc.prune_channels(
        model,
        target={kc.Params(): 0.5},
        round_to=1,
        iterations=2,
        fine_tune=lambda model: counts.append(model.count_params()),
    )
    assert counts[0] / model.count_params() == pytest.approx(0.75, abs=0.02)


def images(widths: Sequence[int]) -> keras.Model:
    """3x3 convolutions, a pooling before every second one."""
    x = inputs = keras.Input((16, 16, 3))
    for number, width in enumerate(widths):
        x = layers.MaxPooling2D()(x) if number % 2 else x
        x = layers.Conv2D(width, 3, padding="same", name=f"c{number}")(x)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("name", ["macs", "params"])
@pytest.mark.parametrize("widths", [(32,) * 5, (16, 16, 32, 32, 64)])
def test_a_budget_is_used_where_all_widths_step_at_once(widths: Sequence[int], name: str, scope: str) -> None:
    model = images(widths)
    pruned = kc.prune_channels(model, target={name: 0.5}, scope=scope)
    counts = [getattr(channel_graph(each), name)() for each in (pruned, model)]
    assert 0.47 <= counts[0] / counts[1] <= 0.5
    left = [layer.filters for layer in pruned.layers if isinstance(layer, layers.Conv2D)]
    assert all(count % (8 if width >= 32 else 4) == 0 for count, width in zip(left, widths, strict=True))


@pytest.mark.parametrize("loud", ["a", "b"])
def test_the_group_whose_next_channels_matter_most_gets_a_step_back_first(loud: str) -> None:
    """Both would have 16 channels, or both 24; 24 and 16 is what fits. Layers with a ratio of their own keep to it."""
    x = keras.Input((4,))
    named = [layers.Dense(32, name=name)(x) for name in "abc"]
    model = keras.Model(x, layers.Dense(4)(layers.Concatenate()(named)))
    for layer in (model.get_layer(name) for name in "abc"):
        following = 1.9 if layer.name == loud else 0.5
        layer.kernel.assign(np.tile(np.repeat([2.0, following, 0.1], [16, 8, 8]), (4, 1)))
    rules = [{"layers": "c", "ratio": 0.75}]
    # 9 parameters for each of 96 channels, and 4 biases: a share of (9 * 48 + 4) / 868.
    pruned = kc.prune_channels(model, target={"params": 0.51}, rules=rules)
    expected = {"a": 16, "b": 16, "c": 8, loud: 24}
    assert {name: pruned.get_layer(name).units for name in "abc"} == expected


def test_a_budget_that_no_width_comes_near_is_said() -> None:
    wide = keras.Sequential([keras.Input((16,)), layers.Dense(32, name="a"), layers.Dense(3)])
    with pytest.warns(
        UserWarning,
        match=r"0\.\d+ of the parameters are left, where the target is 0\.7 of the parameters: .*`round_to=1`",
    ):
        pruned = kc.prune_channels(wide, target={"params": 0.7})
    assert pruned.get_layer("a").units == 16
    assert kc.prune_channels(wide, target={"params": 0.7}, round_to=1).get_layer("a").units == 22


def test_a_measured_budget_is_filled_in_single_steps() -> None:
    class Counted(cost.ChannelCost):
        evaluations = 6

        def value(self, graph: Any, removed: Any) -> float:
            return 1e3 + graph.params(removed)

    model = images((32,) * 4)
    pruned = kc.prune_channels(model, target={Counted(): 0.5})
    share = (1e3 + pruned.count_params()) / (1e3 + model.count_params())
    assert 0.47 <= share <= 0.5


def test_a_figure_is_kept_as_a_fraction_is() -> None:
    model = net()
    most = model.count_params() // 2
    by_figure, by_fraction = (
        kc.prune_channels(model, target=kc.Budget(params=value), round_to=1) for value in (most, most / (2 * most))
    )
    assert most - 100 <= by_figure.count_params() <= most
    assert by_figure.count_params() == by_fraction.count_params()


@pytest.mark.parametrize(("macs", "params"), [(0.9, 0.3), (0.3, 0.9), (0.4, 0.4)])
def test_all_limits_of_a_budget_are_kept_and_the_tightest_is_used(macs: float, params: float) -> None:
    model = images((16, 16, 32, 32, 64))
    pruned = kc.prune_channels(model, target=kc.Budget(macs=macs, params=params), round_to=1)
    before, after = ((channel_graph(each).macs(), each.count_params()) for each in (model, pruned))
    left = [new / old for old, new in zip(before, after, strict=True)]
    assert left[0] <= macs
    assert left[1] <= params
    assert max(left[0] - macs, left[1] - params) > -0.03


def test_a_counted_and_a_measured_limit_together() -> None:
    model = net()
    size = len(kc.convert(model, mode="float32").content)
    pruned = kc.prune_channels(model, target=kc.Budget(bytes=size // 2, macs=0.9), round_to=1)
    assert 0.45 * size <= len(kc.convert(pruned, mode="float32").content) <= size // 2


def test_several_measured_costs_see_the_same_candidates_each_cut_once() -> None:
    class Weights(kc.Cost):
        noun = "weights"

        def __init__(self) -> None:
            self.seen: list[keras.Model] = []

        def of(self, model: keras.Model) -> float:
            self.seen.append(model)
            return float(model.count_params())

    first, second = Weights(), Weights()
    model = net()
    pruned = kc.prune_channels(model, target={first: 0.5, second: 2000}, round_to=1)
    assert pruned.count_params() <= 2000 < model.count_params()
    assert len(first.seen) > 2
    assert all(one is other for one, other in zip(first.seen, second.seen, strict=True))


def test_what_is_within_its_budget_stays_and_is_said() -> None:
    model = net()
    count = model.count_params()
    with pytest.warns(UserWarning, match=rf"costs {count:,} parameters, within its budget of {count + 1:,} parameters"):
        same = kc.prune_channels(model, target={"params": count + 1})
    assert same.count_params() == count


def test_a_figure_out_of_reach_is_told_in_its_unit() -> None:
    least = kc.prune_channels(net(), 0.5, round_to=1).count_params()
    with pytest.raises(ValueError, match=rf"Received: 100 parameters to keep; the nearest is {least:,} parameters"):
        kc.prune_channels(net(), target=kc.Budget(params=100), max_ratio=0.5, round_to=1)


def test_the_arena_is_that_of_the_runtime() -> None:
    model = images((16, 16))
    whole = kc.Arena().of(model)
    x = np.random.default_rng(0).normal(size=(1, 16, 16, 3)).astype(np.float32)
    artifact = kc.convert(model, "tflm", mode="float32")
    assert whole == kc.measure(artifact, x, target="tflm").memory["arena_minimum_bytes"]
    pruned = kc.prune_channels(model, target=kc.Budget(arena=0.6), round_to=1)
    assert 0.5 * whole <= kc.Arena().of(pruned) <= 0.6 * whole


def test_bytes_are_those_of_the_file() -> None:
    model = net()
    pruned = kc.prune_channels(model, target={"bytes": 0.5}, round_to=1)
    sizes = [len(kc.convert(each, mode="float32").content) for each in (pruned, model)]
    assert 0.45 * sizes[1] <= sizes[0] <= 0.5 * sizes[1]


def test_int8_bytes_need_data() -> None:
    graph = channel_graph(net())
    data = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    whole = kc.FileBytes("int8", data).whole(graph.model)
    assert whole == len(kc.convert(graph.model, mode="int8", representative_dataset=data).content)
    with pytest.raises(ValueError, match="representative_dataset"):
        kc.prune_channels(graph.model, target={kc.FileBytes("int8"): 0.5})


def test_latency_times_candidate_and_unpruned_model_in_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[dict[str, int]] = []
    latency = kc.Latency("litert")

    def by_size(contents: dict[str, bytes], runs_: int) -> dict[str, Any]:
        runs.append({label: len(content) for label, content in contents.items()})
        # A machine that is slower in each run: only ratios within a run mean anything.
        return {k: kc.runtime.target.Latency(len(v) * 2 ** len(runs), *[0] * 7) for k, v in contents.items()}

    monkeypatch.setattr(latency.runner, "latency", lambda contents, runs, warmup: by_size(contents, runs))
    pruned = kc.prune_channels(net(), target={latency: 0.5}, round_to=1)
    assert len(kc.convert(pruned, mode="float32").content) in {run["candidate"] for run in runs}
    assert {run["given"] for run in runs} == {len(kc.convert(net(), mode="float32").content)}
    assert 0.45 <= len(kc.convert(pruned, mode="float32").content) / runs[0]["given"] <= 0.5


def test_latency_on_a_runtime() -> None:
    model = net()
    latency = kc.Latency("litert", runs=20, warmup=2)
    assert latency.of(model) > 0
    assert latency.fraction(model, latency.whole(model)) > 0


def test_latency_refuses_what_no_runtime_offers() -> None:
    with pytest.raises(ValueError, match="Expected a target out of"):
        kc.Latency("gpu")
    with pytest.raises(ValueError, match="Expected threads=1 for target 'tflm'"):
        kc.Latency("tflm", threads=2)
