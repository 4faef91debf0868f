"""Small frozen nets, made by hand: layers with integers, and points on grids."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from keras_compress.core.frozen import FrozenGrid
from keras_compress.core.transform import IntegerWeight
from keras_compress.core.wrapper import Compressed
from keras_compress.ir.graph import Graph
from keras_compress.ir.read import read
from keras_compress.quantizers.activation import FixedGrid, QuantizeActivation


class Nets:
    """What the tests of this folder share."""

    @staticmethod
    def point(tensor: Any, scale: float, zero_point: int, name: str) -> Any:
        return QuantizeActivation(FixedGrid(scale, zero_point), name=name)(tensor)

    @staticmethod
    def frozen(layer: Any, integers: Any, scale: Any, shape: tuple[int | None, ...]) -> Any:
        """A layer whose kernel is `integers * scale`."""
        layer.build(shape)
        integers = np.array(integers, np.int32).reshape(layer.kernel.shape)
        scale = np.array(scale, np.float32).reshape([1] * (integers.ndim - 1) + [-1])
        weight = IntegerWeight(integers, scale, 8)
        layer.kernel.assign(weight.floats())
        return Compressed(layer, {"kernel": [FrozenGrid.of(weight)]})

    @staticmethod
    def read(model: keras.Model, **settings: Any) -> Graph:
        outputs = [f"y{number}" for number in range(len(model.outputs))]
        return read(model, [t.name for t in model.inputs], outputs, **settings)


@pytest.fixture(scope="session")
def nets() -> Nets:
    return Nets()
