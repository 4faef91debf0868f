"""What all weight quantizers share: groups with a scale of their own, and integers where the method has them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_compress.core import affine
from keras_compress.core.kernels import Bound, Kernel
from keras_compress.core.ste import compiled
from keras_compress.core.transform import IntegerWeight, WeightTransform

Tensor = Any
# A few operations, each of which is one pass over memory: a program of them takes long to win.
_SMALL = 262_144


@dataclass(frozen=True)
class IntegerGrid:
    """A method as pure functions: how a weight becomes integers and a scale, and the gradients that training uses.

    Make one object for the same settings (`functools.cache`): compiled programs are kept by it.

    Attributes:
        to_integers: `(weight, *state) -> (integers, scale)`: float tensors, `scale` broadcasts against the weight, and
            `integers * scale` is what the layer sees. Training and freezing both run this.
        weight_gradient: `(upstream, weight, *state) -> gradient`; `None` is straight through.
        state_gradients: `(upstream, weight, *state) -> gradients`, one for each tensor of the state, `None` for one
            that is not trained; `None` where none is.
        exact: Whether `to_integers` is made of comparisons, divisions and roundings only, each of which gives the same
            bits in a compiled program and outside one. A sum, a product added to something, an exponential do not:
            freezing then runs the program as training compiled it.
        any_shape: Whether the functions work on tensors of unknown dimensions.
        of_arrays: Whether `to_integers` gives the same numbers for NumPy's arrays, as arrays, which takes less time.
    """

    to_integers: Callable[..., tuple[Tensor, Tensor]]
    weight_gradient: Callable[..., Tensor] | None = None
    state_gradients: Callable[..., tuple[Tensor | None, ...]] | None = None
    exact: bool = False
    any_shape: bool = False
    of_arrays: bool = False


@functools.cache
def _kernel(grid: IntegerGrid) -> Kernel:
    def forward(weight: Tensor, *state: Tensor) -> Tensor:
        integers, scale = grid.to_integers(weight, *state)
        return affine.dequantize(integers, scale, 0.0)

    directions = (forward, grid.weight_gradient, grid.state_gradients)
    return Kernel(*directions, exact=grid.exact, any_shape=grid.any_shape, small=_SMALL)


@functools.cache
def _integers_program(grid: IntegerGrid) -> Callable[..., tuple[Tensor, Tensor]]:
    return compiled(grid.to_integers)


class WeightQuantizer(WeightTransform):
    """A transform that leaves few levels: integers times a scale, or levels that are real numbers.

    A method whose levels are integers times a scale implements `grid`, and says in `storage_bits` how wide they are.
    A method with free levels (`storage_bits` is `None`), or with integers wider than 8 bits, promises a codebook
    instead; `quantize_model` puts the uniform 8-bit grid behind it, so that what trains is what is deployed.

    Args:
        bits: Width of the codes: at most `2^bits` levels for each scale.
        per_channel: Scales (or levels) of its own for each output channel, or one set for the tensor. After a clusterer
            they follow its codebooks whatever this says: one scale would tear a codebook apart that several share.

    Class attributes:
        allowed_bits: Values of `bits` for which the method is defined.
        float_only: Why no integer kernel takes what it makes, grid behind it or not; `None` where one does.

    Raises:
        ValueError: For bits out of range.
    """

    allowed_bits: tuple[int, ...] = tuple(range(2, 9))
    float_only: str | None = None
    preserves = frozenset({"zeros", "codebook", "channel_codebook"})

    def __init__(self, bits: int, *, per_channel: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(bits, int) or isinstance(bits, bool) or bits not in self.allowed_bits:
            low, high = self.allowed_bits[0], self.allowed_bits[-1]
            wanted = f"to be an integer from {low} to {high}" if low < high else f"= {low}"
            raise ValueError(f"Expected `bits` {wanted}. Received: bits={bits}")
        self.bits = bits
        self.per_channel = bool(per_channel)

    @property
    def group_axes(self) -> tuple[int, ...] | None:
        """Axes of the weight along which scales differ; `None` for one scale."""
        per_channel = "channel_codebook" in self.made or (self.per_channel and "codebook" not in self.made)
        return self.channel_axes if per_channel else None

    @property
    def reduced_axes(self) -> tuple[int, ...]:
        """Axes that share one scale."""
        return affine.reduction_axes(len(self.weight_shape), self.group_axes)

    @property
    def storage_bits(self) -> int | None:
        """Width of the signed integers that hold the levels, `None` where the levels are real numbers."""
        return self.bits

    @property
    def has_integers(self) -> bool:
        """Whether int8 holds the levels exactly."""
        return self.storage_bits is not None and self.storage_bits <= 8

    @property
    def number_of_clusters(self) -> int:
        """Most distinct values for each scale."""
        return int(2**self.bits)

    @property
    def promises(self) -> frozenset[str]:  # type: ignore[override]
        """An integer grid, or else few levels: in the tensor, or in each channel."""
        if self.has_integers:
            return frozenset({"grid"})
        return frozenset({"channel_codebook" if self.per_channel else "codebook"})

    def grid(self) -> tuple[IntegerGrid, tuple[Tensor, ...]]:
        """The method and its state now, where the levels are integers."""
        raise NotImplementedError(f"{type(self).__name__} must implement `grid()`, `kernel()` or `call()`.")

    def kernel(self) -> Bound | None:
        method, state = self.grid()
        return _kernel(method), state

    def integer_weight(self, weight: Tensor) -> IntegerWeight | None:
        if not self.has_integers:
            return None
        method, state = self.grid()
        # Compiling takes a hundred times as long as running once.
        program = method.to_integers if method.exact else _integers_program(method)
        values = np.asarray(weight, np.float32) if method.of_arrays else ops.convert_to_tensor(weight, "float32")
        found, scale = program(values, *state)
        integers = ops.convert_to_numpy(found)
        self._check_integers(integers)
        return IntegerWeight(
            integers=integers.astype(np.int8),
            scale=np.asarray(ops.convert_to_numpy(scale), np.float32).reshape(self.scale_shape),
            bits=int(self.storage_bits or 8),
        )

    def _check_integers(self, integers: NDArray[Any]) -> None:
        """Refuse what would be cut off or rounded on the way to the file, where the training did not see it.

        Raises:
            ValueError: For numbers that are no integers, or beyond `storage_bits`.
        """
        bits = int(self.storage_bits or 8)
        lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        found = f"{type(self).__name__} {self.name!r}"
        if not (integers == np.rint(integers)).all():
            first = float(integers[integers != np.rint(integers)][0])
            raise ValueError(f"Expected `to_integers` to give whole numbers. Received: {first:.6g} from {found}")
        if integers.size and (integers.min() < lowest or integers.max() > highest):
            raise ValueError(
                f"Expected integers from {lowest} to {highest}, which `storage_bits={bits}` holds. "
                f"Received: {integers.min():.0f} to {integers.max():.0f} from {found}"
            )

    @property
    def scale_shape(self) -> list[int]:
        """Shape in which scales broadcast against the weight."""
        return [1 if axis in self.reduced_axes else n for axis, n in enumerate(self.weight_shape)]

    def get_config(self) -> dict[str, Any]:
        # A method with one width has no such argument.
        bits = {"bits": self.bits} if len(self.allowed_bits) > 1 else {}
        return {**super().get_config(), **bits, "per_channel": self.per_channel}
