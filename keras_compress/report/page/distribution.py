"""Distributions of values, small enough to keep and to draw by the hundred."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Bars of a histogram; fewer distinct values than this are drawn as a line each.
BARS = 48
# Height of the tallest bar.
HEIGHT = 24
# Values that a distribution is made from: more change no bar by a pixel.
_MOST_VALUES = 1 << 18


def distribution(values: NDArray[Any]) -> dict[str, Any]:
    """The distribution of an array, as JSON types.

    Args:
        values: Finite numbers, of any shape; integers are levels of a grid.

    Returns:
        `low` and `high`; `heights` of the bars from 0 to 24; `at`, where each of them stands in [0, 1], of values so
        few that each has its own, else `None`; `distinct`, how many values differ; `zeros`, their share.
    """
    flat = np.asarray(values).reshape(-1)
    if flat.size > _MOST_VALUES:
        # Evenly spread over the array, so that no channel is left out.
        flat = flat[np.linspace(0, flat.size - 1, _MOST_VALUES).astype(np.int64)]
    if not flat.size:
        return {"low": 0.0, "high": 0.0, "heights": [], "at": None, "distinct": 0, "zeros": 0.0}
    distinct, counts = np.unique(flat, return_counts=True)
    low, high = float(distinct[0]), float(distinct[-1])
    found = {"low": low, "high": high, "distinct": len(distinct), "zeros": float(np.mean(flat == 0))}
    if len(distinct) <= BARS:
        at = (distinct.astype(np.float64) - low) / ((high - low) or 1.0)
        return {"heights": _heights(counts), "at": [round(float(x), 3) for x in at], **found}
    return {"heights": _heights(np.histogram(flat.astype(np.float64), BARS)[0]), "at": None, **found}


def _heights(counts: NDArray[Any]) -> list[int]:
    """Relative to the highest; what is there at all is seen."""
    return [int(max(1, round(HEIGHT * n / counts.max()))) if n else 0 for n in counts.tolist()]


def path_of(found: dict[str, Any], width: int = 120) -> str:
    """The outline of a distribution as the data of an SVG path, in a box of `width` by 24.

    >>> path_of({"heights": [24, 12], "at": [0.0, 1.0]}, 10)
    'M1 24V0M9 24V12'
    """
    heights, at = found["heights"], found["at"]
    if not heights:
        return ""
    if at is not None:
        # A pixel from the edges, or half of the outer lines would be cut off.
        return "".join(
            f"M{1 + round((width - 2) * x, 1):g} {HEIGHT}V{HEIGHT - h}" for x, h in zip(at, heights, strict=True)
        )
    step = width / len(heights)
    steps = "".join(f"V{HEIGHT - h}H{round(step * (n + 1), 1):g}" for n, h in enumerate(heights))
    return f"M0 {HEIGHT}{steps}V{HEIGHT}Z"
