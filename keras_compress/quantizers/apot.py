"""APoT: levels that are sums of powers of two."""

from __future__ import annotations

import bisect
import functools
import itertools
from typing import Any

import tensorflow as tf
from keras import ops

from keras_compress.core.registry import register
from keras_compress.core.ste import value_of
from keras_compress.quantizers.weight_quantizer import IntegerGrid
from keras_compress.quantizers.weight_scale import TrainedScaleQuantizer, positive, sum_of_groups

Tensor = Any


def magnitudes(bits: int) -> tuple[int, ...]:
    """The levels that are not negative, as integers in rising order; the last one stands for `alpha`.

    Each pair of bits behind the sign chooses one of the terms 0 and three powers of two, which the pairs take in turn;
    a bit left over chooses between 0 and one power, the third in its turn.

    >>> magnitudes(4)
    (0, 1, 2, 3, 4, 6, 8, 10)
    """
    pairs, single = divmod(bits - 1, 2)
    powers = iter(2**exponent for exponent in reversed(range(3 * pairs + single)))
    terms = [[0] for _ in range(pairs)]
    for term in terms + terms:
        term.append(next(powers))
    extra = [[0, next(powers)]] if single else []
    for term in terms:
        term.append(next(powers))
    return tuple(sorted(sum(choice) for choice in itertools.product(*terms, *extra)))


def _nearest(values: Tensor, levels: tuple[int, ...]) -> Tensor:
    """The nearest level of each value of 0 and more, the lower one of two as near.

    Twice the middle between two levels is a whole number, so that a value rounded up to the next half finds its level
    in a table: one pass for any number of levels.
    """
    doubled_middles = [low + high for low, high in itertools.pairwise(levels)]
    table = [float(levels[bisect.bisect_left(doubled_middles, i)]) for i in range(2 * levels[-1] + 1)]
    halves = ops.ceil(ops.minimum(2.0 * values, float(2 * levels[-1])))
    return tf.gather(tf.constant(table, tf.float32), tf.cast(halves, tf.int32))


@functools.cache
def _grid(bits: int) -> IntegerGrid:
    levels = magnitudes(bits)
    highest = float(levels[-1])

    def to_integers(weight: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        scale = positive(alpha) * (1.0 / highest)
        return ops.sign(weight) * _nearest(ops.abs(weight) / scale, levels), scale

    def weight_gradient(upstream: Tensor, weight: Tensor, alpha: Tensor) -> Tensor:
        return ops.where(ops.abs(weight) <= positive(alpha), upstream, ops.zeros_like(upstream))

    def state_gradients(upstream: Tensor, weight: Tensor, alpha: Tensor) -> tuple[Tensor]:
        integers, _ = to_integers(weight, alpha)
        clip = positive(alpha)
        error = integers * (1.0 / highest) - weight / clip
        return (sum_of_groups(upstream * ops.where(ops.abs(weight) <= clip, error, ops.sign(weight)), alpha),)

    return IntegerGrid(to_integers, weight_gradient, state_gradients)


@register("weight_transform")
class APoT(TrainedScaleQuantizer):
    """Rounds the weight to the nearest of levels that are sums of powers of two, up to a trained clipping value.

    **Forward** `y = alpha * nearest(clip(w / alpha, -1, 1))`, nearest among `+-(p_0 + p_1 + ...) / M`, each `p` out of
    0 and three powers of two (one, where the bits behind the sign are odd in number, for the last), `M` the largest
    sum. `alpha` starts as the smaller of `max|w|` and three times the root of the mean of `w^2`.
    **Gradient** `dy/dw = 1` where `|w| <= alpha`, else 0; `dy/dalpha = y / alpha - w / alpha` where `|w| <= alpha`,
    else `sign(w)`.

    **Levels** (magnitudes, times `alpha / M`) 2 bits: 0, 1; 3 bits: 0, 1, 2, 4; 4 bits: 0, 1, 2, 3, 4, 6, 8, 10;
    5 bits: sums of one out of 0, 32, 8, 2 and one out of 0, 16, 4, 1; 6 bits: one out of 0, 64, 16, 2, one out of
    0, 32, 8, 1 and 0 or 4; 7 bits: up to 448, which does not fit int8.

    Args:
        bits: 2 to 7, the sign included.
        per_channel: An `alpha` for each output channel, or one for the tensor. After a clusterer they follow its
            codebooks whatever this says.

    Raises:
        ValueError: For bits out of range.

    **Reference**: Li, Dong and Wang, "Additive Powers-of-Two Quantization: An Efficient Non-uniform Discretization for
    Neural Networks" (2020), sections 2.2 and 2.3 (equations 3 to 5), with a base bit-width of 2; the levels of an odd
    number of bits behind the sign as in the authors' implementation.
    **Deviations**: weights are not normalised to mean 0 and deviation 1, which would leave no zero point of 0, so
    `alpha` starts from the weight's own deviation. With 2 bits the weight's gradient is clipped as with more. Where
    training carries `alpha` under 1e-8, the forward pass computes with that. A channel of zeros starts with the
    largest `alpha` of its tensor.
    """

    allowed_bits = tuple(range(2, 8))

    def __init__(self, bits: int = 4, *, per_channel: bool = False, **kwargs: Any) -> None:
        super().__init__(bits, per_channel=per_channel, **kwargs)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bits": 7, "per_channel": True}]

    @property
    def storage_bits(self) -> int:
        return magnitudes(self.bits)[-1].bit_length() + 1

    def grid(self) -> tuple[IntegerGrid, tuple[Tensor, ...]]:
        return _grid(self.bits), (value_of(self.learned),)
