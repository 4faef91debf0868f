from __future__ import annotations

import pytest

import keras_compress as kc
from keras_compress.core import registry


def test_methods_of_the_package_are_entered() -> None:
    assert {"ConstantSparsity", "PolynomialDecay", "CosineDecay"} <= set(registry.entries("schedule"))
    assert {"MagnitudePruner", "NMPruner", "CentroidClusterer", "UniformQuantizer"} <= set(
        registry.entries("weight_transform")
    )
    assert {"MovingAverageRange", "LearnedRange", "FixedGrid"} <= set(registry.entries("activation_quantizer"))
    assert registry.lookup("entry_point", "prune_low_magnitude") is kc.prune_low_magnitude


def test_entries_is_a_copy() -> None:
    registry.entries("schedule").clear()
    assert registry.entries("schedule")


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="'PolynomialDecay', which is registered already"):
        registry.register("schedule", "PolynomialDecay")(dict)


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(ValueError, match=r"Expected a schedule out of \[.*'CosineDecay'.*Received: 'Cosine'"):
        registry.lookup("schedule", "Cosine")


def test_resolve() -> None:
    made = registry.resolve("weight_transform", {"class_name": "UniformQuantizer", "config": {"bits": 4}})
    assert isinstance(made, kc.UniformQuantizer)
    assert made.bits == 4
    assert registry.resolve("weight_transform", made) is made
    assert registry.resolve("weight_transform", "UniformQuantizer").bits == 8


@pytest.mark.parametrize(
    ("identifier", "message"),
    [
        ("Uniform", "Received: 'Uniform'"),
        ("MagnitudePruner", "Expected the arguments of MagnitudePruner"),
        ({"class_name": "UniformQuantizer", "config": {"bitz": 4}}, "Expected the arguments of UniformQuantizer"),
        ({"class_name": "UniformQuantizer", "bits": 4}, "'class_name': ..., 'config'"),
        ({"config": {}}, "'class_name': ..., 'config'"),
    ],
)
def test_resolve_refuses(identifier, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry.resolve("weight_transform", identifier)
