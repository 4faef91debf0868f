"""What tfmot's wrapper does to a weight, as this library's transforms with the same values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.clustering import kernels
from keras_compress.clustering.centroids import CentroidClusterer
from keras_compress.core.affine import fill_zero_scales
from keras_compress.core.existing import existing
from keras_compress.core.registry import resolve
from keras_compress.core.schedule import ConstantSparsity
from keras_compress.core.slots import Slot, slots_of
from keras_compress.core.transform import WeightTransform
from keras_compress.core.wrapper import Compressed
from keras_compress.migrate.unwrapped import CLUSTER, PRUNE, Wrapped
from keras_compress.pruning.magnitude import MagnitudePruner
from keras_compress.quantizers.lsq import LSQ

Array = NDArray[Any]
# tfmot's name of a weight -> that of Keras 3.
_RENAMED = {"depthwise_kernel": "kernel"}
_MOST_CENTROIDS = 256
_SCHEDULES = ("ConstantSparsity", "PolynomialDecay")


class CannotMapError(ValueError):
    """A wrapper that has no twin here; the message says why."""


@dataclass
class Taken:
    """A weight with the transforms that take tfmot's place.

    Attributes:
        transforms: In order.
        latent: What the layer's variable holds.
        states: Values to set once the wrapper has built the transforms: `(variable's name, value)` of each transform.
    """

    transforms: list[WeightTransform]
    latent: Array
    states: list[dict[str, Any]]


def with_transforms(layer: keras.layers.Layer, wrapped: Wrapped) -> keras.layers.Layer:
    """A wrapper around a built layer that computes what tfmot's did; the layer itself where nothing is to be wrapped.

    Raises:
        CannotMapError: For something that has no twin here.
    """
    build = {PRUNE: _pruned, CLUSTER: _clustered}.get(wrapped.kind, _quantized)
    taken = build(layer, wrapped)
    if not taken:
        return layer
    wrapper = Compressed(layer, {slot.name: weight.transforms for slot, weight in taken})
    for slot, weight in taken:
        slot.variable(layer).assign(weight.latent)
        for transform, state in zip(weight.transforms, weight.states, strict=True):
            _set(transform, state)
    return wrapper


def _set(transform: WeightTransform, state: dict[str, Any]) -> None:
    for name, value in state.items():
        if name == "step_size":
            transform.set_step(np.broadcast_to(value, transform.scale_shape).astype(np.float32))
        else:
            getattr(transform, name).assign(value)


def _pruned(layer: keras.layers.Layer, wrapped: Wrapped) -> list[tuple[Slot, Taken]]:
    masks = wrapped.values.get("mask", [])
    steps = [int(step) for step in wrapped.values.get("pruning_step", [])]
    found = []
    for slot, mask in zip(_slots_of_shapes(layer, [mask.shape for mask in masks]), masks, strict=True):
        pruner = MagnitudePruner(
            _schedule(wrapped.config["pruning_schedule"]),
            block_size=wrapped.config["block_size"],
            block_pooling_type=wrapped.config["block_pooling_type"],
        )
        state = {"mask": mask != 0, "step": max(steps[0], 0) if steps else 0}
        found.append((slot, Taken([pruner], np.asarray(slot.variable(layer)), [state])))
    return found


def _schedule(config: dict[str, Any]) -> Any:
    if config["class_name"] not in _SCHEDULES:
        raise CannotMapError(f"its schedule is {config['class_name']}, one of the user's own")
    return resolve("schedule", {"class_name": config["class_name"], "config": config["config"]})


def _slots_of_shapes(layer: keras.layers.Layer, shapes: Sequence[tuple[int, ...]]) -> list[Slot]:
    """The slots that tfmot's values are for, which come in the order of slots, some of them left out."""
    slots = iter(slots_of(layer))
    found = [next((s for s in slots if tuple(s.variable(layer).shape) == tuple(shape)), None) for shape in shapes]
    if None in found:
        raise CannotMapError("its weights are not those that this library compresses")
    return [slot for slot in found if slot is not None]


def _clustered(layer: keras.layers.Layer, wrapped: Wrapped) -> list[tuple[Slot, Taken]]:
    slots = {slot.name.split(".")[-1]: slot for slot in slots_of(layer)}
    found = []
    for name, values in wrapped.values.items():
        if not name.startswith("cluster_centroids_"):
            continue
        slot = slots.get(name.removeprefix("cluster_centroids_"))
        if slot is None:
            raise CannotMapError("its weights are not those that this library compresses")
        latent = np.asarray(slot.variable(layer))
        centroids = values[0].reshape(-1, values[0].shape[-1])
        found.append((slot, _with_centroids(latent, centroids, wrapped.config["preserve_sparsity"])))
    return found


