"""Weights replaced by the modes of their density: more of them are equal, and more neurons with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core.global_state import global_state_kept
from keras_compress.core.progress import ProgressLine
from keras_compress.core.registry import register
from keras_compress.core.selection import Selector, rules_take, settings_by_path
from keras_compress.graph.finite import check_finite
from keras_compress.graph.model import candidates, check_model, compressed_layers, copy_layer, rebuild, slots_in

# Points of the grid in one bandwidth; modes are found to half of such a step.
STEPS_IN_A_BANDWIDTH = 16
# Beyond so many bandwidths the kernel is taken for 0.
KERNEL_RADIUS = 4
# Bandwidths to choose from, as shares of the standard deviation of the weights, and how often to halve the search.
SMALLEST_BANDWIDTH, LARGEST_BANDWIDTH, HALVINGS = 1e-4, 1.0, 10
# Points that a grid may have: weights further apart are left as they are.
LARGEST_GRID = 2**24


@register("entry_point")
@global_state_kept()
@rules_take("max_error")
def hash_weights(
    model: keras.Model,
    max_error: float = 0.05,
    *,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
) -> keras.Model:
    """RED's first step: each weight becomes a mode of the density of its layer's weights.

    With `w_1 ... w_n` the weights of a kernel, `K` the Gaussian and `h` the bandwidth:

        d(x) = 1 / (n h) * sum_i K((x - w_i) / h)
        hash(w) = m+_k  for  m-_k <= w < m-_(k+1)

    where `m+` are the local maxima of `d` and `m-` the local minima between them. No data is needed. Then use
    `merge_channels` and `separate_convolutions`.

    Args:
        model: Model without transforms in training.
        max_error: Most that a layer's weights may change, `||hash(w) - w|| / ||w - mean(w)||`, in (0, 1). The larger,
            the fewer values are left.
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}`, or with `"max_error"`.

    Returns:
        A new model, not compiled.

    Raises:
        ValueError: For an error out of (0, 1), or a model with transforms in training.

    **Reference**: Yvinec et al., "RED: Looking for redundancies for data-free structured compression of deep neural
    networks" (2021), adaptive scalar hashing.
    **Deviations**: the bandwidth of each kernel is the largest that keeps to `max_error`: a fixed share of the spread
    leaves one mode in a layer of many weights, whose density is smooth. The density is evaluated on a grid of `h / 16`,
    and of the weights the one nearest to a maximum stands for it, so that zeros and the values of clusters stay.
    Kernels are hashed as they are, without the factors of a BatchNormalization.
    """
    check_model(model)
    refuse_transforms(model)
    check_finite(model)
    settings = _settings(model, max_error, filters, rules)

    def make(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        copy = copy_layer(layer)
        if path in settings:
            for slot in slots_in(copy):
                variable = slot.variable(copy)
                values = keras.ops.convert_to_numpy(variable)
                variable.assign(hashed(values, float(settings[path]["max_error"])))
                line.advance()
        return copy

    with ProgressLine("hashing weights", len(settings)) as line:
        made: keras.Model = rebuild(model, make)
    return made


def _settings(
    model: keras.Model, max_error: float, filters: Selector | None, rules: Sequence[Mapping[str, Any]] | None
) -> dict[str, dict[str, Any]]:
    settings = settings_by_path(candidates(model), {"max_error": max_error}, filters, rules)
    for each in settings.values():
        if not 0.0 < each["max_error"] < 1.0:
            raise ValueError(f"Expected `max_error` in (0, 1). Received: max_error={each['max_error']}")
    return settings


def refuse_transforms(model: keras.Model) -> None:
    """Refuse a model in training with transforms: what is changed here are final weights.

    Raises:
        ValueError: Naming the first wrapped layer.
    """
    for path, wrapper in compressed_layers(model):
        raise ValueError(
            "Expected a model without transforms in training: take `kc.strip(model)` first. "
            f"Received: layer {path!r} with {[type(t).__name__ for t in wrapper.transform_list]}"
        )


def hashed(values: NDArray[np.float32], max_error: float) -> NDArray[np.float32]:
    """A weight with each value replaced by the mode whose basin it is in, see `hash_weights`.

    >>> found = hashed(np.float32([0.0, 0.01, 0.02, 1.0, 1.01, 1.02]), max_error=0.05)
    >>> [f'{value:.2f}' for value in np.unique(found)]
    ['0.02', '1.00']
    """
    flat = values.ravel().astype(np.float64)
    spread = float(flat.std())
    best = flat
    low, high = np.log(SMALLEST_BANDWIDTH), np.log(LARGEST_BANDWIDTH)
    for _ in range(HALVINGS if spread > 0.0 else 0):
        middle = (low + high) / 2
        candidate = hashed_with(flat, float(np.exp(middle)) * spread)
        if np.sqrt(np.mean((candidate - flat) ** 2)) <= max_error * spread:
            best, low = candidate, middle
        else:
            high = middle
    return best.astype(values.dtype).reshape(values.shape)


def hashed_with(flat: NDArray[np.float64], bandwidth: float) -> NDArray[np.float64]:
    """Values replaced by modes of their density with a given bandwidth."""
    from scipy.ndimage import gaussian_filter1d  # scipy is slow to import
    from scipy.signal import find_peaks

    step = bandwidth / STEPS_IN_A_BANDWIDTH
    if np.ptp(flat) / step > LARGEST_GRID:
        return flat
    margin = (KERNEL_RADIUS + 1) * STEPS_IN_A_BANDWIDTH
    start = flat.min() - margin * step
    places = np.round((flat - start) / step).astype(np.int64)
    counts = np.bincount(places, minlength=int(places.max()) + margin + 1).astype(np.float64)
    density = gaussian_filter1d(counts, STEPS_IN_A_BANDWIDTH, mode="constant", truncate=KERNEL_RADIUS)
    # Between two maxima of a sequence there is one minimum; `find_peaks` takes the middle of a level stretch.
    maxima, minima = find_peaks(density)[0], find_peaks(-density)[0]
    modes = _nearest(np.sort(flat), start + maxima * step)
    return modes[np.searchsorted(start + minima * step, flat, side="right")]


def _nearest(ordered: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The value nearest to each point, out of values in ascending order."""
    next_one = np.clip(np.searchsorted(ordered, points), 1, len(ordered) - 1)
    below, above = ordered[next_one - 1], ordered[next_one]
    return np.where(points - below <= above - points, below, above)
