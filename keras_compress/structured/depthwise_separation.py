"""Convolutions that apply the same spatial kernels over and over: each once, then a 1x1 convolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core.global_state import global_state_kept
from keras_compress.core.progress import ProgressLine
from keras_compress.core.registry import register
from keras_compress.core.selection import Selector, rules_take, settings_by_path
from keras_compress.graph import graph as keras_graph
from keras_compress.graph.configuration import configuration
from keras_compress.graph.finite import check_finite
from keras_compress.graph.model import LayerCopies, check_model, copied
from keras_compress.graph.split_convolution import POINTWISE, depthwise_of
from keras_compress.structured.hashing import refuse_transforms
from keras_compress.structured.opened import opened
from keras_compress.structured.unit_places import all_nodes

# Residuals of proportional kernels, from rounding alone.
ROUNDING = 1e-6
# A channel's kernels are compared with each other, as many channels at once as make so many pairs.
PAIRS_AT_ONCE = 2**24
Matrix = NDArray[np.float64]
Places = NDArray[np.int64]


@register("entry_point")
@global_state_kept()
@rules_take("tolerance")
def separate_convolutions(
    model: keras.Model,
    tolerance: float = 0.0,
    *,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
) -> keras.Model:
    """RED's third step, uneven depthwise separation: no spatial kernel is applied to an input channel twice.

    Filter f of a convolution has a spatial kernel `k_cf` for each input channel c. Of those, directions `u_c1 ... u_cM`
    are chosen, M different for each c, such that each is near a multiple of one of them:

        min over m and a of ||k_cf - a u_cm|| <= tolerance * sqrt(mean over c, f of ||k_cf||^2)

    A depthwise convolution applies the directions, and a 1x1 convolution of weights `a` gives the filters' sums. Its
    input has `D = sum_c M_c` channels, so the convolution's `taps * C * F` multiplications for each output position
    become `D * (taps + F)`. It is done only where that is fewer. No data is needed.

    The channels that the depthwise convolution reads come from a GATHER, in which input channel c is there M_c times;
    where every M_c is the same, from `depth_multiplier`.

    Args:
        model: Functional, Sequential or subclassed model without transforms in training.
        tolerance: Largest residual, >= 0, relative to a mean kernel. 0 shares proportional kernels only, without loss.
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}`, or with `"tolerance"`.

    Returns:
        A new model, not compiled. The 1x1 convolution has the name of the layer that it stands for; layers where
        nothing is gained stay. Cut channels before: what GATHER reads has to stay.

    Raises:
        ValueError: For a negative tolerance, or a model with transforms in training.

    **Reference**: Yvinec et al., "RED: Looking for redundancies for data-free structured compression of deep neural
    networks" (2021), uneven depthwise separation.
    **Deviations**: kernels are shared where they are proportional, not only where they are equal, and within a
    tolerance. The 1x1 convolution is dense, as no runtime has a sparse one everywhere; its multiplications are counted.
    """
    check_model(model)
    refuse_transforms(model)
    check_finite(model)
    model = opened(model)
    separations = _separations(model, tolerance, filters, rules)
    pairs: dict[int, _Pair] = {}

    def visit(call: keras_graph.Call) -> Any:
        key = id(call.operation)
        if key not in separations:
            return copies(call)
        if key not in pairs:
            pairs[key] = _Pair(call.operation, separations[key])
        return pairs[key](call.args[0])

    copies = LayerCopies(visit=visit, inside=False)
    made: keras.Model = copied(model, copies)
    return made


def _separations(
    model: keras.Model, tolerance: float, filters: Selector | None, rules: Sequence[Mapping[str, Any]] | None
) -> dict[int, Separation]:
    """`id(layer)` -> how to separate it, for the layers where that is worth while."""
    called = {id(node.operation) for node in all_nodes(model)}
    listed = [(path, layer) for path, layer in keras_graph.walk(model) if id(layer) in called and _is_separable(layer)]
    settings = settings_by_path(listed, {"tolerance": tolerance}, filters, rules)
    found = {}
    with ProgressLine("separating convolutions", len(settings)) as line:
        for path, layer in listed:
            if path in settings:
                own = settings[path]["tolerance"]
                if not own >= 0.0:
                    raise ValueError(f"Expected `tolerance` >= 0. Received: tolerance={own}")
                found[id(layer)] = separation(keras.ops.convert_to_numpy(layer.kernel), float(own))
                line.advance()
    return {key: each for key, each in found.items() if each is not None}


def _is_separable(layer: Any) -> bool:
    return (
        type(layer) is keras.layers.Conv2D
        and layer.groups == 1
        and np.prod(layer.kernel_size) > 1
        and layer.strides[0] == layer.strides[1]  # DepthwiseConv2D has no others
    )


@dataclass(frozen=True)
class Separation:
    """A convolution as a depthwise and a 1x1 convolution.

    Attributes:
        channels: Input channel of each spatial kernel, in ascending order.
        directions: The spatial kernels, `(height, width, number of them)`.
        weights: Those of the 1x1 convolution, `(number of spatial kernels, filters)`.
    """

    channels: NDArray[np.int32]
    directions: NDArray[np.float32]
    weights: NDArray[np.float32]


def separation(kernel: NDArray[np.float32], tolerance: float) -> Separation | None:
    """How to separate a kernel `(height, width, channels, filters)`; `None` where it takes no fewer multiplications.

    >>> kernel = np.zeros((3, 3, 1, 4), np.float32)
    >>> kernel[..., 0, :] = np.eye(3)[..., None] * [1, 2, -1, 0]
    >>> separation(kernel, 0.0).weights.tolist()
    [[1.0, 2.0, -1.0, 0.0]]
    """
    height, width, count, filters = kernel.shape
    taps = height * width
    rows = kernel.reshape(taps, count, filters).transpose(1, 2, 0).astype(np.float64)
    squares = np.square(rows).sum(axis=-1)
    limit = float(squares.mean()) * max(tolerance, ROUNDING) ** 2
    most = (taps * count * filters - 1) // (taps + filters)
    chosen = _chosen(rows, squares, limit, most)
    if chosen is None:
        return None
    channels, leaders = chosen
    weights = _weights(rows, squares, channels, leaders)
    directions = rows[channels, leaders].T.reshape(height, width, -1)
    return Separation(channels.astype(np.int32), directions.astype(np.float32), weights.astype(np.float32))


def _chosen(rows: Matrix, squares: Matrix, limit: float, most: int) -> tuple[Places, Places] | None:
    """`(channels, filters)` whose spatial kernels are the directions; `None` if there are none, or more than `most`.

    Of each channel, again and again the kernel that is a direction for most of those that have none yet.
    """
    count, filters = squares.shape
    step = max(1, PAIRS_AT_ONCE // filters**2)
    chosen: list[tuple[Places, Places]] = []
    total = 0
    for start in range(0, count, step):
        part = slice(start, start + step)
        near = _near(rows[part], squares[part], limit)
        free = squares[part] > limit
        while free.any():
            active = np.flatnonzero(free.any(axis=1))
            leaders = np.argmax((near[active] & free[active, None]).sum(axis=2), axis=1)
            free[active] &= ~near[active, leaders]
            chosen.append((active + start, leaders))
            total += len(active)
            if total > most:
                return None
    if not chosen:
        return None
    channels, leaders = (np.concatenate(each) for each in zip(*chosen, strict=True))
    order = np.argsort(channels, kind="stable")
    return channels[order], leaders[order]


def _near(rows: Matrix, squares: Matrix, limit: float) -> NDArray[np.bool_]:
    """`(channels, filters, filters)`: whether the second kernel is near a multiple of the first."""
    products = np.square(rows @ rows.transpose(0, 2, 1))
    tiny = np.finfo(np.float64).tiny
    near: NDArray[np.bool_] = squares[:, None, :] - products / np.maximum(squares, tiny)[:, :, None] <= limit
    every = np.arange(squares.shape[1])
    near[:, every, every] = True
    return near


def _weights(rows: Matrix, squares: Matrix, channels: Places, leaders: Places) -> Matrix:
    """`(directions, filters)`: each kernel as a multiple of the direction of its channel that it is nearest to."""
    directions, lengths = rows[channels, leaders], squares[channels, leaders][:, None]
    multiples = np.matmul(rows[channels], directions[..., None])[..., 0] / lengths
    residuals = squares[channels] - np.square(multiples) * lengths
    rank = np.arange(len(channels)) - np.searchsorted(channels, channels)
    table = np.full((len(rows), rank.max() + 1, rows.shape[1]), np.inf)
    table[channels, rank] = residuals
    return np.where(table.argmin(axis=1)[channels] == rank[:, None], multiples, 0.0)


class _Pair:
    """The two layers in the place of a convolution."""

    def __init__(self, layer: keras.layers.Conv2D, found: Separation) -> None:
        self._name = layer.name
        self._found = found
        counts = np.bincount(found.channels, minlength=layer.kernel.shape[-2])
        self._even = bool(np.all(counts == counts[0]))
        self._depthwise = depthwise_of(layer, int(counts[0]) if self._even else 1)
        with configuration(layer) as config:
            self._pointwise = keras.layers.Conv2D.from_config({**config, **POINTWISE})
        self._bias = layer.bias

    def __call__(self, tensor: Any) -> Any:
        read = tensor
        if not self._even:
            # TFLite-Micro gathers by int32 numbers only.
            taken = keras.ops.take(tensor, self._found.channels.astype(np.int32), axis=-1)
            read = keras_graph.rename_between(tensor, taken, self._name)
        new = not self._depthwise.built
        made = self._pointwise(self._depthwise(read))
        if new:
            kernel = self._depthwise.kernel
            kernel.assign(self._found.directions.reshape(kernel.shape))
            self._pointwise.kernel.assign(self._found.weights[None, None])
            if self._bias is not None:
                self._pointwise.bias.assign(self._bias)
        return made
