"""Kernels compiled together compute what they compute one after the other, gradients too."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_compress.clustering.centroids import CentroidClusterer
from keras_compress.core import kernels
from keras_compress.core.schedule import ConstantSparsity
from keras_compress.core.transform import WeightTransform, apply_all
from keras_compress.pruning.magnitude import MagnitudePruner
from keras_compress.quantizers.uniform import UniformQuantizer

pytestmark = pytest.mark.xla

Scale = kernels.Kernel(
    lambda weight, factor: weight * factor,
    weight_gradient=lambda upstream, weight, factor: upstream * factor,
    state_gradients=lambda upstream, weight, factor: (tf.reduce_sum(upstream * weight),),
)
Round = kernels.Kernel(lambda weight: tf.round(weight))
Choose = kernels.Kernel(
    lambda weight, keep, low, high: tf.where(keep, weight * low, weight * high),
    state_gradients=lambda upstream, weight, keep, low, high: (None, tf.reduce_sum(upstream), tf.constant(7.0)),
)


def test_chain_forward_and_gradients() -> None:
    weight, first, second = tf.constant([0.4, -1.3]), tf.constant(2.0), tf.constant(3.0)
    with tf.GradientTape() as tape:
        tape.watch([weight, first, second])
        result = kernels.run([(Scale, (first,)), (Round, ()), (Scale, (second,))], weight)
    assert result.numpy().tolist() == [3.0, -9.0]  # round(0.8) = 1, round(-2.6) = -3, times 3
    to_weight, to_first, to_second = tape.gradient(result, [weight, first, second], tf.constant([1.0, 10.0]))
    assert to_weight.numpy().tolist() == [6.0, 60.0]
    assert to_first.numpy() == pytest.approx(3 * 0.4 + 30 * -1.3)
    assert to_second.numpy() == pytest.approx(1.0 * 1 + 10.0 * -3)


def test_untrained_state_gets_no_gradient_and_the_weight_goes_straight_through() -> None:
    weight, keep = tf.constant([1.0, 2.0]), tf.constant([True, False])
    low, high = tf.constant(5.0), tf.constant(6.0)
    with tf.GradientTape() as tape:
        tape.watch([weight, low, high])
        result = kernels.run([(Choose, (keep, low, high))], weight)
    assert result.numpy().tolist() == [5.0, 12.0]
    to_weight, to_low, to_high = tape.gradient(result, [weight, low, high], tf.constant([0.5, 0.25]))
    assert to_weight.numpy().tolist() == [0.5, 0.25]
    assert (to_low.numpy(), to_high.numpy()) == (0.75, 7.0)


def test_empty_chain_is_the_weight() -> None:
    weight = tf.constant([1.0])
    assert kernels.run([], weight) is weight


def _prepared() -> tuple[list[WeightTransform], tf.Tensor]:
    weight = tf.constant(np.random.default_rng(0).normal(size=(40, 30)).astype("float32"))
    listed = [MagnitudePruner(ConstantSparsity(0.5, begin_step=0)), CentroidClusterer(5), UniformQuantizer(4)]
    made: frozenset[str] = frozenset()
    for transform in listed:
        transform.prepare((40, 30), (1,), made)
        made |= transform.promises
    listed[0].mask.assign(np.abs(weight) > 0.6)
    listed[1].centroids.assign([[-1.0, -0.8, 0.9, 1.4]])
    return listed, weight


def test_prune_cluster_quantize_together_equal_one_by_one() -> None:
    listed, weight = _prepared()
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(weight)
        together = apply_all(listed, weight)
        one_by_one = weight
        for transform in listed:
            one_by_one = transform(one_by_one)
    np.testing.assert_array_equal(together, one_by_one)
    assert len(np.unique(together)) == 5
    sources = [weight, listed[1].centroids.value]
    upstream = tf.constant(np.random.default_rng(1).normal(size=(40, 30)).astype("float32"))
    gradients = tape.gradient(together, sources, upstream), tape.gradient(one_by_one, sources, upstream)
    for fused, separate in zip(*gradients, strict=True):
        assert np.abs(separate).max() > 0
        np.testing.assert_allclose(fused, separate, rtol=1e-6)


class _Doubling(WeightTransform):
    """A transform of the old kind, with `call` and `update`."""

    preserves = frozenset({"zeros"})

    def update(self, weight: tf.Tensor) -> list:
        return []

    def call(self, weight: tf.Tensor, training: bool = False) -> tf.Tensor:
        return weight * (4.0 if training else 2.0)


def test_a_transform_without_kernel_stands_between_kernels() -> None:
    listed, weight = _prepared()
    doubling, seen = _Doubling(), []
    doubling.prepare((40, 30), (1,))
    chain = [listed[0], doubling, listed[1]]

    def visit(transform, value):
        seen.append((transform, value))
        return value

    result = apply_all(chain, weight, training=True, visit=visit)
    masked = listed[0](weight)
    np.testing.assert_array_equal(result, listed[1](masked * 4.0))
    assert [transform for transform, _ in seen] == [listed[0], doubling]
    np.testing.assert_array_equal(seen[1][1], masked)


def test_neither_kernel_nor_call_is_an_error() -> None:
    transform = WeightTransform()
    transform.prepare((2,), (0,))
    with pytest.raises(NotImplementedError, match=r"WeightTransform must implement `kernel\(\)` or `call"):
        transform(tf.constant([1.0, 2.0]))
