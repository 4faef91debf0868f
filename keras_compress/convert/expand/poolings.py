"""Poolings to a given size."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion

_NAMES = {f"Adaptive{kind}Pooling{rank}D": f"{kind}Pooling{rank}D" for kind in ("Average", "Max") for rank in (1, 2, 3)}


class AdaptivePooling(Expansion):
    """An adaptive pooling with windows of one size as the pooling with that size."""

    handles: ClassVar[tuple[str, ...]] = tuple(_NAMES)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        space, wanted = args[0].shape[1:-1], operation.output_size
        sizes = [wanted] * len(space) if isinstance(wanted, int) else list(wanted)
        if operation.data_format == "channels_first" or any(n % m for n, m in zip(space, sizes, strict=True)):
            raise ValueError(
                f"Expected sizes that the output's divide: others have windows of several sizes. Received: {space} to "
                f"{tuple(sizes)} at {emit.name('')!r}"
            )
        windows = tuple(n // m for n, m in zip(space, sizes, strict=True))
        name = next(_NAMES[cls.__name__] for cls in type(operation).__mro__ if cls.__name__ in _NAMES)
        return emit(getattr(keras.layers, name)(windows, windows, name="pooled"), args[0])
