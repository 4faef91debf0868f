"""BinaryConnect: binary weights, drawn at random while training."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from keras_compress.core import kernels
from keras_compress.core.context import counter
from keras_compress.core.noise import Stream, check_seed
from keras_compress.core.registry import register
from keras_compress.core.ste import value_of
from keras_compress.quantizers.signs import SignQuantizer, grid_with_slope
from keras_compress.quantizers.weight_quantizer import IntegerGrid

Tensor = Any


def hard_sigmoid(values: Tensor) -> Tensor:
    """`clip((x + 1) / 2, 0, 1)`.

    >>> hard_sigmoid(tf.constant([-3.0, 0.0, 0.5])).numpy().tolist()
    [0.0, 0.5, 0.75]
    """
    return tf.clip_by_value((values + 1.0) * 0.5, 0.0, 1.0)


def draw(weight: Tensor, key: Tensor) -> Tensor:
    """+1 with the probability that follows the weight, in steps of 2^-16, else -1; the same with XLA and without.

    Args:
        weight: float32 tensor.
        key: Two int64 numbers.
    """
    # Only the bits of Philox agree: XLA makes other floats out of them than TensorFlow's own kernels, and picks another
    # generator where none is named.
    count = math.prod(weight.shape)
    bits = tf.random.stateless_uniform([-(-count // 2)], key, minval=None, maxval=None, dtype=tf.uint32, alg="philox")
    # 16 bits for each weight: Philox is what the draw spends its time on.
    uniform = tf.cast(tf.reshape(tf.bitcast(bits, tf.uint16), [-1])[:count], tf.float32) * 2.0**-16
    return tf.where(
        tf.reshape(uniform, weight.shape) < hard_sigmoid(weight), tf.ones_like(weight), -tf.ones_like(weight)
    )


_STOCHASTIC = kernels.Kernel(draw)


@register("weight_transform")
class BinaryConnect(SignQuantizer):
    """The sign of the weight; while training, a sign drawn with a probability that follows the weight.

    **Forward** In training `y = +1` with probability `clip((w + 1) / 2, 0, 1)`, else `-1`. In inference, and in
    training with `stochastic=False`, `y = +1` where `w >= 0`, else `-1`. **Gradient** `dy/dw = 1` (straight through);
    the paper clips the weights to [-1, 1] after each step: give the layer `WeightClip(1.0)` as kernel constraint.

    **Levels** +1 and -1, scale 1.

    The draw depends on `seed`, the step and the weight that the transform began with, so training that is resumed goes
    on as if it had not stopped, and layers with the same seed draw different numbers.

    Args:
        stochastic: Draw the signs in training.
        seed: Seed of the draws, an integer from 0 to 2^31 - 1.

    Raises:
        ValueError: For a seed out of range.

    **Reference**: Courbariaux, Bengio and David, "BinaryConnect" (2015), equations 1 to 3 and algorithm 1.
    **Deviations**: `w = 0` counts as positive, as in the paper's equation 1.
    """

    def __init__(self, stochastic: bool = True, *, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stochastic = bool(stochastic)
        self.seed = check_seed(seed)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"stochastic": False, "seed": 2**31 - 1}]

    def create_variables(self) -> None:
        self.step = counter(self, "step")
        self.stream = Stream(self, self.seed)

    def initialize(self, weight: Tensor) -> None:
        self.stream.begin(weight)

    def update(self, weight: Tensor) -> list[tuple[keras.Variable, Tensor]]:
        return [(self.step, value_of(self.step) + 1)]

    def grid(self) -> tuple[IntegerGrid, tuple[Tensor, ...]]:
        return grid_with_slope(None), ()

    def call(self, weight: Tensor, training: bool = False) -> Tensor:
        bound = (_STOCHASTIC, (self.key(),)) if training and self.stochastic else self.kernel()
        return weight if bound is None else kernels.run([bound], weight)

    def key(self) -> Tensor:
        """What the draw of this step depends on."""
        return self.stream.key(value_of(self.step))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "stochastic": self.stochastic, "seed": self.seed}
