"""Steps of a sequence whose part of a recurrent layer's sums has a range of its own.

That part, which does not wait for the state, is one product for all steps, on one grid. Where some steps have small
values only, such as those of padding, their rows are computed apart, on a grid for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.calibration.calibrate import MeasuredRange
from keras_compress.convert.expand.step_ranges import width
from keras_compress.convert.expand.weights import frozen, integer_weight
from keras_compress.core import keras_private
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph
from keras_compress.graph.model import copy_layer, inner
from keras_compress.quantizers.activation import QuantizeActivation

Node = Any
Ends = tuple[float, float]
# Of the widest step's: a bit is lost there at least.
_NARROW = 0.5


class RowsRange(MeasuredRange):
    """A range that remembers that of each row, `values[:, row]`."""

    watches = True

    def __init__(self, bits: int = 8, **kwargs: Any) -> None:
        self._lows: NDArray[Any] | None = None
        self._highs: NDArray[Any] | None = None
        super().__init__(bits, **kwargs)

    def observe(self, values: NDArray[Any], squares: NDArray[Any]) -> None:
        """Take note of the rows' ends."""
        axes = (0, *range(2, values.ndim))
        low, high = values.min(axes), values.max(axes)
        self._lows = low if self._lows is None else np.minimum(self._lows, low)
        self._highs = high if self._highs is None else np.maximum(self._highs, high)

    def narrow_rows(self) -> dict[int, Ends]:
        """Number of a row whose values take half of the range at most -> their ends."""
        if self._lows is None or self._highs is None:
            return {}
        ends = [(float(low), float(high)) for low, high in zip(self._lows, self._highs, strict=True)]
        return {number: each for number, each in enumerate(ends) if width(*each) < _NARROW * width(*self.range())}


def products_of_rows(flat: keras.Model) -> set[str]:
    """Names of the Dense layers whose outputs are taken apart step by step."""
    return {found[0].operation.name for found in map(_product_before, graph.nodes(flat)) if found is not None}


def _product_before(node: Node) -> tuple[Node, QuantizeActivation | None] | None:
    """The Dense layer whose rows a call takes apart, and the point between them, if it is there yet."""
    if type(node.operation).__name__ != "Unstack" or node.operation.axis != 1:
        return None
    before, point = keras_private.call_node(node.input_tensors[0]), None
    if isinstance(before.operation, QuantizeActivation):
        before, point = keras_private.call_node(before.input_tensors[0]), before.operation
    body = inner(before.operation) if isinstance(before.operation, keras.layers.Layer) else None
    return (before, point) if isinstance(body, keras.layers.Dense) else None


@dataclass(frozen=True)
class _Rows:
    """What is to be computed apart: the product, and the ends of its narrow rows."""

    product: Node
    ends: dict[int, Ends]


def rows_apart(flat: keras.Model) -> keras.Model:
    """The same function with narrow rows computed apart; the model itself where there are none.

    Args:
        flat: Flat model, all of whose ranges are known; a private copy, whose layers go into the new one.
    """
    narrow: dict[int, _Rows] = {}
    for node in graph.nodes(flat):
        product, point = _product_before(node) or (None, None)
        if point is not None and isinstance(point.quantizer, RowsRange):
            ends = point.quantizer.narrow_rows()
            if ends:
                narrow[id(node)] = _Rows(product, ends)
    if not narrow:
        return flat
    products = {id(rows.product) for rows in narrow.values()}
    sequences: dict[int, Any] = {}

    def visit(call: graph.Call) -> Any:
        if id(call.node) in products:
            sequences[id(call.node)] = call.args[0]
        made = call.again()
        rows = narrow.get(id(call.node))
        if rows is None:
            return made
        sequence, layer = sequences[id(rows.product)], rows.product.operation
        return [_apart(sequence, n, layer, rows.ends[n]) if n in rows.ends else row for n, row in enumerate(made)]

    return graph.Rebuild(visit, flat=True).model(flat)


def _apart(sequence: Any, number: int, layer: keras.layers.Layer, ends: Ends) -> Any:
    """One row of a product, on a grid of its own."""
    name = f"{layer.name}.row{number}"
    row = graph.rename_between(sequence, sequence[:, number], name)
    body = copy_layer(inner(layer), name=name)
    own = frozen(body, integer_weight(layer, "kernel")) if isinstance(layer, Compressed) else body
    quantizer = MeasuredRange(8)
    quantizer.set_range(*ends)
    return QuantizeActivation(quantizer, name=f"{name}_quantized")(own(row))
