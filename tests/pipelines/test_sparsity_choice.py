"""Sparsities layer by layer under a budget of weights or of the file's bytes."""

from __future__ import annotations

from itertools import product

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.pipelines.bit_choice import InfeasibleError
from keras_compress.structured.sensitivity import GroupSensitivity


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((16,)), layers.Dense(64, "relu", name="a"), layers.Dense(32, "relu", name="b"), layers.Dense(4)]
    )


@pytest.fixture(scope="module")
def found() -> kc.WeightSensitivity:
    """The first layer, 1,024 weights, minds much, the second, 2,048, little; the last is not scanned."""
    groups = (
        GroupSensitivity("a", ("a",), 1024, (0.88, 0.7, 0.4)),
        GroupSensitivity("b", ("b",), 2048, (0.9, 0.89, 0.8)),
    )
    return kc.WeightSensitivity("magnitude", 0.9, (0.5, 0.75, 0.9), groups)


def test_the_least_loss_of_all_choices(model, found) -> None:
    """Against all pairs of ratios on the grid, their losses by hand."""
    result = kc.choose_sparsities(model, found, {"nonzeros": 1200})
    ratios = (0.0, 0.5, 0.75, 0.9)
    grid = sorted({round(a + (b - a) * n / 4, 6) for a, b in zip(ratios, ratios[1:]) for n in range(5)})
    lost = {"a": (0.0, 0.02, 0.2, 0.5), "b": (0.0, 0.0, 0.01, 0.1)}
    feasible = [
        sum(np.interp(each, ratios, lost[name]) for name, each in zip("ab", pair))
        for pair in product(grid, grid)
        if round(1024 * (1 - pair[0])) + round(2048 * (1 - pair[1])) + 128 <= 1200
    ]
    assert result.loss == pytest.approx(min(feasible))
    pruned = kc.prune_one_shot(model, result.sparsities)
    assert kc.Nonzeros().of(pruned) == result.costs["nonzeros"] <= 1200
    assert result.sparsities["b"] > result.sparsities["a"]
    assert "predicted loss" in repr(result)
    # A fraction is of the weights there are now: 3,200.
    assert kc.choose_sparsities(model, found, kc.Budget(nonzeros=0.5)).limits == {"nonzeros": 1600.0}


def test_bytes_of_the_file_as_it_is_stored(model, found) -> None:
    x = np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32)
    options = {"target": "tflm", "weights_storage": "bitmap", "mode": "int8", "representative_dataset": x}
    whole = len(kc.convert(model, **options).content)
    result = kc.choose_sparsities(model, found, {"bytes": 0.75 * whole}, convert_options=options)
    content = kc.convert(kc.prune_one_shot(model, result.sparsities), **options).content
    assert len(content) == result.costs["bytes"] <= 0.75 * whole
    with pytest.raises(ValueError, match="Expected `convert_options`"):
        kc.choose_sparsities(model, found, {"bytes": 2000})


def test_what_no_choice_keeps_names_the_nearest(model, found) -> None:
    with pytest.raises(InfeasibleError, match=r"nonzeros <= 300; the nearest that is feasible: nonzeros 435"):
        kc.choose_sparsities(model, found, {"nonzeros": 300})


def test_other_costs_and_sensitivities(model, found) -> None:
    with pytest.raises(ValueError, match="Expected a budget of 'nonzeros' or 'bytes'. Received: Latency"):
        kc.choose_sparsities(model, found, {"latency": 0.5})
    with pytest.raises(TypeError, match="Expected `sensitivity` as kc.sensitivity"):
        kc.choose_sparsities(model, 0.5, {"nonzeros": 0.5})


def test_nonzeros_of_wrapped_and_tied_layers(model) -> None:
    assert kc.Nonzeros().of(model) == 16 * 64 + 64 * 32 + 32 * 4
    pruned = kc.prune_one_shot(model, 0.5)
    assert kc.Nonzeros().of(pruned) == kc.Nonzeros().of(kc.strip(pruned)) == 1600
    first, second = (keras.layers.Dense(4, use_bias=False, name=name) for name in "ab")
    tied = keras.Sequential([keras.Input((4,)), first, second])
    vars(second)["_kernel"] = first._kernel
    assert second.kernel is first.kernel
    assert kc.Nonzeros().of(tied) == 16
