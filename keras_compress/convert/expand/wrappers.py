"""Layers that only say something of training, or of masks."""

from __future__ import annotations

from typing import Any, ClassVar

from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion


class SpectralNormalization(Expansion):
    """The layer itself: training has left the kernel divided by its largest singular value."""

    handles: ClassVar[tuple[str, ...]] = ("SpectralNormalization",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        return emit(operation.layer, *args)


class Masking(Expansion):
    """Steps of zeros, of which a mask of zeros makes zeros. Layers that read the mask get it by themselves."""

    handles = ("Masking",)

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return bool(operation.mask_value == 0)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        return args[0]
