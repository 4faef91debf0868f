"""XNOR-Net's scale of the inputs, where it is a constant, and XNOR-Net++'s factors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from keras_compress.convert.expand.arithmetic import as_array, combine
from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion


class ConstantScale(Expansion):
    """One number for all channels; it folds into the convolution before it."""

    handles = ("XnorScale",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        if not operation.constant:
            raise ValueError(
                "Expected XnorScale(constant=True): a scale computed from the inputs has no integer form. "
                f"Received: constant=False at {operation.name!r}; train with constant=True, or convert with "
                "mode='float32'."
            )
        outputs, _ = args[0]
        return emit.affine(outputs, np.full(outputs.shape[-1], float(operation.factor())), name="scale")


class TrainedScale(Expansion):
    """XNOR-Net++'s factors: those of channels fold into the convolution before them, those of places are a product."""

    handles = ("XnorPlusPlusScale",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        first, *others = (as_array(factor) for factor in operation.factors)
        scaled = combine(emit, "multiply", args[0], first)
        return combine(emit, "multiply", scaled, math.prod(others)) if others else scaled
