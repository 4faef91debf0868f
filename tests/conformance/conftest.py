"""What every conformance test shares: the registered classes with their samples, and how one is tried."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.core import registry
from keras_compress.graph.model import add_transforms

KIND_OF_FIXTURE = {
    "transform": "weight_transform",
    "trained_transform": "weight_transform",
    "first_transform": "weight_transform",
    "quantizer": "activation_quantizer",
    "schedule": "schedule",
}


class Sample:
    """A registered class and constructor arguments for it."""

    def __init__(self, cls: type, arguments: dict[str, Any]) -> None:
        self.cls, self.arguments = cls, arguments

    @property
    def is_constant(self) -> bool:
        """Whether it trains nothing, which it has to say."""
        return "**Gradient** none" in (self.cls.__doc__ or "")

    def make(self) -> Any:
        try:
            return self.cls(**self.arguments)
        except TypeError as error:
            pytest.fail(
                f"{self.cls.__name__} cannot be made from {self.arguments!r} ({error}): give it a classmethod "
                "`samples()` that returns a list of constructor arguments, so that it is covered here."
            )


def samples(kind: str) -> dict[str, Sample]:
    return {
        f"{name}-{i}": Sample(cls, arguments)
        for name, cls in registry.entries(kind).items()
        for i, arguments in enumerate(cls.samples())
    }


def constructor_arguments(cls: type) -> set[str]:
    """Names of the constructor's arguments, those of parent classes that `**kwargs` passes on included."""
    found: set[str] = set()
    for parent in cls.__mro__:
        if not parent.__module__.startswith(("keras_compress", "tests", "test_")) or "__init__" not in vars(parent):
            continue
        parameters = list(inspect.signature(parent.__init__).parameters.values())[1:]
        found |= {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, kind in KIND_OF_FIXTURE.items():
        if fixture in metafunc.fixturenames:
            found = samples(kind)
            if fixture in ("trained_transform", "first_transform"):
                found = {name: sample for name, sample in found.items() if not sample.is_constant}
            if fixture == "first_transform":
                found = {name: sample for name, sample in found.items() if name.endswith("-0")}
            metafunc.parametrize(fixture, list(found.values()), ids=list(found))


class Bench:
    """A small problem to try methods on."""

    x = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    y = np.random.default_rng(1).normal(size=(12, 3)).astype(np.float32)

    def plain(self) -> keras.Model:
        model = keras.Sequential([keras.Input((6,)), layers.Dense(8, name="d")])
        model.layers[0].kernel.assign(np.random.default_rng(2).normal(size=(6, 8)))
        return keras.Sequential([keras.Input((6,)), model.layers[0], layers.Dense(3, activation="relu", name="e")])

    def normalized(self) -> keras.Model:
        """With a BatchNormalization too: what an entry point may need."""
        first, last = self.plain().layers
        norm = layers.BatchNormalization(name="norm")
        return keras.Sequential([keras.Input((6,)), first, norm, layers.ReLU(name="relu"), last])

    def with_transforms(self, *made: Sample) -> keras.Model:
        """The model with one transform after the other on the kernel of layer `d`."""
        model = self.plain()
        for sample in made:
            model = add_transforms(model, lambda *_, s=sample: [s.make()], {}, filters="d")
        return model

    def with_points(self, made: Sample) -> keras.Model:
        return kc.quantize_model(self.plain(), weights=None, activations=made.make())

    def fit(self, model: keras.Model, epochs: int = 2, **kwargs: Any) -> keras.Model:
        if not model.compiled:
            # Eager unless told: nothing to compile for the few steps.
            model.compile(keras.optimizers.Adam(0.01), "mse", **{"run_eagerly": True, **kwargs})
        model.run_eagerly = kwargs.get("run_eagerly", not kwargs)
        model.fit(self.x, self.y, batch_size=12, epochs=epochs, shuffle=False, verbose=0)
        return model

    def wrapper(self, model: keras.Model) -> kc.Compressed:
        return next(layer for layer in model.layers if isinstance(layer, kc.Compressed))


@pytest.fixture
def bench() -> Bench:
    keras.utils.set_random_seed(0)
    return Bench()


@pytest.fixture
def arguments_of() -> Any:
    return constructor_arguments


@pytest.fixture
def all_transforms() -> dict[str, Sample]:
    return samples("weight_transform")
