"""Quantization in buckets: each few weights are scaled by themselves, to levels that are even, or trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_compress.core import affine
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.registry import register
from keras_compress.core.selection import Selector, rules_take
from keras_compress.core.ste import value_of
from keras_compress.core.transform import WeightTransform
from keras_compress.core.wrapper import Compressed
from keras_compress.graph.model import add_transforms

Tensor = Any


@register("weight_transform")
class BucketQuantizer(WeightTransform):
    """Rounds each weight to one of evenly spaced levels between the lowest and the highest weight of its bucket.

    **Forward** `y = low + span * round(s (w - low) / span) / s`, `s = 2^bits - 1`, `span = high - low` of the bucket.
    **Gradient** `dy/dw = 1` (straight through).

    **Levels** `2^bits` real numbers in each bucket, which cost two float32 numbers for `bucket_size` weights. Integer
    kernels have one scale for a channel at most: behind these levels stands their uniform 8-bit grid.

    Args:
        bits: 1 to 8.
        bucket_size: Weights in a bucket, in the order in which they lie, >= 2; `None`: a bucket for each output
            channel, or with `per_channel=False` one for the tensor.
        per_channel: See `bucket_size`.

    Raises:
        ValueError: For `bits` or `bucket_size` out of range.

    **Reference**: Polino, Pascanu and Alistarh, "Model compression via distillation and quantization" (2018),
    section 2, linear scaling, deterministic rounding; quantized distillation (section 3, algorithm 1) is training with
    it and a teacher. **Deviations**: the last bucket of a tensor may be smaller.
    """

    def __init__(
        self, bits: int = 4, *, bucket_size: int | None = 256, per_channel: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(bits, int) or isinstance(bits, bool) or not 1 <= bits <= 8:
            raise ValueError(f"Expected `bits` to be an integer from 1 to 8. Received: bits={bits}")
        if bucket_size is not None and (
            not isinstance(bucket_size, int) or isinstance(bucket_size, bool) or bucket_size < 2
        ):
            raise ValueError(f"Expected `bucket_size` >= 2, or None. Received: bucket_size={bucket_size}")
        self.bits = bits
        self.per_channel = bool(per_channel)
        self.bucket_size = bucket_size

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bits": 2, "bucket_size": 5}, {"bits": 3, "bucket_size": None, "per_channel": False}]

    @property
    def number_of_clusters(self) -> int:
        """Levels of a bucket."""
        return int(2**self.bits)

    @property
    def promises(self) -> frozenset[str]:  # type: ignore[override]
        """Few levels, where buckets are tensors or channels."""
        if self.bucket_size is not None:
            return frozenset()
        return frozenset({"channel_codebook" if self.per_channel else "codebook"})

    def call(self, weight: Tensor, training: bool = False) -> Tensor:
        low, span, shares = self._scaled(weight)
        made = self._as_weight(low + span * self._rounded(shares))
        return weight + ops.stop_gradient(made - weight)

    def _rounded(self, shares: Tensor) -> Tensor:
        steps = float(2**self.bits - 1)
        return ops.round(shares * steps) / steps

    def _scaled(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Lowest weight and span of each bucket, and the weights between 0 and 1; no gradient flows through these."""
        weight = ops.stop_gradient(weight)
        rank = len(self.weight_shape)
        axes = affine.reduction_axes(rank, self.channel_axes if self.per_channel else None)
        if self.bucket_size is not None:
            flat, axes = ops.reshape(weight, (-1,)), (1,)
            missing = -flat.shape[0] % self.bucket_size
            # What fills the last bucket changes neither of its ends.
            filled = ops.concatenate([flat, ops.repeat(flat[-1:], missing)]) if missing else flat
            weight = ops.reshape(filled, (-1, self.bucket_size))
        low = ops.min(weight, axis=axes, keepdims=True)
        span = ops.max(weight, axis=axes, keepdims=True) - low
        return low, span, (weight - low) / ops.where(span > 0.0, span, 1.0)

    def _as_weight(self, rows: Tensor) -> Tensor:
        size = int(np.prod(self.weight_shape))
        return rows if self.bucket_size is None else ops.reshape(ops.reshape(rows, (-1,))[:size], self.weight_shape)

    def get_config(self) -> dict[str, Any]:
        own = {"bits": self.bits, "bucket_size": self.bucket_size, "per_channel": self.per_channel}
        return {**super().get_config(), **own}


