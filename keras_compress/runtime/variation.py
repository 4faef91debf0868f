"""Outputs that are the same for every sample prove nothing: said with the place where the samples stop to differ."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.runtime.simulation import simulation

Array = NDArray[Any]
_SAMPLES = 200


def check_varies(frozen: keras.Model, outputs: list[Array], inputs: list[Array]) -> None:
    """Raise where no output tells two samples apart; a single sample has none to be told from.

    Args:
        frozen: The frozen model.
        outputs: What it gives for the inputs.
        inputs: The data.

    Raises:
        ValueError: Naming the first activation point at which all samples are on one step, and how many steps apart
            they are before it.
    """
    if any(len(values) < 2 or _spread(values) for values in outputs):
        return
    expected = "Expected data on which the outputs vary. Received: the same outputs for every sample"
    few = [array[:_SAMPLES] for array in inputs]
    if not any(_spread(array) for array in few):
        raise ValueError(f"{expected}: all samples are alike")
    raise ValueError(f"{expected}: {_place(frozen, few)}")


def _place(frozen: keras.Model, inputs: list[Array]) -> str:
    points = [layer for layer in frozen.layers if isinstance(layer, QuantizeActivation)]
    spreads = [_spread(values) for values in simulation(frozen, [layer.output for layer in points])(inputs)]
    last = max((number for number, spread in enumerate(spreads) if spread), default=None)
    flat = next((number for number, spread in enumerate(spreads) if not spread), None)
    if flat is None:
        return "they differ at every activation point, and not behind the last"
    cure = "train the model, or calibrate it on data like these, whose ranges are narrower"
    where = f"they vary by less than a step of {points[flat].quantizer.scale:.3g} at {points[flat].name!r}"
    if last is None:
        return f"{where}, the first activation point; {cure}"
    steps = spreads[last] / points[last].quantizer.scale
    return f"{where}, and by {steps:.0f} of {points[last].quantizer.scale:.3g} at {points[last].name!r}; {cure}"


def _spread(values: Array) -> float:
    """The largest difference between two samples."""
    return float(np.ptp(np.asarray(values, np.float64), axis=0).max()) if len(values) else 0.0
