"""What every conformance test shares: the registered classes with their samples, and how one is tried."""

from __future__ import annotations

from typing import Any

import keras
import pytest

from keras_compress.core import registry
from keras_compress.testing.sample import Bench, Sample, constructor_arguments, samples_of

KIND_OF_FIXTURE = {
    "transform": "weight_transform",
    "trained_transform": "weight_transform",
    "first_transform": "weight_transform",
    "quantizer": "activation_quantizer",
    "schedule": "schedule",
    "distillation": "distillation",
}
# Of the layer that `Bench` gives the transforms to.
KERNEL = (6, 8)


def samples(kind: str) -> dict[str, Sample]:
    return {
        f"{name}-{i}": sample
        for name, cls in registry.entries(kind).items()
        for i, sample in enumerate(samples_of(cls))
        # What takes other weights than those of a Dense has tests of its own.
        if not getattr(cls, "refuses", lambda shape: None)(KERNEL)
    }


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, kind in KIND_OF_FIXTURE.items():
        if fixture in metafunc.fixturenames:
            found = samples(kind)
            if fixture in ("trained_transform", "first_transform"):
                found = {name: sample for name, sample in found.items() if sample.cls.trains}
            if fixture == "first_transform":
                found = {name: sample for name, sample in found.items() if name.endswith("-0")}
            metafunc.parametrize(fixture, list(found.values()), ids=list(found))


@pytest.fixture
def bench() -> Bench:
    keras.utils.set_random_seed(0)
    return Bench()


@pytest.fixture
def arguments_of() -> Any:
    return constructor_arguments


@pytest.fixture
def all_quantizers() -> dict[str, Sample]:
    return samples("activation_quantizer")


@pytest.fixture
def all_transforms() -> dict[str, Sample]:
    return samples("weight_transform")