@register("weight_transform")
class DifferentiableQuantizer(BucketQuantizer):
    """Gives each weight the nearest of a few levels whose positions are trained, scaled to its bucket.

    **Forward** `y = low + span * p[a]`, `a = argmin_j |(w - low) / span - p_j|`. **Gradient**
    `dL/dp_j = sum of span * dL/dy over the weights with a = j`; `dL/dw = 0`, as the positions alone are trained, unless
    `train_weights`, which passes it straight through.

    **Levels** `2^bits` positions for the tensor, which begin as quantiles of its scaled weights; see `BucketQuantizer`.

    Args:
        bits: 1 to 8.
        bucket_size: As for `BucketQuantizer`.
        per_channel: As for `BucketQuantizer`.
        train_weights: Train the weights too, and with them which level each has.

    Raises:
        ValueError: For `bits` or `bucket_size` out of range.

    **Reference**: Polino, Pascanu and Alistarh (2018), section 4, algorithm 2; the initial positions are those of
    section 4.1. **Deviations**: as many bits in each layer.
    """

    idempotent = False

    def __init__(
        self,
        bits: int = 4,
        *,
        bucket_size: int | None = 256,
        per_channel: bool = True,
        train_weights: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(bits, bucket_size=bucket_size, per_channel=per_channel, **kwargs)
        self.train_weights = bool(train_weights)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{"bits": 2, "train_weights": True}, {"bits": 2, "bucket_size": 5}, {"bits": 2, "bucket_size": None}]

    def create_variables(self) -> None:
        self.positions = self.add_weight(name="positions", shape=(2**self.bits,), initializer="zeros")

    def initialize(self, weight: Tensor) -> None:
        _, _, shares = self._scaled(ops.convert_to_tensor(weight, "float32"))
        count = 2**self.bits
        quantiles = (np.arange(count) + 0.5) / count
        self.positions.assign(np.quantile(ops.convert_to_numpy(shares), quantiles).astype(np.float32))

    def call(self, weight: Tensor, training: bool = False) -> Tensor:
        low, span, shares = self._scaled(weight)
        positions = value_of(self.positions)
        made = self._as_weight(low + span * ops.take(positions, _nearest(shares, ops.stop_gradient(positions))))
        # Weights that are not trained get a gradient of zeros, as the optimizer wants one.
        passed = weight - ops.stop_gradient(weight)
        return made + (passed if self.train_weights else 0.0 * passed)

    def summary_values(self) -> dict[str, float]:
        positions = ops.convert_to_numpy(value_of(self.positions))
        return {"lowest_position": float(positions.min()), "highest_position": float(positions.max())}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "train_weights": self.train_weights}


@register("entry_point")
@global_state_kept()
@rules_take("bits")
def quantize_in_buckets(
    model: keras.Model,
    bits: int = 4,
    bucket_size: int | None = 256,
    *,
    train_positions: bool = False,
    per_channel: bool = True,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    strict: bool = False,
) -> keras.Model:
    """A copy of the model whose weights are rounded to few levels in buckets; train it with a teacher.

    Args:
        model: Built model, plain or made by this library.
        bits: 1 to 8.
        bucket_size: Weights that are scaled together; see `BucketQuantizer`.
        train_positions: Train the positions of the levels in place of the weights: `DifferentiableQuantizer`.
        per_channel: What a bucket is with `bucket_size=None`: a channel, or the tensor.
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}` or `{"layers": selector, "bits": 8}`.
        strict: Raise where a layer has to be skipped.

    Returns:
        A new model to compile and train.

    Raises:
        ValueError: For `bits` or `bucket_size` out of range, and behind pruners and clusterers, whose zeros and shared
            values it would not keep.
    """
    cls = DifferentiableQuantizer if train_positions else BucketQuantizer

    def make(path: str, before: Compressed, slot: Any, settings: dict[str, Any]) -> list[WeightTransform]:
        return [cls(settings["bits"], bucket_size=bucket_size, per_channel=per_channel)]

    return add_transforms(model, make, {"bits": bits}, filters=filters, rules=rules, strict=strict)


def _nearest(values: Tensor, positions: Tensor) -> Tensor:
    """Index of the nearest position, the positions in any order.

    >>> _nearest(ops.array([0.0, 0.4, 0.9]), ops.array([1.0, 0.0, 0.5])).numpy().tolist()
    [1, 2, 0]
    """
    order = ops.argsort(positions)
    ascending = ops.take(positions, order)
    middles = 0.5 * (ascending[1:] + ascending[:-1])
    found = ops.take(order, ops.searchsorted(middles, ops.reshape(values, (-1,))))
    return ops.reshape(found, values.shape)
