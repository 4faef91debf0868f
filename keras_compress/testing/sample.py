"""A class of methods with constructor arguments, and a small problem to try it on."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_compress.core.wrapper import Compressed
from keras_compress.graph.model import add_transforms
from keras_compress.quantizers.model import quantize_model


class Sample:
    """A class and constructor arguments for it.

    Args:
        cls: A class of methods: of transforms, quantizers, schedules or criteria.
        arguments: Keyword arguments of its constructor.
    """

    def __init__(self, cls: Any, arguments: dict[str, Any] | None = None) -> None:
        self.cls, self.arguments = cls, arguments or {}

    def __repr__(self) -> str:
        return f"{self.cls.__name__}({', '.join(f'{key}={value!r}' for key, value in self.arguments.items())})"

    def make(self) -> Any:
        """A new object.

        Raises:
            AssertionError: Where the constructor does not take the arguments.
        """
        try:
            return self.cls(**self.arguments)
        except TypeError as error:
            raise AssertionError(
                f"Expected {self.cls.__name__} to be made from {self.arguments!r} ({error}): give it a classmethod "
                "`samples()` that returns a list of constructor arguments."
            ) from error


def samples_of(cls: Any) -> list[Sample]:
    """What a class names in its classmethod `samples()`, one without arguments by default."""
    return [Sample(cls, arguments) for arguments in (cls.samples() if hasattr(cls, "samples") else [{}])]


def constructor_arguments(cls: Any) -> set[str]:
    """Names of the constructor's arguments, those of parent classes that `**kwargs` passes on included."""
    names: set[str] = set()
    for parent in cls.__mro__:
        if parent.__module__.split(".")[0] in ("builtins", "keras", "tensorflow"):
            continue
        if "__init__" not in vars(parent):
            continue
        parameters = list(inspect.signature(parent.__init__).parameters.values())[1:]
        names |= {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names


class Bench:
    """A small problem: 12 samples of 6 random features and 3 targets, a Dense of 8 units and one of 3."""

    x = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    y = np.random.default_rng(1).normal(size=(12, 3)).astype(np.float32)

    def plain(self) -> keras.Model:
        """The model without any method; its weights are the same each time."""
        model = keras.Sequential([keras.Input((6,)), layers.Dense(8, name="d"), layers.Dense(3, "relu", name="e")])
        for seed, layer in enumerate(model.layers, 2):
            layer.kernel.assign(np.random.default_rng(seed).normal(size=layer.kernel.shape))
        return model

    def normalized(self) -> keras.Model:
        """With a BatchNormalization too: what an entry point may need."""
        first, last = self.plain().layers
        norm = layers.BatchNormalization(name="norm")
        return keras.Sequential([keras.Input((6,)), first, norm, layers.ReLU(name="relu"), last])

    def with_transforms(self, *made: Sample) -> keras.Model:
        """The model with one transform after the other on the kernel of its first layer."""
        model = self.plain()
        for sample in made:
            model = add_transforms(model, lambda *_, s=sample: [s.make()], {}, filters="d")
        return model

    def with_points(self, made: Sample) -> keras.Model:
        """The model with an activation quantizer behind its input and its layers."""
        return quantize_model(self.plain(), weights=None, activations=made.make())

    def fit(self, model: keras.Model, epochs: int = 2, **kwargs: Any) -> keras.Model:
        """Train for a step an epoch, eagerly unless `compile` is told otherwise: nothing to compile for so few."""
        if not model.compiled:
            model.compile(keras.optimizers.Adam(0.01), "mse", **{"run_eagerly": True, **kwargs})
        model.run_eagerly = kwargs.get("run_eagerly", not kwargs)
        model.fit(self.x, self.y, batch_size=12, epochs=epochs, shuffle=False, verbose=0)
        return model

    def wrapper(self, model: keras.Model) -> Compressed:
        """The first compressed layer of a model."""
        return next(layer for layer in model.layers if isinstance(layer, Compressed))


def serialized_again(made: Any) -> Any:
    """An object out of Keras's serialisation."""
    return keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))


def saved_again(model: keras.Model) -> keras.Model:
    """A model out of a `.keras` file."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
        return keras.models.load_model(Path(folder) / "model.keras")
