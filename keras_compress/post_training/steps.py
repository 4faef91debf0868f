"""Weights whose integers a method chooses: a step that stays where it is, and a latent weight of whole steps.

`LSQ` has the step as a variable. A latent weight of `integers * step` is rounded to just those integers, in training,
in the frozen model and in the file; training can go on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core.slots import Slot
from keras_compress.core.transform import WeightTransform
from keras_compress.core.warn import warn
from keras_compress.core.wrapper import Compressed
from keras_compress.graph.model import compressed_layers, copy_layer, rebuild
from keras_compress.post_training.record import NotApplicable
from keras_compress.quantizers.lsq import LSQ
from keras_compress.quantizers.uniform import UniformQuantizer

Array = NDArray[Any]
# Why a layer is not seen on its own, in words.
CLOSED = "it is inside a layer with weights of its own, or whose `call` does not run on symbolic tensors"


@dataclass(frozen=True)
class Stepped:
    """One weight whose integers can be chosen.

    Attributes:
        path: Of its layer.
        wrapper: Around the layer.
        slot: Which weight of it.
        quantizer: The last transform.
    """

    path: str
    wrapper: Compressed
    slot: Slot
    quantizer: LSQ

    @property
    def weight(self) -> Array:
        """The weight as it comes to the quantizer, float32."""
        return np.asarray(self.wrapper.weight(self.slot.name, stop_before=self.quantizer))

    @property
    def step(self) -> Array:
        """Scale, which broadcasts against the weight."""
        return np.asarray(self.quantizer.step)

    @property
    def ends(self) -> tuple[int, int]:
        """Lowest and highest integer."""
        return self.quantizer.spec.minimum, self.quantizer.spec.maximum

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes that share one step."""
        return self.quantizer.reduced_axes

    def nearest(self, step: Array | None = None) -> Array:
        """The nearest integers."""
        low, high = self.ends
        return np.clip(np.rint(self.weight / (self.step if step is None else step)), low, high)

    def set_integers(self, integers: Array) -> None:
        """Let the layer see `integers * step`; what was 0 (pruned) stays 0."""
        kept = np.where(self.weight == 0, 0.0, integers)
        self.wrapper.latent(self.slot.name).assign((kept * self.step).astype(np.float32))


def with_steps(model: keras.Model) -> keras.Model:
    """A copy in which uniform weight quantizers have become `LSQ`, of the same step and the same integers."""
    return rebuild(model, _with_steps)


def _with_steps(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
    copy = copy_layer(layer)
    if not isinstance(copy, Compressed) or not any(type(t) is UniformQuantizer for t in copy.transform_list):
        return copy
    made: list[tuple[LSQ, Array]] = []

    def stepped(transform: WeightTransform, before: list[WeightTransform]) -> WeightTransform:
        if type(transform) is not UniformQuantizer or _codebook(before) is not None:
            return transform
        new = LSQ(transform.bits, per_channel=transform.group_axes is not None)
        weight = copy.weight(_slot_of(copy, transform), stop_before=transform)
        made.append((new, np.asarray(transform.grid()[0].to_integers(weight)[1])))
        return new

    transforms = {
        name: [stepped(transform, listed[:position]) for position, transform in enumerate(listed)]
        for name, listed in copy.transforms.items()
    }
    if not made:
        return copy
    wrapper = copy.remade(transforms)
    for new, scale in made:
        new.set_step(scale)
    return wrapper


def _slot_of(wrapper: Compressed, transform: WeightTransform) -> str:
    return next(name for name, listed in wrapper.transforms.items() if any(t is transform for t in listed))


def stepped_weights(model: keras.Model) -> list[Stepped]:
    """The weights of a model from `with_steps` whose integers can be chosen; says which cannot, and why.

    Raises:
        ValueError: Where there is none.
    """
    found, left = [], {}
    for path, wrapper in compressed_layers(model):
        for slot, transforms in wrapper.items():
            reason = _reason(transforms)
            if reason is None:
                found.append(Stepped(path, wrapper, slot, transforms[-1]))
            elif reason:
                left[path] = reason
    if not found:
        raise NotApplicable(
            "Expected a model with weights on evenly spaced levels, as `kc.quantize_model(model, weights='int4')` "
            f"makes one. Received: {model.name!r}{', with ' if left else ', without any'}{_listed(left)}"
        )
    if left:
        warn(f"Weights left as they are: {_listed(left)}")
    return found


def _reason(transforms: list[WeightTransform]) -> str | None:
    """Why integers cannot be chosen; empty where there are none."""
    if not any("grid" in t.promises for t in transforms):
        return ""
    shared = _codebook(transforms[:-1])
    if shared is not None:
        return f"{type(shared).__name__} has set its values"
    return None if isinstance(transforms[-1], LSQ) else f"{type(transforms[-1]).__name__} has levels of its own"


def _codebook(transforms: list[WeightTransform]) -> WeightTransform | None:
    """The first transform that lets a weight have few values."""
    return next((t for t in transforms if t.promises & {"codebook", "channel_codebook"}), None)


def _listed(reasons: dict[str, str]) -> str:
    return "; ".join(f"{path!r}: {reason}" for path, reason in reasons.items())


def warn_of_nearest(left: Mapping[str, str], weights: Mapping[int, list[Stepped]]) -> None:
    """Say which weights were rounded to the nearest, when all calls of the opened graph were gone through.

    Args:
        left: Path -> reason, of those that were come by.
        weights: Those that no call had.
    """
    reasons = {**left, **{each.path: CLOSED for listed in weights.values() for each in listed}}
    if reasons:
        warn(f"Weights rounded to the nearest integer: {_listed(reasons)}")


def by_wrapper(weights: list[Stepped]) -> dict[int, list[Stepped]]:
    """`id` of a wrapper -> its weights."""
    found: dict[int, list[Stepped]] = {}
    for each in weights:
        found.setdefault(id(each.wrapper), []).append(each)
    return found
