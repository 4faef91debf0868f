"""Integers that are found without a compiled program are those that training, which compiles, computes with."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_compress.core import registry
from keras_compress.quantizers.weight_quantizer import WeightQuantizer

SHAPES = [((3, 3, 8, 16), (3,)), ((64, 32), (1,)), ((5, 5, 1, 3), (3,)), ((3, 3, 24, 1), (2, 3))]


def exact_quantizers() -> list[tuple[type[WeightQuantizer], dict]]:
    found = []
    for cls in registry.entries("weight_transform").values():
        for arguments in cls.samples() if issubclass(cls, WeightQuantizer) else ():
            made = cls(**arguments)
            made.prepare((4, 4), (1,))
            if made.has_integers and made.grid()[0].exact:
                found.append((cls, arguments))
    return found


def weights(shape: tuple[int, ...], rng: np.random.Generator) -> list[np.ndarray]:
    """Of many kinds: spread, many on ties, scales far apart, a dead channel."""
    spread = rng.normal(size=shape)
    ties = rng.integers(-7, 8, size=shape) * 10.0 ** rng.uniform(-4, 2)
    apart = rng.uniform(-1, 1, size=shape) * 10.0 ** rng.uniform(-6, 3, size=shape[-1])
    dead = np.where(np.arange(shape[-1]) == 0, 0.0, spread)
    return [array.astype(np.float32) for array in (spread, ties, apart, dead)]


@pytest.mark.parametrize(
    ("cls", "arguments"), [pytest.param(*each, id=f"{each[0].__name__} {each[1]}") for each in exact_quantizers()]
)
def test_the_integers_are_those_of_training(cls: type[WeightQuantizer], arguments: dict) -> None:
    rng = np.random.default_rng(0)
    for shape, channel_axes in SHAPES:
        quantizer = cls(**arguments)
        quantizer.prepare(shape, channel_axes)
        for weight in (w for _ in range(5) for w in weights(shape, rng)):
            quantizer.initialize(tf.constant(weight))
            for variable in quantizer.trainable_variables:
                variable.assign(variable * rng.uniform(0.7, 1.3, variable.shape).astype(np.float32))
            trained_with = quantizer(tf.constant(weight)).numpy()
            np.testing.assert_array_equal(quantizer.integer_weight(weight).floats(), trained_with)


def test_the_plain_grid_is_among_them() -> None:
    assert {"UniformQuantizer", "LSQ", "SteSign"} <= {cls.__name__ for cls, _ in exact_quantizers()}
