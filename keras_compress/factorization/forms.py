"""What the compact forms of a convolution share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_compress.factorization.scheme import Array, Factors, Option, Place, Rank, Scheme, no_taps, share_lost

# Registry of compact forms.
KIND = "compact_form"


class Form(Scheme):
    """A compact form of a Conv2D with several taps over all channels, entered by `@register("compact_form", name)`.

    Class attributes:
        counted: What its one number counts, for a line: `"groups"`.
    """

    chosen_by_itself = True
    counted: str = ""

    def refusal(self, layer: Any) -> str | None:
        return no_taps(layer)


class FormFactors(Factors):
    """One convolution in a compact form. A subclass gives the arrays, the kernel they make, what they cost."""

    name: str = ""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._kernel = place.kernel
        height, width, self._channels, self._filters = self._kernel.shape
        self._taps = height * width
        self._errors: dict[Rank, float] = {}

    def sizes(self, number: int) -> tuple[int, int]:
        """Weights, and those that are multiplied at each place of the output."""
        raise NotImplementedError(f"{type(self).__name__} must implement `sizes(number)`.")

    def numbers(self) -> list[int]:
        """What there is to choose from, the cheapest first."""
        raise NotImplementedError(f"{type(self).__name__} must implement `numbers()`.")

    def ranks(self, multiple: int) -> Iterator[Rank]:
        yield from ((number,) for number in self.numbers())

    def option(self, rank: Rank) -> Option:
        if rank[0] not in self.numbers():
            raise ValueError(
                f"Expected `rank` out of {sorted(self.numbers())} for {self.name!r} at layer "
                f"{self._place.layer.name!r}. Received: rank={rank[0]}"
            )
        if rank not in self._errors:
            self._errors[rank] = share_lost(self.merged(rank), self._kernel)
        params, multiplied = self.sizes(rank[0])
        return Option(self.name, rank, self._errors[rank], self._place.output_positions * multiplied, params)

    def of_energy(self, kept: float, multiple: int = 1) -> Rank:
        """The cheapest that keeps this share of the energy."""
        enough = (rank for rank in self.ranks(multiple) if self.option(rank).error <= 1.0 - kept + 1e-12)
        found = next(enough, None)
        if found is None:
            raise ValueError(
                f"Expected a share of the energy that {self.name!r} keeps at layer {self._place.layer.name!r}, up to "
                f"{1.0 - min(self.option(rank).error for rank in self.ranks(multiple)):.3f}. Received: rank={kept}"
            )
        return found


def divisors(number: int, most: int) -> list[int]:
    """Divisors from the largest down to 2.

    >>> divisors(24, 8)
    [8, 6, 4, 3, 2]
    """
    return [each for each in range(min(number, most), 1, -1) if number % each == 0]


def common(first: int, second: int) -> int:
    """The greatest common divisor."""
    return math.gcd(first, second)


def truncated(matrices: Array, rank: int) -> tuple[Array, Array]:
    """The nearest products of two matrices of this inner width, of matrices `(..., rows, columns)`."""
    left, values, right = np.linalg.svd(matrices, full_matrices=False)
    root = np.sqrt(values[..., :rank])
    return left[..., :rank] * root[..., None, :], root[..., None] * right[..., :rank, :]
