"""Compound scaling: depth, width and resolution grow together, by one exponent."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_compress.core.budget import Budget
from keras_compress.core.progress import ProgressLine
from keras_compress.core.shown import Shown

# `build(input_shape=..., width=..., depth=...)` -> model.
Build = Callable[..., keras.Model]
# What multiplications grow by with each whole step of the exponent.
_GROWTH = 2.0


@dataclass(frozen=True)
class Compound:
    """How depth, width and resolution grow: by `alpha^phi`, `beta^phi` and `gamma^phi`.

    Multiplications grow by about `(alpha * beta^2 * gamma^2)^phi`, `2^phi` where the product is 2 (equation 3).

    Attributes:
        alpha: Of depth, >= 1.
        beta: Of width, >= 1.
        gamma: Of resolution, >= 1.

    Raises:
        ValueError: For a number below 1.

    **Reference**: Tan and Le, "EfficientNet: Rethinking model scaling for convolutional neural networks" (2019),
    section 3.3; 1.2, 1.1 and 1.15 are what they found.

    >>> found = Compound().at(1.0)
    >>> [round(n, 3) for n in (found["depth"], found["width"], found["resolution"], Compound().growth)]
    [1.2, 1.1, 1.15, 1.92]
    """

    alpha: float = 1.2
    beta: float = 1.1
    gamma: float = 1.15

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "gamma"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 1):
                raise ValueError(f"Expected `{name}` >= 1. Received: {name}={value!r}")

    @property
    def growth(self) -> float:
        """`alpha * beta^2 * gamma^2`: by how much multiplications grow with each step of the exponent."""
        return self.alpha * self.beta**2 * self.gamma**2

    def at(self, phi: float) -> dict[str, float]:
        """Factors of depth, width and resolution; for a negative exponent below 1."""
        return {"depth": self.alpha**phi, "width": self.beta**phi, "resolution": self.gamma**phi}

    def model(self, build: Build, phi: float, input_shape: tuple[int, int, int], **settings: Any) -> keras.Model:
        """The network of an exponent.

        Args:
            build: Makes a network from `input_shape`, `width` and `depth`, such as `blocks.models.efficientnet`.
            phi: The exponent; 0 is the network as it is.
            input_shape: `(height, width, channels)` at an exponent of 0.
            **settings: Other arguments of `build`.

        Raises:
            ValueError: For an exponent that leaves less than a pixel, and what `build` refuses: less than one channel.
        """
        factors = self.at(phi)
        height, width = (round(n * factors["resolution"]) for n in input_shape[:2])
        if min(height, width) < 1:
            raise ValueError(f"Expected an exponent that leaves one pixel at least. Received: phi={phi}")
        shape = (height, width, input_shape[2])
        return build(input_shape=shape, width=factors["width"], depth=factors["depth"], **settings)


@dataclass(frozen=True, repr=False)
class Scaling(Shown):
    """What a search for a compound scaling found.

    Attributes:
        best: The one with the highest score.
        score: Its score.
        tried: `(scaling, score)` of all that were evaluated.
        over: Those whose networks were over the budget, which were not.
    """

    best: Compound
    score: float
    tried: tuple[tuple[Compound, float], ...]
    over: tuple[Compound, ...] = field(default=())

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines."""
        named = {"alpha (depth)": self.best.alpha, "beta (width)": self.best.beta, "gamma (pixels)": self.best.gamma}
        rows = [(name, f"{value:g}") for name, value in named.items()]
        counts = f"{len(self.tried)} evaluated, {len(self.over)} over the budget"
        return "Scaling", [*rows, ("score", f"{self.score:.6g}"), ("candidates", counts)]


def candidates(step: float = 0.1, tolerance: float = 0.1) -> list[Compound]:
    """All scalings on a grid whose multiplications about double: `|alpha * beta^2 * gamma^2 - 2| <= tolerance`.

    Args:
        step: Of the grid, from 1 on, > 0.
        tolerance: How far from 2, >= 0.

    Raises:
        ValueError: For numbers out of range, or where no point of the grid is near enough.

    >>> [(c.alpha, c.beta, c.gamma) for c in candidates(0.2, 0.1)]
    [(1.0, 1.0, 1.4), (1.0, 1.2, 1.2), (1.0, 1.4, 1.0), (1.4, 1.0, 1.2), (1.4, 1.2, 1.0), (2.0, 1.0, 1.0)]
    """
    if not step > 0 or not tolerance >= 0:
        raise ValueError(f"Expected `step` > 0 and `tolerance` >= 0. Received: step={step}, tolerance={tolerance}")
    depths = [round(1 + n * step, 6) for n in range(int((_GROWTH + tolerance - 1) / step) + 1)]
    others = [value for value in depths if value**2 <= _GROWTH + tolerance]
    grid = [Compound(*each) for each in itertools.product(depths, others, others)]
    found = [each for each in grid if abs(each.growth - _GROWTH) <= tolerance + 1e-9]
    if not found:
        raise ValueError(
            f"Expected a grid with a point near 2. Received: step={step}, tolerance={tolerance}: take a smaller step"
        )
    return found


def search(
    build: Build,
    evaluate: Callable[[keras.Model], float],
    budget: Budget | Mapping[Any, float] | None = None,
    *,
    input_shape: tuple[int, int, int] = (28, 28, 1),
    phi: float = 1.0,
    step: float = 0.2,
    tolerance: float = 0.1,
    **settings: Any,
) -> Scaling:
    """Find alpha, beta and gamma: each on a grid whose network keeps to the budget is built and evaluated.

    Args:
        build: As in `Compound.model`.
        evaluate: Trains a network and gives its score; the higher, the better.
        budget: What a network may cost, in figures: `kc.Budget(macs=12e6)`. Networks over it are not evaluated. By
            default about twice the MACs of the network at an exponent of 0.
        input_shape: `(height, width, channels)` at an exponent of 0.
        phi: The exponent of the networks that are tried; the paper's is 1.
        step: See `candidates`.
        tolerance: Likewise.
        **settings: Other arguments of `build`.

    Returns:
        What was found; `found.best.model(build, 2.0, input_shape)` is a larger network.

    Raises:
        ValueError: For a budget in fractions, or where all networks are over it.

    **Reference**: Tan and Le (2019), section 3.3, step 1.
    """
    limits = Budget.of(budget if budget is not None else {"macs": _twice(build, input_shape, phi, settings)})
    for limit in limits:
        if limit.is_fraction:
            raise ValueError(f"Expected a budget in figures, as networks of several sizes are built. Received: {limit}")
    tried, over = [], []
    grid = candidates(step, tolerance)
    with ProgressLine("evaluating scalings", len(grid)) as line:
        for each in grid:
            model = each.model(build, phi, input_shape, **settings)
            if all(limit.cost.of(model) <= limit.most for limit in limits):
                tried.append((each, float(evaluate(model))))
            else:
                over.append(each)
            line.advance()
    if not tried:
        told = ", ".join(map(str, limits))
        raise ValueError(f"Expected a budget that one of {len(grid)} networks keeps to. Received: {told}")
    best, score = max(tried, key=lambda pair: pair[1])
    return Scaling(best, score, tuple(tried), tuple(over))


def _twice(build: Build, input_shape: tuple[int, int, int], phi: float, settings: Mapping[str, Any]) -> float:
    """About what a network of this exponent may cost."""
    from keras_compress.structured.cost import Macs

    return float((_GROWTH**phi) * 1.1 * Macs().of(build(input_shape=input_shape, **settings)))
