"""Trained model, frozen model and device, activation point by activation point."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.convert.freeze import is_frozen
from keras_compress.convert.side_by_side import Frozen, Trained
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.report.page.distribution import distribution
from keras_compress.runtime.verification import Verification


def layer_rows(
    frozen: keras.Model, trained: keras.Model | None, inputs: list[NDArray[Any]], verification: Verification | None
) -> list[dict[str, Any]]:
    """One row for each activation point of a frozen model.

    Args:
        frozen: What `freeze` gave.
        trained: The model that it was made from; `None`, or a frozen one, tells nothing of the first step.
        inputs: A few samples, one array for each input of the model.
        verification: What `verify` found, for the second step.

    Returns:
        Mappings with `name`, `bits`, `low` and `high` (ends of its range), `sqnr_db` (trained to frozen; `None` where
        no tensor of the trained model stands beside), the distributions `trained` (or `None`) and `frozen` (integers),
        and `kernels`: kernel -> largest difference in steps and the share of values that differ, frozen to deployed.
    """
    if trained is None or is_frozen(trained):
        trained = frozen
    before = Trained(trained, inputs)
    after = Frozen(frozen, before)
    theirs = before.run(inputs, after.calls).kept if trained is not frozen else {}
    ours = after.run(inputs, frozenset(after.points)).kept
    points = {layer.name: layer for layer in frozen.layers if isinstance(layer, QuantizeActivation)}
    return [
        _row(name, points[name].quantizer, theirs.get(call), ours[name], _kernels(name, verification))
        for name, call in after.points.items()
        if name in ours
    ]


def _row(
    name: str, grid: Any, trained: NDArray[Any] | None, frozen: NDArray[Any], kernels: dict[str, Any]
) -> dict[str, Any]:
    if trained is not None and (trained.shape != frozen.shape or not np.isfinite(trained).all()):
        trained = None
    scale, zero_point = float(grid.scale), int(grid.zero_point)
    half = 1 << (grid.bits - 1)
    return {
        "name": name.removesuffix("_quantized").replace(".", "/"),
        "bits": grid.bits,
        "low": (-half - zero_point) * scale,
        "high": (half - 1 - zero_point) * scale,
        "sqnr_db": None if trained is None else sqnr_db(trained, frozen),
        "trained": None if trained is None else distribution(trained),
        "frozen": distribution(np.rint(frozen.astype(np.float64) / scale).astype(np.int64) + zero_point),
        "kernels": kernels,
    }


def _kernels(name: str, verification: Verification | None) -> dict[str, Any]:
    rows = () if verification is None else verification.rows
    return {
        row.kernel: {"max_lsb": row.max_lsb, "differing": row.fraction_differing, "ok": row.ok}
        for row in rows
        if row.name == name
    }
