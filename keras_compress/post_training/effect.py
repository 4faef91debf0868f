"""What a method did to each layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from keras_compress.core.shown import columns

_COLUMNS = ("layer", "method", "weight error", "SQNR before", "SQNR after", "note")


@dataclass(frozen=True)
class LayerEffect:
    """What one method did to one layer, or to some that it took together.

    Attributes:
        layer: Path; of several, the paths with commas between.
        method: Name of the method.
        weight_error: Mean square of the change of the weight over its own, in dB; `None` where it did not change.
        before_db: SQNR of what the layer gives, against the float model, with the layers before it corrected.
        after_db: The same afterwards.
        note: What else is to be said.
    """

    layer: str
    method: str
    weight_error: float | None = None
    before_db: float | None = None
    after_db: float | None = None
    note: str = ""


def table(effects: Sequence[LayerEffect]) -> str:
    """The effects as lines of text.

    >>> print(table([LayerEffect("conv", "adaround", -20.0, 17.25, 21.5)]))
    layer  method    weight error  SQNR before  SQNR after  note
    conv   adaround  -20.0 dB      17.2 dB      21.5 dB
    """
    return "\n".join(columns([_COLUMNS, *(_row(each) for each in effects)]))


def _row(effect: LayerEffect) -> tuple[str, ...]:
    figures = (effect.weight_error, effect.before_db, effect.after_db)
    return (effect.layer, effect.method, *map(_db, figures), effect.note)


def _db(figure: float | None) -> str:
    return "" if figure is None or not math.isfinite(figure) else f"{figure:.1f} dB"