def _with_centroids(latent: Array, centroids: Array, keep_zeros: bool) -> Taken:
    """A weight of few values.

    Args:
        latent: What training moves.
        centroids: `(codebooks, centroids)`; where zeros stay, 0 is to be among them.
        keep_zeros: Whether the zeros of `latent` stay.
    """
    number = centroids.shape[1]
    if not 2 <= number <= _MOST_CENTROIDS:
        raise CannotMapError(f"it has {number} clusters; this library has 2 to {_MOST_CENTROIDS}")
    clusterer = CentroidClusterer(
        number, cluster_centroids_init="kmeans++", cluster_per_channel=len(centroids) > 1, preserve_sparsity=keep_zeros
    )
    if not keep_zeros:
        return Taken([clusterer], latent, [{"centroids": centroids}])
    pruner, state = _keeping_zeros(latent)
    # tfmot's zero is the centroid nearest to it, and is made 0 in each call.
    zero = np.argmin(np.abs(centroids), axis=1)
    others = np.stack([np.delete(row, place) for row, place in zip(centroids, zero, strict=True)])
    return Taken([pruner, clusterer], latent, [state, {"centroids": others}])


def _keeping_zeros(weight: Array) -> tuple[WeightTransform, dict[str, Any]]:
    """The mask of a weight's zeros, which no schedule changes any more."""
    kept = weight != 0
    schedule = ConstantSparsity(float(1.0 - kept.mean()), begin_step=0, end_step=0)
    return MagnitudePruner(schedule), {"mask": kept, "step": 1}


def _quantized(layer: keras.layers.Layer, wrapped: Wrapped) -> list[tuple[Slot, Taken]]:
    slots = {slot.name: slot for slot in slots_of(layer)}
    found = []
    for name, (low,) in wrapped.values.items():
        if not name.endswith("_min") or name.startswith(("pre_activation", "post_activation", "output")):
            continue
        weight = name.removesuffix("_min")
        slot = slots.get(_RENAMED.get(weight, weight))
        if slot is None:
            raise CannotMapError(f"its weight {weight!r} is not one that this library quantizes")
        (high,) = wrapped.values[f"{weight}_max"]
        found.append((slot, _on_grid(layer, slot, wrapped, np.asarray(low), np.asarray(high))))
    return found


def _on_grid(layer: keras.layers.Layer, slot: Slot, wrapped: Wrapped, low: Array, high: Array) -> Taken:
    """A weight on tfmot's grid, whose step is that of the last batch of the training."""
    weight, per_channel = np.asarray(slot.variable(layer)), bool(low.shape)
    kept = _before_the_grid(weight, slot, wrapped, per_channel)
    quantizer = LSQ(8, per_channel=per_channel)
    step = (high.astype(np.float32) - low.astype(np.float32)) / np.float32(254)
    # A channel of zeros has a step of 0 there.
    step = fill_zero_scales(step)
    return Taken([*kept.transforms, quantizer], kept.latent, [*kept.states, {"step_size": step}])


def _before_the_grid(weight: Array, slot: Slot, wrapped: Wrapped, per_channel: bool) -> Taken:
    """What keeps the zeros and the few values that a weight has, in front of its grid."""
    found, original = existing(weight, slot.channel_axes), wrapped.values.get("ori_weights_vars_tf")
    if found.values or original is not None:
        centroids = _centroids(weight, slot, per_channel or found.per_channel)
        if centroids.shape[1] <= _MOST_CENTROIDS:
            taken = _with_centroids(weight, centroids, keep_zeros=not weight.all())
            return taken if original is None else replace(taken, latent=_nearest_to(weight, original[0]))
    if found.sparsity:
        pruner, state = _keeping_zeros(weight)
        return Taken([pruner], weight, [state])
    return Taken([], weight, [])


def _centroids(weight: Array, slot: Slot, per_channel: bool) -> Array:
    """The distinct values of a weight, 0 among them where there are zeros, as `(codebooks, centroids)`.

    Scales of each channel give the values of the tensor's codebook other integers in each: it becomes one for each.
    """
    axes = tuple(axis % weight.ndim for axis in slot.channel_axes)
    layout = kernels.Layout(weight.shape, axes) if per_channel else kernels.Layout(())
    zeros = [] if weight.all() else [0.0]
    rows = [np.unique(np.append(row, zeros)) for row in np.asarray(layout.to_matrix(weight))]
    longest = max(2, *map(len, rows))
    return np.stack([np.pad(row, (0, longest - len(row)), mode="edge") for row in rows]).astype(np.float32)


def _nearest_to(weight: Array, original: Array) -> Array:
    """What tfmot trained behind a clustered weight, where it still belongs to the value that the weight has."""
    values = np.unique(weight)
    nearest = values[np.searchsorted((values[1:] + values[:-1]) / 2, original)]
    latent: Array = np.where((nearest == weight) & (weight != 0), original, weight)
    return latent
