from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import keras_compress as kc
from keras_compress.core import registry
from keras_compress.core.budget import Cost


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({}, "Expected at least one cost"),
        (0.5, "Expected costs and how much of each to keep"),
        (
            {"joules": 0.5},
            r"Expected a cost out of \['arena', 'average_bits', 'bits', 'bops', 'bytes', 'energy', 'energy_uj', "
            r"'latency', 'latency_ms', 'macs', 'nonzeros', 'params'",
        ),
        ({"flops": 0.5}, r"'flops' \(did you mean 'macs'\?\)"),
        ({"parms": 0.5}, r"'parms' \(did you mean 'params'\?\)"),
        ({"ram": 0.5}, r"'ram' \(did you mean 'arena'\?\)"),
        (
            {"macs": 1.0},
            r"a fraction in \(0, 1\) of the MACs to keep, or more than 1 MACs. Received: .'macs': 1",
        ),
        ({"macs": 0}, r"Expected a fraction in \(0, 1\)"),
        ({"macs": -0.5}, r"Expected a fraction in \(0, 1\)"),
        ({"macs": True}, r"Expected a fraction in \(0, 1\)"),
        ({"macs": "half"}, r"Expected a fraction in \(0, 1\)"),
        ({"bytes": float("nan")}, r"Expected a fraction in \(0, 1\) of the bytes"),
        ({"latency_ms": 0}, "Expected more than 0 ms"),
        ({3: 0.5}, "Expected a cost such as 'macs'"),
    ],
)
def test_bad_targets(target: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kc.Budget.of(target)


def test_what_is_a_fraction_and_what_a_figure() -> None:
    limits = kc.Budget(macs=np.float32(0.5), params=2, latency=0.8, latency_ms=0.8, bytes=1e5)
    assert [(limit.most, limit.is_fraction) for limit in limits] == [
        (0.5, True),
        (2.0, False),
        (0.8, True),
        (0.8, False),
        (1e5, False),
    ]
    assert repr(limits) == (
        "Budget\n  macs        0.5 of the MACs\n  params      2 parameters\n  latency     0.8 of the latency\n"
        "  latency_ms  0.8 ms\n  bytes       100,000 bytes"
    )


def test_every_cost_of_the_registry_has_a_name_and_says_what_it_is() -> None:
    for name, cost in registry.entries("cost").items():
        assert issubclass(cost, Cost)
        assert cost.noun
        (limit,) = kc.Budget({name.lower(): 0.5})
        assert type(limit.cost) is cost
        (given,) = kc.Budget({limit.cost: 0.5})
        assert given.cost is limit.cost


def test_a_cost_of_ones_own_is_a_name_in_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._ENTRIES, "cost", registry.entries("cost"))

    @kc.register("cost")
    class LayerCount(Cost):
        noun = "layers"

        def of(self, model: Any) -> float:
            return float(len(model.layers))

    (limit,) = kc.Budget(layer_count=3)
    assert str(limit) == "3 layers"
    assert isinstance(limit.cost, LayerCount)


def test_a_cost_that_counts_nothing_says_what_to_write() -> None:
    with pytest.raises(NotImplementedError, match=r"Cost must implement `of\(model\)`"):
        Cost().of(None)


def test_a_cost_given_by_a_mapping_and_by_name_is_refused():
    with pytest.raises(ValueError, match=r"Expected each cost once. Received: \['macs'\] twice"):
        kc.Budget({"macs": 0.5}, macs=0.4)
