from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.pruning.search import keep_highest, keep_highest_of_each

ALWAYS = kc.ConstantSparsity(0.5, begin_step=0, frequency=1)


def wrapped(kernel: list[list[float]], pruner: kc.WeightTransform) -> kc.Compressed:
    layer = layers.Dense(len(kernel[0]), use_bias=False)
    layer.build((None, len(kernel)))
    layer.kernel.assign(kernel)
    return kc.Compressed(layer, {"kernel": [pruner]})


def train(wrapper: kc.Compressed, times: int = 1) -> None:
    for _ in range(times):
        wrapper(np.zeros((1, wrapper.latent("kernel").shape[0]), np.float32), training=True)


def reference(scores: np.ndarray, sparsity: float) -> np.ndarray:
    """Sort, highest first, of equal ones the first in the tensor; keep `round(n * (1 - sparsity))`, one at least."""
    kept = max(1, round(len(scores) * (1 - float(np.float32(sparsity)))))
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return np.isin(np.arange(len(scores)), order[:kept])


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.77, 0.999])
@pytest.mark.parametrize("kind", ["normal", "ties", "zeros", "masked", "tiny"])
def test_keep_highest_equals_a_sort(kind: str, sparsity: float) -> None:
    random = np.random.default_rng(0)
    scores = {
        "normal": np.abs(random.normal(size=301)),
        "ties": random.integers(0, 4, 301) / 8,
        "zeros": np.zeros(301),
        "masked": np.where(random.random(301) < 0.4, -1.0, np.abs(random.normal(size=301))),
        "tiny": np.abs(random.normal(size=301)) * 1e-30,
    }[kind].astype(np.float32)
    mask = np.array(keep_highest(tf.constant(scores), tf.constant(sparsity, tf.float32)))
    np.testing.assert_array_equal(mask, reference(scores, sparsity))


def test_many_weights_in_one_search_equal_a_sort_of_each() -> None:
    """Of all sizes around a row of the search, equal scores, pruned ones and infinite ones among them."""
    random = np.random.default_rng(1)
    scores = [np.abs(random.normal(size=n)) for n in (1, 2, 127, 128, 129, 256, 1000)]
    scores += [random.integers(0, 3, 300) / 4, np.zeros(130), np.full(128, -1.0), np.array([np.inf, 1.0, np.inf, 2.0])]
    scores = [each.astype(np.float32) for each in scores]
    sparsities = random.uniform(0, 1, len(scores)).astype(np.float32)
    masks = keep_highest_of_each([tf.constant(each) for each in scores], [tf.constant(s) for s in sparsities])
    for each, sparsity, mask in zip(scores, sparsities, masks):
        np.testing.assert_array_equal(np.array(mask), reference(each, sparsity))


def test_a_model_s_masks_are_those_of_each_weight_alone() -> None:
    """Schedules of their own, one that does not act, one that began later: by NumPy's sort of what is left."""
    kernels = [np.random.default_rng(i).normal(size=(12, 12)).astype(np.float32) for i in range(3)]
    schedules = [
        kc.PolynomialDecay(0.25, 0.75, begin_step=0, end_step=4, frequency=1),
        kc.ConstantSparsity(0.5, begin_step=1, frequency=1),
        kc.ConstantSparsity(0.5, begin_step=9),
    ]
    inputs = x = layers.Input((12,))
    wrappers = []
    for kernel, schedule in zip(kernels, schedules):
        wrappers.append(wrapped(kernel.tolist(), kc.MagnitudePruner(schedule)))
        x = wrappers[-1](x)
    model = keras.Model(inputs, x)
    alive = [np.ones((12, 12), bool) for _ in kernels]
    for step in range(5):
        model(np.zeros((1, 12), np.float32), training=True)
        for kernel, schedule, wrapper, kept in zip(kernels, schedules, wrappers, alive):
            if bool(schedule.should_update(step)):
                scores = np.where(kept, np.abs(kernel), -1.0).ravel()
                kept &= reference(scores, float(schedule(step))).reshape(12, 12)
            np.testing.assert_array_equal(np.array(wrapper.transform_list[0].mask), kept)
    assert [int(kept.sum()) for kept in alive] == [36, 72, 144]


def test_keep_highest_half_rounds_to_even() -> None:
    assert np.array(keep_highest(tf.constant([1.0, 2.0, 3.0]), tf.constant(0.5))).sum() == 2  # 1.5
    assert np.array(keep_highest(tf.constant([1.0, 2.0, 3.0, 4.0, 5.0]), tf.constant(0.5))).sum() == 2  # 2.5


def test_masks_act_in_the_forward_pass() -> None:
    """So that a checkpoint taken in the middle of the training is sparse: no callback multiplies anything."""
    wrapper = wrapped([[1.0, -2.0], [-0.5, 0.25]], kc.MagnitudePruner(ALWAYS))
    assert np.array(wrapper.weight("kernel")).tolist() == [[1.0, -2.0], [-0.5, 0.25]]
    outputs = wrapper(np.ones((1, 2), np.float32), training=True)
    assert np.array(outputs).tolist() == [[1.0, -2.0]]
    assert np.array(wrapper(np.ones((1, 2), np.float32))).tolist() == [[1.0, -2.0]]
    assert np.array(wrapper.weight("kernel")).tolist() == [[1.0, -2.0], [0.0, 0.0]]
    assert wrapper.transform_list[0].sparsity() == 0.5


