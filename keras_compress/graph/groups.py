"""Named groups: transforms of several layers for which one decision is made in each training step.

Each member stores the group's name alone. Who else is in it is found in the model that runs, after loading too.
"""

from __future__ import annotations

import zlib
from typing import TypeVar

import keras
import numpy as np
from keras import ops

from keras_compress.core.context import entry_layer, first_time_in_call
from keras_compress.core.ste import value_of
from keras_compress.core.transform import WeightTransform
from keras_compress.core.wrapper import Compressed
from keras_compress.graph.model import compressed_layers

_Member = TypeVar("_Member", bound=WeightTransform)


class _GroupName:
    """Identity under which a group's decision is marked as made, one for each name."""

    _known: dict[str, _GroupName] = {}

    @classmethod
    def of(cls, name: str) -> _GroupName:
        return cls._known.setdefault(name, cls())


def decides_now(name: str) -> bool:
    """True for the first member of a group that asks in a call of the model: the one that decides for all."""
    return first_time_in_call(_GroupName.of(name))


def members_of(name: str, kind: type[_Member]) -> list[tuple[Compressed, str, _Member]]:
    """`(wrapper, slot, transform)` of every member of a group, found in the model that is being called.

    Raises:
        ValueError: Outside the model's call: a member on its own cannot know the others.
    """
    model = entry_layer()
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"Expected members of the pruning group {name!r} to be trained inside their model. "
            f"Received: a training call on {getattr(model, 'name', None)!r} alone."
        )
    return [
        (wrapper, slot.name, transform)
        for _, wrapper in compressed_layers(model)
        for slot, listed in wrapper.items()
        for transform in listed
        if isinstance(transform, kind) and getattr(transform, "group", None) == name
    ]


def new_group(model: keras.Model, stem: str) -> str:
    """A name of its own for the group of one call, also among models from other sessions: they may meet in one model.

    Made of the model's first weights, so that the same program gives the same file.
    """
    digest = zlib.crc32(model.name.encode())
    for variable in model.variables:
        first = np.ravel(ops.convert_to_numpy(value_of(variable)))[:64]
        digest = zlib.crc32(variable.path.encode() + first.tobytes(), digest)
    name = f"{stem}-{digest:08x}"
    count = keras.backend.get_uid(name)
    return name if count == 1 else f"{name}-{count}"
