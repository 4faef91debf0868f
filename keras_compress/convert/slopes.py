"""Leaky and parametric ReLUs made of kernels that LiteRT's fast path has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.convert import fold
from keras_compress.convert.expand.activations import PointwiseFunction
from keras_compress.convert.expand.arithmetic import Operand, of_channels
from keras_compress.convert.expand.weights import default_integers, frozen
from keras_compress.convert.final_grid import as_float32
from keras_compress.core.transform import IntegerWeight
from keras_compress.graph.model import inner
from keras_compress.quantizers.activation import FixedGrid

Tensor = Any
Array = NDArray[Any]
# `(tensor, grid, name) -> tensor` and `(name, tensor, factors, offsets) -> tensor`, which the freezer gives.
OnGrid = Callable[[Tensor, FixedGrid, str], Tensor]
PerChannel = Callable[[str, Tensor, IntegerWeight, Array], Tensor]


def slopes_of(operation: Any) -> Array | None:
    """What a layer multiplies its negative inputs by; `None` for a layer that does something else, or nothing."""
    found = _slopes(operation)
    # XNNPACK refuses the product with 0 that slopes of 1 would come to.
    return None if found is None or (found == 1).all() else found


def _slopes(operation: Any) -> Array | None:
    body = inner(operation) if isinstance(operation, keras.layers.Layer) else operation
    if isinstance(body, Operand) and body.operation == "slope":
        return np.asarray(body.kernel, np.float64)
    if not isinstance(body, PointwiseFunction):
        return None
    if body.function == "leaky_relu":
        return np.full(1, body.arguments.get("negative_slope", 0.2), np.float64)
    given = {"negative_slope": 0.0, "max_value": None, "threshold": 0.0, **body.arguments}
    leaky = body.function == "relu" and given["max_value"] is None and not given["threshold"]
    return np.full(1, given["negative_slope"], np.float64) if leaky and given["negative_slope"] else None


@dataclass(frozen=True)
class SlopedParts:
    """A leaky or parametric ReLU as a product and a MAXIMUM, or a product with a fused ReLU and an ADD.

    PRELU has no int8 kernel in XNNPACK and none of 16 bits anywhere, and a look-up table is three operators that
    XNNPACK does not run either: a file with them takes two to three times as long as the float one. DEPTHWISE_CONV_2D,
    MUL and ADD are XNNPACK's; MAXIMUM and MINIMUM are LiteRT's own, but fast. All grids follow from those of the input
    and of the output, so that a model with trained ranges needs no data for what is inside.

    - One slope of at most 1: `y = x + relu(-(1 - slope) x)`. The product's grid holds every value exactly.
    - Several, none above 1: `y = max(x, slope x)`; none below 1: `y = min(x, slope x)`. Both on the output's grid: each
      value is rounded once, as PRELU does. (As a sum, rounding the product costs 0.3 to 0.7 dB.)
    - Slopes on both sides of 1: with `n = relu(-x)`, which is exact, `y = x + (1 - slope) n`.

    Sums are also what there is without an output grid, and in 16 bits, which have no MAXIMUM everywhere.

    Args:
        slopes: One number, one for each channel, or of a shape that broadcasts against a sample.
        grid: Of the input.
        written: Of the output, where a point behind tells it.
        name: Of the layer.
        on_grid: Puts an activation point behind a tensor.
        per_channel: A 1x1 depthwise convolution of an image.
    """

    slopes: Array
    grid: FixedGrid
    written: FixedGrid | None
    name: str
    on_grid: OnGrid
    per_channel: PerChannel

    def __call__(self, tensor: Tensor) -> Tensor:
        """The output; on the output's grid already where that is known."""
        rest = 1.0 - self.slopes
        one_sided = (rest >= 0).all() or (rest <= 0).all()
        exact = rest.min() == rest.max() >= 0
        if self.written is not None and self.grid.bits == 8 and one_sided and not exact:
            return self._extreme(tensor, self.written)
        if (rest >= 0).all():
            added = self._below_zero(tensor, -rest, self._product_grid(rest), "below")
        else:
            whole = FixedGrid(self.grid.scale, self._lowest(), self.grid.bits)
            negated = self._below_zero(tensor, -np.ones(1), whole, "negated")
            scale = as_float32(np.abs(rest).max() * self.grid.scale * self._steps_below() / self._highest())
            added = self._product(negated, rest, FixedGrid(scale, 0, self.grid.bits), "below")
        return keras.layers.Add(name=f"{self.name}.sum")([tensor, added])

    def _extreme(self, tensor: Tensor, grid: FixedGrid) -> Tensor:
        merge = keras.layers.Maximum if (self.slopes <= 1).all() else keras.layers.Minimum
        whole = self.on_grid(tensor, grid, f"{self.name}.whole")
        product = self._product(tensor, self.slopes, grid, "below")
        return merge(name=f"{self.name}.extreme")([whole, product])

    def _highest(self) -> int:
        return int(2 ** (self.grid.bits - 1) - 1)

    def _lowest(self) -> int:
        """Zero point of what is not negative."""
        return -128 if self.grid.bits == 8 else 0

    def _steps_below(self) -> int:
        """How many steps below zero the input's grid goes.

        Not so few that a product's grid is finer than its sums; and odd, so that no product lies between two steps.
        """
        return max(int(self.grid.zero_point + 2 ** (self.grid.bits - 1)), 4) | 1

    def _product_grid(self, rest: Array) -> FixedGrid:
        """The grid of values from 0 to the largest product."""
        finer = 255 / self._steps_below() if self.grid.bits == 8 else 1.0
        if rest.min() == rest.max():
            finer = np.floor(max(finer, 1.0))
        return FixedGrid(as_float32(max(rest.max(), 1e-9) * self.grid.scale / finer), self._lowest(), self.grid.bits)

    def _below_zero(self, tensor: Tensor, factors: Array, grid: FixedGrid, name: str) -> Tensor:
        """`relu(factors * x)`, for factors that are not positive."""
        return self._product(tensor, factors, grid, name, keras.layers.ReLU(name=f"{self.name}.{name}_relu"))

    def _product(self, tensor: Tensor, factors: Array, grid: FixedGrid, name: str, then: Any = None) -> Tensor:
        name = f"{self.name}.{name}"
        if len(tensor.shape) == 4 and of_channels(tensor, factors):
            vector = np.broadcast_to(factors.reshape(-1), (tensor.shape[-1],))
            none = np.zeros_like(vector)
            product = self.per_channel(name, tensor, fold.standalone(fold.Affine(vector, none)), none)
        else:
            operand = Operand("multiply", factors.shape, name=name)
            product = frozen(operand, default_integers(factors.astype(np.float32), ()))(tensor)
        return self.on_grid(product if then is None else then(product), grid, f"{name}_rounded")
