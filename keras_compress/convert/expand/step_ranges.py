"""Ranges of the steps of recurrent layers that are unrolled: shared by steps that are alike.

What has one range has one set of integers, which the file holds once. But a step whose values are small, such as the
first, which begins with a state of zeros, or one whose inputs are padding, would be rounded to the steps of others.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence

from keras_compress.convert.expand.cell_ranges import is_cell
from keras_compress.convert.expand.masks import HELD
from keras_compress.quantizers.activation import QuantizeActivation

_STEP = re.compile(r"\.step\d+\b")


def share_steps(points: Sequence[QuantizeActivation]) -> None:
    """Give each place in the steps one range for all steps, or one for each octave of their widths.

    Cell states, which grow from step to step, keep their own. What masked steps hold is on the grid of what they may
    give, in all steps: so nothing is rounded that is held.

    Args:
        points: Those whose ranges were measured.
    """
    places: dict[str, list[QuantizeActivation]] = defaultdict(list)
    for point in points:
        place = _STEP.sub(".step", point.name).replace(f".{HELD}", ".")
        if place != point.name and not is_cell(str(point.stands_for)):
            places[place].append(point)
    for alike in places.values():
        masked = any(f".{HELD}" in point.name for point in alike)
        widths = [1.0 if masked else width(*map(float, point.quantizer.range())) for point in alike]
        widest = max(widths)
        octaves: dict[int, list[QuantizeActivation]] = defaultdict(list)
        for point, own in zip(alike, widths, strict=True):
            octaves[int(math.log2(widest / max(own, 1e-9 * widest))) if widest else 0].append(point)
        for members in octaves.values():
            lows, highs = zip(*(point.quantizer.range() for point in members), strict=True)
            for point in members:
                point.quantizer.set_range(float(min(lows)), float(max(highs)))


def width(low: float, high: float) -> float:
    """Of a range, which holds 0.0."""
    return max(high, 0.0) - min(low, 0.0)
