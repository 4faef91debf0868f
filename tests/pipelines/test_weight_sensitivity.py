"""Sensitivity of weights: each layer alone, and the sparsities that follow from it."""

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.pipelines.weight_sensitivity import WeightSensitivity
from keras_compress.structured.sensitivity import GroupSensitivity


def net() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(5, activation="relu", name="first"), keras.layers.Dense(2, name="last")]
    )


def found(first: tuple[float, ...], last: tuple[float, ...]) -> WeightSensitivity:
    groups = (GroupSensitivity("first", ("first",), 100, first), GroupSensitivity("last", ("last",), 100, last))
    return WeightSensitivity("magnitude", 0.9, (0.5, 0.8), groups)


def test_the_smallest_weights_of_one_layer_go_and_come_back() -> None:
    model = net()
    before = [np.array(w) for w in model.get_weights()]
    seen = []

    def zeros(tried: keras.Model) -> float:
        kernels = [np.array(layer.kernel) for layer in tried.layers]
        seen.append([int((kernel == 0).sum()) for kernel in kernels])
        kept = np.abs(kernels[0][kernels[0] != 0])
        assert kept.min() >= np.sort(np.abs(before[0]).reshape(-1))[seen[-1][0]]
        return 1.0

    result = kc.sensitivity(model, zeros, ratios=(0.25, 0.5), of="weights")
    assert seen == [[0, 0], [5, 0], [10, 0], [0, 2], [0, 5]]
    assert [(group.name, group.width) for group in result.groups] == [("first", 20), ("last", 10)]
    for kept, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, now)


def test_layers_get_the_sparsity_that_costs_each_the_same() -> None:
    # The first layer loses 0.1 at 0.5 and 0.4 at 0.8, the last 0.05 and 0.1: a drop of 0.1 allows 0.5 and 0.8.
    result = found((0.8, 0.5), (0.85, 0.8))
    assert result.sparsities(0.65) == {"first": pytest.approx(0.5, abs=1e-3), "last": pytest.approx(0.8, abs=1e-3)}
    # Half the drop: 0.25 on the way to 0.5, and exactly 0.5.
    assert result.sparsities(0.375) == {"first": pytest.approx(0.25, abs=1e-3), "last": pytest.approx(0.5, abs=1e-3)}


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.7, 0.9, 0.97])
def test_the_whole_gets_the_sparsity_asked_for(sparsity: float) -> None:
    result = found((0.9, 0.9), (0.7, 0.95))
    values = result.sparsities(sparsity)
    assert np.mean(list(values.values())) == pytest.approx(sparsity, abs=1e-3)
    assert max(values.values()) <= 0.98


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="Expected `sparsity` in"):
        found((0.8, 0.5), (0.85, 0.8)).sparsities(1.0)
    with pytest.raises(ValueError, match="Expected `ratios` in"):
        kc.sensitivity(net(), lambda model: 1.0, ratios=(0.0,), of="weights")
    with pytest.raises(ValueError, match="Expected `evaluate`"):
        kc.sensitivity(net(), of="weights")


def test_json_and_table() -> None:
    result = found((0.8, 0.5), (0.85, 0.8))
    assert WeightSensitivity.from_json(result.to_json()) == result
    assert "weights" in str(result)


def test_the_old_name_works_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="of='weights'"):
        old = kc.weight_sensitivity(net(), lambda model: 1.0, ratios=(0.5,))
    assert old == kc.sensitivity(net(), lambda model: 1.0, ratios=(0.5,), of="weights")


def test_what_is_no_scan_or_option_is_refused() -> None:
    known = r"\['bits', 'channels', 'ranks', 'weights'\]"
    with pytest.raises(ValueError, match=f"Expected a sensitivity out of {known}. Received: 'bites'"):
        kc.sensitivity(net(), lambda model: 1.0, of="bites")
    with pytest.raises(ValueError, match=r"out of \['ratios', 'filters'\] for of='weights'.*criterion"):
        kc.sensitivity(net(), lambda model: 1.0, of="weights", criterion="l2")