@pytest.mark.parametrize(("regrow", "expected"), [(False, [[1.0, 1.0], [0.0, 0.0]]), (True, [[1.0, 1.0], [1.0, 1.0]])])
def test_gradient_is_the_mask_or_dense_with_regrow(regrow: bool, expected: list) -> None:
    wrapper = wrapped([[1.0, -2.0], [-0.5, 0.25]], kc.MagnitudePruner(ALWAYS, regrow=regrow))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(wrapper(np.ones((1, 2), np.float32), training=True))
    gradient = tape.gradient(loss, wrapper.latent("kernel").value)
    assert np.array(gradient).tolist() == expected


@pytest.mark.parametrize(("regrow", "mask"), [(False, [1, 1, 0, 0]), (True, [0, 0, 1, 1])])
def test_masks_are_monotone_unless_regrow(regrow: bool, mask: list[int]) -> None:
    wrapper = wrapped([[4.0], [3.0], [2.0], [1.0]], kc.MagnitudePruner(ALWAYS, regrow=regrow))
    train(wrapper)
    assert np.array(wrapper.transform_list[0].mask).ravel().tolist() == [1, 1, 0, 0]
    wrapper.latent("kernel").assign([[1.0], [2.0], [3.0], [4.0]])
    train(wrapper)
    assert np.array(wrapper.transform_list[0].mask).ravel().tolist() == mask


def test_monotone_masks_do_not_grow_back_when_the_sparsity_falls() -> None:
    falling = kc.PolynomialDecay(0.5, 0.0, 0, 2, power=1, frequency=1)
    wrapper = wrapped([[4.0], [3.0], [2.0], [1.0]], kc.MagnitudePruner(falling))
    train(wrapper, 3)
    weight = np.array(wrapper.weight("kernel")).ravel()
    assert weight.tolist() == [4.0, 3.0, 0.0, 0.0]


def test_counts_follow_the_schedule_step_by_step() -> None:
    kernel = np.random.default_rng(0).normal(size=(10, 10)).tolist()
    schedule = kc.PolynomialDecay(0.3, 0.9, begin_step=1, end_step=5, frequency=2)
    wrapper = wrapped(kernel, kc.MagnitudePruner(schedule))
    zeros = []
    for _ in range(7):
        train(wrapper)
        zeros.append(int((np.array(wrapper.weight("kernel")) == 0).sum()))
    # Steps 1, 3 and 5 act: 0.3, 0.9 - 0.6 / 8 = 0.825 (82.5 zeros, 17.5 kept, to even 18), 0.9.
    assert zeros == [0, 30, 30, 82, 82, 90, 90]


def test_pending_says_how_far_training_came() -> None:
    pruner = kc.MagnitudePruner(kc.PolynomialDecay(0.0, 0.5, 0, 2, frequency=1))
    wrapper = wrapped([[1.0], [2.0]], pruner)
    assert pruner.pending() == "pruning has not begun: no training step was made"
    train(wrapper, 2)
    assert pruner.pending() == "pruning stopped at step 2, before its end_step 2"
    train(wrapper)
    assert pruner.pending() is None
    endless = kc.MagnitudePruner(ALWAYS)
    train(wrapped([[1.0]], endless))
    assert endless.pending() is None


def test_not_a_schedule() -> None:
    with pytest.raises(ValueError, match=r"Expected a Schedule, such as .*Received: 0.5 of type float"):
        kc.MagnitudePruner(0.5)
    with pytest.raises(ValueError, match="Expected a schedule out of"):
        kc.MagnitudePruner("UniformQuantizer")


def test_ties_decide_between_equal_scores_and_nowhere_else() -> None:
    random = np.random.default_rng(2)
    scores = [random.integers(-2, 2, n).astype(np.float32) * 1e-20 for n in (5, 127, 128, 300)]
    ties = [random.integers(0, 5, each.size).astype(np.float32) for each in scores]
    masks = keep_highest_of_each(scores, [0.5, 0.9, 0.25, 0.6], ties)
    for each, tie, sparsity, mask in zip(scores, ties, [0.5, 0.9, 0.25, 0.6], masks):
        order = sorted(range(each.size), key=lambda i, each=each, tie=tie: (-each[i], -tie[i], i))
        kept = order[: round(each.size * (1 - float(np.float32(sparsity))))]
        np.testing.assert_array_equal(np.array(mask), np.isin(np.arange(each.size), kept))


def test_pending_before_the_begin() -> None:
    pruner = kc.MagnitudePruner(kc.ConstantSparsity(0.5, begin_step=3, frequency=1))
    wrapper = wrapped([[1.0], [2.0]], pruner)
    train(wrapper, 3)
    assert pruner.pending() == "pruning has not begun: training stopped at step 3, its begin_step is 3"
    train(wrapper)
    assert pruner.pending() is None
