"""What `prune_channels` promises: ratios, budgets, schedules, limits, one ranking of all, and what it refuses."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.structured.channel_graph import ChannelGraph
from keras_compress.structured.dependency import channel_graph


def net(widths: tuple[int, ...] = (64, 40, 16)) -> keras.Model:
    """Dense layers `d0`, `d1`, ...; channel `i` of each has the L1 norm `1 + i`, times 100 in `d1`."""
    named = [layers.Dense(n, name=f"d{i}") for i, n in enumerate(widths)]
    model = keras.Sequential([keras.Input((2,)), *named, layers.Dense(3, name="logits")])
    for number, layer in enumerate(named):
        kernel = np.zeros(layer.kernel.shape)
        # Read from the channel that goes last.
        kernel[-1] = (1 + np.arange(layer.units)) * (100 if number == 1 else 1)
        layer.kernel.assign(kernel)
    return model


def widths_of(model: keras.Model) -> list[int]:
    return [layer.units for layer in model.layers if layer.name.startswith("d")]


def test_half_of_each_layer_by_default_lowest_first() -> None:
    pruned = kc.prune_channels(net(), round_to=1)
    assert widths_of(pruned) == [32, 20, 8]
    assert np.array(pruned.get_layer("d2").kernel)[-1].tolist() == [9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"ratio": 0.3}, [48, 32, 12]),  # 44.8 and 28.0 to the nearest multiple of 8; 11.2 of 16 to one of 4
        ({"ratio": 0.3, "round_to": 16}, [48, 32, 12]),
        ({"ratio": 0.3, "round_to": 1}, [45, 28, 11]),
        ({"ratio": 0.7, "max_ratio": 0.7}, [24, 16, 8]),  # 12.0 would round down to 8, below 30 % of 40
        ({"ratio": 0.5, "rules": [{"layers": "d0", "ratio": 0.25}]}, [48, 24, 8]),
        ({"ratio": 0.5, "rules": [{"layers": "d0", "skip": True}, {"layers": "d2", "max_ratio": 0.25}]}, [64, 24, 12]),
        ({"ratio": 0.5, "filters": ["d1", "re:d2$"]}, [64, 24, 8]),
        # 120 channels in all, 36 to go. Divided by their means, the lowest are spread over all layers alike.
        ({"ratio": 0.3, "scope": "global", "round_to": 1}, [45, 28, 11]),
        # Those of the layers that are left in the ranking: 24 of 80, and no more than a tenth of 16.
        (
            {"ratio": 0.3, "scope": "global", "round_to": 1, "rules": [
                {"layers": "d1", "skip": True}, {"layers": "d2", "max_ratio": 0.125},
            ]},
            [42, 40, 14],
        ),
    ],
)  # fmt: skip
def test_widths(settings: dict[str, Any], expected: list[int]) -> None:
    assert widths_of(kc.prune_channels(net(), **settings)) == expected


class Norms(kc.L1):
    """Norms that are compared as they are."""

    comparable = True


def test_a_criterion_whose_scores_can_be_compared_ranks_layers_as_they_are() -> None:
    # 36 of the 120 channels: norms up to 26 are in the first layer and 16 of them in the third, none in the second.
    pruned = kc.prune_channels(net(), 0.3, criterion=Norms(), scope="global", round_to=1)
    assert widths_of(pruned) == [64 - 22, 40, 16 - 14]  # 90 % of the third layer at most: two stay


@pytest.mark.parametrize("cost", ["macs", "params"])
@pytest.mark.parametrize("scope", ["local", "global"])
def test_the_largest_model_within_a_budget(cost: str, scope: str) -> None:
    model = net()
    count = ChannelGraph.macs if cost == "macs" else ChannelGraph.params
    pruned = kc.prune_channels(model, target={cost: 0.5}, scope=scope, round_to=1)
    whole, left = count(channel_graph(model)), count(channel_graph(pruned))
    assert pruned.count_params() == channel_graph(pruned).params()
    # One channel more or less is a few per cent of this model.
    assert 0.45 <= left / whole <= 0.5


def steps(model: keras.Model, **settings: Any) -> list[list[int]]:
    """Widths after each step of pruning."""
    found: list[list[int]] = []
    pruned = kc.prune_channels(model, round_to=1, fine_tune=lambda m: found.append(widths_of(m)), **settings)
    return [*found, widths_of(pruned)]


def test_iterations() -> None:
    model = net((60, 30))
    assert steps(model, ratio=0.6, iterations=3) == [[48, 24], [36, 18], [24, 12]]
    schedule = kc.PolynomialDecay(0.0, 0.4, begin_step=0, end_step=2, power=1, frequency=1)
    assert steps(model, iterations=2, pruning_schedule=schedule) == [[48, 24], [36, 18]]
    # Relative to its last value, the schedule says how far to go towards a ratio, a rule's ratio, or a target.
    rules = [{"layers": "d1", "ratio": 0.2}]
    assert steps(model, ratio=0.8, iterations=2, pruning_schedule=schedule, rules=rules) == [[36, 27], [12, 24]]
    widths = steps(model, target={"params": 0.5}, iterations=2)
    counts = [net((first, second)).count_params() / net((60, 30)).count_params() for first, second in widths]
    assert 0.7 <= counts[0] <= 0.75
    assert 0.45 <= counts[1] <= 0.5


def test_fine_tuning_decides_on_what_goes_next() -> None:
    model = net((8,))

    def train(pruned: keras.Model) -> None:
        kernel = np.array(pruned.get_layer("d0").kernel)
        assert kernel[-1].tolist() == [3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
        pruned.get_layer("d0").kernel.assign(-kernel[:, ::-1])

    before = [np.array(v) for v in model.weights]
    pruned = kc.prune_channels(model, 0.5, iterations=2, fine_tune=train)
    assert np.array(pruned.get_layer("d0").kernel)[-1].tolist() == [-8.0, -7.0, -6.0, -5.0]
    for old, variable in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, np.array(variable))


def test_one_channel_of_each_group_stays() -> None:
    assert widths_of(kc.prune_channels(net((3, 2)), 0.99, max_ratio=0.99, round_to=1)) == [1, 1]
    assert widths_of(kc.prune_channels(net((64, 2)), 0.99, max_ratio=0.99, scope="global")) == [8, 1]


def test_channels_that_stay_are_said_with_the_reason() -> None:
    inputs = keras.Input((4,))
    hidden = layers.Dense(8, name="hidden")(layers.LayerNormalization(name="norm")(layers.Dense(8, name="a")(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(hidden))
    with pytest.warns(UserWarning, match="Channels left as they are: a: norm normalizes over it; allow_inexact=True"):
        pruned = kc.prune_channels(model)
    assert [pruned.get_layer(name).units for name in ("a", "hidden")] == [8, 4]


FINE_TUNE = {"fine_tune": lambda model: None}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1.0}, r"Expected `ratio` in \(0, 1\): at least one channel of each group stays. .*ratio=1.0"),
        ({"ratio": 0.0}, r"Expected `ratio` in \(0, 1\)"),
        ({"ratio": float("nan")}, r"Expected `ratio` in \(0, 1\)"),
        ({"ratio": 0.95}, "Expected `ratio` <= `max_ratio`. Received: ratio=0.95, max_ratio=0.9"),
        ({"ratio": 0.5, "target": {"macs": 0.5}}, "Expected either `ratio` or `target`"),
        ({"max_ratio": 1.0}, r"Expected `max_ratio` in \(0, 1\)"),
        ({"target": {"macs": 0.001}}, r"target that can be reached.* 0.001 of the MACs to keep; the nearest is 0.0\d+"),
        ({"criterion": "taylor"}, r"Expected `data=\(x, y\)`, which criterion Taylor needs"),
        ({"criterion": "norm"}, r"Expected a channel_criterion out of \[.*'L1'"),
        ({"criterion": 3}, "Expected a channel criterion, such as 'l1'. Received: criterion=3"),
        ({"scope": "model"}, "Expected `scope` as 'local' or 'global'"),
        ({"round_to": 2.5}, "Expected `round_to` as an integer >= 1"),
        ({"iterations": 0}, "Expected `iterations` as an integer >= 1"),
        ({"iterations": 3}, "Expected `fine_tune` together with `iterations` > 1"),
        ({**FINE_TUNE}, "Expected `fine_tune` together with `iterations` > 1"),
        ({"iterations": 2, "pruning_schedule": 0.5, **FINE_TUNE}, "Expected a Schedule, such as"),
        (
            {"iterations": 2, "pruning_schedule": kc.PolynomialDecay(0.5, 0.1, 0, 2), **FINE_TUNE},
            r"a schedule that rises to more than 0 in 2 iterations. Received: values \[",
        ),
        ({"filters": "d9"}, "matches none of"),
        ({"rules": [{"layers": "d0", "ratio": 1.0}]}, r"Expected `ratio` in \(0, 1\).*ratio=1.0"),
        ({"rules": [{"layers": "d0", "ratio": 0.5}], "scope": "global"}, "no ratios of layers in one ranking of all"),
        ({"rules": [{"layers": "d0", "sparsity": 0.5}]}, r"any of \['max_ratio', 'optional', 'ratio', 'skip'\]"),
        ({"rules": [{"layers": "re:d", "skip": True}]}, "Expected filters and rules that leave something to prune"),
    ],
)  # fmt: skip
def test_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kc.prune_channels(net(), **settings)


def test_a_model_without_channels_to_remove_is_refused() -> None:
    with pytest.raises(ValueError, match="with channels that can be removed. Received: e: an output of the model"):
        kc.prune_channels(keras.Sequential([keras.Input((4,)), layers.Dense(8, name="e")]))


def test_a_group_that_is_left_alone_belongs_to_a_layer_that_is() -> None:
    inputs = keras.Input((4,))
    added = layers.Add()([layers.Dense(8, name="a")(inputs), layers.Dense(8, name="b")(inputs)])
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(8, name="c")(added)))
    with pytest.warns(UserWarning, match="left as they are: a: its channels are also those of b, which is left out"):
        pruned = kc.prune_channels(model, rules=[{"layers": "b", "skip": True}])
    assert [pruned.get_layer(name).units for name in "abc"] == [8, 8, 4]


def test_weights_that_are_not_finite_are_refused() -> None:
    broken = net()
    kernel = np.array(broken.get_layer("d1").kernel)
    kernel[0, 3] = np.nan
    broken.get_layer("d1").kernel.assign(kernel)
    with pytest.raises(ValueError, match="weights and data that give finite scores. Received: L1 scored 1 channels"):
        kc.prune_channels(broken)


def test_a_training_without_data_is_refused_before_anything_is_pruned():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="Expected `fine_tune` that can be called with a model"):
        kc.prune_channels(model, ratio=0.5, iterations=2, fine_tune=kc.Training("mse"))
