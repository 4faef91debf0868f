"""The points where integers stand on the device, and their ranges."""

from __future__ import annotations

from typing import Any

import keras

from keras_compress.calibration.calibrate import MeasuredRange, calibrate, untrained_points
from keras_compress.calibration.cells import CellRange
from keras_compress.calibration.scale import mismatch
from keras_compress.calibration.used import FactorRange
from keras_compress.convert.expand.cell_ranges import fit_cells, is_cell
from keras_compress.convert.expand.rows_apart import RowsRange, products_of_rows
from keras_compress.convert.expand.step_ranges import share_steps
from keras_compress.convert.expand.used_ranges import coarse_enough, end_with_use, whole_offsets, whole_steps
from keras_compress.convert.flatten import Flat, factors_of
from keras_compress.core.warn import warn
from keras_compress.graph import graph
from keras_compress.graph.model import inner
from keras_compress.quantizers.kinds import Place
from keras_compress.quantizers.placement import PlacePoints


class UnknownRangesError(ValueError):
    """Activation ranges that neither training nor data have set; the message names the points."""


def with_points(flat: Flat, bits: int, everywhere: bool, has_data: bool) -> keras.Model:
    """A point wherever integers stand on the device: everywhere, or inside what training saw as one layer."""
    if not everywhere and not flat.expanded:
        return flat.model
    factors, rows = factors_of(flat.model), products_of_rows(flat.model)

    def measured(path: str) -> MeasuredRange:
        if path in rows and bits == 8:
            return RowsRange(bits)
        function = factors.get(path)
        if function is None:
            return MeasuredRange(bits)
        return FactorRange(bits, root=function.function == "rsqrt")

    def quantizer(path: str, place: Place) -> Any:
        if not everywhere and path not in flat.expanded:
            return None
        # On its input's grid a mean needs no range, and 16 bits lose nothing there.
        if place is Place.MEAN and (bits == 16 or not (everywhere or has_data)):
            return None
        if is_cell(path):
            # They grow from step to step.
            return CellRange(bits) if bits == 8 else MeasuredRange(bits)
        return measured(path)

    return PlacePoints(quantizer, private=True).place(flat.model)


def set_ranges(flat: keras.Model, model: keras.Model, representative_dataset: Any) -> int:
    """Set the ranges that are not known; how many samples were seen. Says where the data are not `model`'s."""
    unknown = untrained_points(flat)
    if not unknown:
        return 0
    if representative_dataset is None:
        raise _unknown_ranges([point.name for point in unknown], model)
    first: list[Any] = []
    seen = calibrate(flat, representative_dataset, first.append)
    end_with_use(flat, unknown)
    share_steps(unknown)
    fit_cells(flat)
    coarse_enough(flat, unknown)
    whole_offsets(flat, unknown)
    whole_steps(flat, unknown)
    message = mismatch(model, first[0])
    if message is not None:
        warn(message)
    return seen


def _unknown_ranges(points: list[str], model: keras.Model) -> UnknownRangesError:
    """What to say of points without ranges: by the layers around them, where training saw those as a whole."""
    # A walk opens attention and its like, which are one layer to their user.
    outer = [(layer.name, layer) for layer in model.layers if not graph.is_graph(layer)]
    known = {path.replace("/", "."): type(inner(layer)).__name__ for path, layer in (*graph.walk(model), *outer)}
    around = [next((path for path in known if name.startswith(f"{path}.")), None) for name in points]
    layers = [f"{path!r} ({known[path]})" for path in dict.fromkeys(around) if path is not None]
    if None not in around:
        return UnknownRangesError(
            "Expected a `representative_dataset` for layers that integer kernels know as several, with ranges between "
            f"them: training saw each as a whole. Received: none, for {', '.join(layers[:10])}"
        )
    return UnknownRangesError(
        "Expected a model whose activation ranges were trained, or a `representative_dataset`. "
        f"Received: ranges never trained at {points[:10]}"
    )
