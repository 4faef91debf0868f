"""RigL and SET: what is dropped, what grows, and from what value."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tests_pruning as t

import keras_compress as kc
from keras_compress.pruning.distribution import layer_sparsities

SCHEDULE = kc.ConstantSparsity(0.5, begin_step=0, end_step=8, frequency=2)


def mask_of(pruner) -> list[int]:
    return np.array(pruner.mask).astype(int).ravel().tolist()


def test_the_share_that_is_dropped_falls_along_a_cosine() -> None:
    pruner = kc.RigLPruner(SCHEDULE)
    shares = [float(pruner.fraction(tf.constant(step, tf.int64))) for step in (0, 2, 4, 6, 8)]
    np.testing.assert_allclose(shares, [0.3, 0.256066, 0.15, 0.043934, 0.0], atol=1e-6)


def test_rigl_drops_the_smallest_and_grows_the_largest_gradient_from_zero() -> None:
    """Of four weights, floor(0.9 / 2 (1 + cos(pi / 4)) * 4) = 3 are exchanged at step 2."""
    pruner = kc.RigLPruner(SCHEDULE, drop_fraction=0.9, first_mask="magnitude")
    wrapper = t.wrapped([[8.0, -7.0, 6.0, 5.0, 0.4, 0.3, 0.2, 0.1]], pruner)
    assert mask_of(pruner) == [1, 1, 1, 1, 0, 0, 0, 0]
    t.seen(wrapper, np.full((1, 8), 9.0))
    # Step 1: the gradient that counts. -5 is larger than 4; 6 and 5 of what is dropped come back at once.
    weight, gradient = t.seen(wrapper, [[0.0, 1.0, 6.0, 5.0, 1.0, -5.5, 4.0, 2.0]])
    assert weight.tolist() == [[8.0, -7.0, 6.0, 5.0, 0.0, 0.0, 0.0, 0.0]]
    assert gradient.tolist() == [[0.0, 1.0, 6.0, 5.0, 0.0, 0.0, 0.0, 0.0]]
    weight, gradient = t.seen(wrapper, np.ones((1, 8)))
    assert mask_of(pruner) == [1, 0, 1, 1, 0, 1, 0, 0]
    # What grew begins at zero in this very step, and learns in it; what came back at once keeps its value.
    assert weight.tolist() == [[8.0, 0.0, 6.0, 5.0, 0.0, 0.0, 0.0, 0.0]]
    assert gradient.tolist() == [[1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0]]
    latent = np.array(wrapper.latent("kernel")).ravel()
    np.testing.assert_allclose(latent, [8.0, -7.0, 6.0, 5.0, 0.4, 0.0, 0.2, 0.1])


def test_rigl_needs_a_gradient_that_is_finite() -> None:
    pruner = kc.RigLPruner(SCHEDULE, drop_fraction=0.9, first_mask="magnitude")
    wrapper = t.wrapped([[4.0, 3.0, 2.0, 1.0]], pruner)
    t.train(wrapper, 3)
    assert mask_of(pruner) == [1, 1, 0, 0]
    t.seen(wrapper, [[0.0, 0.0, np.nan, 1.0]])
    t.seen(wrapper, [[0.0, 0.0, 1.0, 2.0]])
    assert mask_of(pruner) == [1, 1, 0, 0]


def test_the_record_of_a_layer_in_two_places_is_the_sum() -> None:
    pruner = kc.RigLPruner(SCHEDULE, first_mask="magnitude")
    inner = t.wrapped([[1.0, 0.1], [0.2, 2.0]], pruner)
    inputs = keras.Input((2,))
    model = keras.Model(inputs, [inner(inputs), inner(2.0 * inputs)])
    with tf.GradientTape() as tape:
        first, second = model(np.array([[1.0, 10.0]], np.float32), training=True)
        loss = tf.reduce_sum(first) + tf.reduce_sum(second)
    gradient = tape.gradient(loss, inner.latent("kernel").value)
    assert np.array(gradient).tolist() == [[3.0, 0.0], [0.0, 30.0]]
    assert np.array(pruner.gradient).tolist() == [[3.0, 3.0], [30.0, 30.0]]
    # A batch later it is that of this batch alone; inference writes nothing down.
    model(np.ones((1, 2), np.float32), training=True)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(np.ones((1, 2), np.float32))[0])
    tape.gradient(loss, inner.latent("kernel").value)
    assert not np.array(pruner.gradient).any()


def test_set_keeps_the_number_and_grows_elsewhere() -> None:
    kernel = np.random.default_rng(0).normal(size=(20, 30))
    pruner = kc.SetPruner(SCHEDULE, seed=1)
    wrapper = t.wrapped(kernel, pruner)
    before = np.array(pruner.mask)
    assert before.sum() == 300
    t.train(wrapper, 3)
    after = np.array(pruner.mask)
    assert after.sum() == 300
    dropped, grown = before & ~after, after & ~before
    # floor(0.256066 * 300) are dropped; a few of them are drawn again at once.
    assert 50 <= dropped.sum() == grown.sum() <= 76
    assert np.abs(kernel[dropped]).max() < np.sort(np.abs(kernel[before]))[76]
    assert not np.array(wrapper.latent("kernel"))[grown].any()


def test_a_whole_training_keeps_the_number_and_moves_the_masks() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(20, "relu"), keras.layers.Dense(3)])
    before = [np.array(v) for v in model.variables]
    sparse = kc.train_sparse(model, kc.ConstantSparsity(0.75, 0, 8, 2), drop_fraction=0.5)
    first = [np.array(w.transform_list[0].mask) for w in sparse.layers]
    x = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    sparse.compile("adam", "mse", jit_compile=False)
    sparse.fit(x, x[:, :3], batch_size=4, epochs=5, verbose=0)
    last = [np.array(w.transform_list[0].mask) for w in sparse.layers]
    assert [m.sum() for m in first] == [m.sum() for m in last]
    assert any((a != b).any() for a, b in zip(first, last, strict=True))
    kernels = [np.array(layer.kernel) for layer in kc.strip(sparse).layers]
    assert [(k != 0).sum() for k in kernels] == [m.sum() for m in last]
    shares = layer_sparsities([(6, 20), (20, 3)], 0.75, "erk")
    assert [1 - m.mean() for m in last] == pytest.approx(shares)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, np.array(variable))


def test_what_is_sparse_already_begins_with_its_zeros() -> None:
    kernel = np.random.default_rng(0).normal(size=(8, 8))
    kernel[:, :2] = 0
    pruner = kc.RigLPruner(SCHEDULE)
    t.wrapped(kernel, pruner)
    np.testing.assert_array_equal(np.array(pruner.mask), kernel != 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": kc.ConstantSparsity(0.5)}, "a constant sparsity with an end"),
        ({"schedule": kc.PolynomialDecay(0.0, 0.5, 0, 9)}, "a constant sparsity with an end"),
        # Equal where they begin and end.
        ({"schedule": kc.AlternatingSparsity(0.9, 0, 100, 10)}, "a constant sparsity with an end"),
        ({"schedule": kc.PolynomialDecay(0.9, 0.5, 0, 1, frequency=7)}, "a constant sparsity with an end"),
        ({"schedule": SCHEDULE, "drop_fraction": 1.5}, "drop_fraction=1.5"),
        ({"schedule": SCHEDULE, "first_mask": "zeros"}, "Expected `first_mask` out of"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kc.RigLPruner(**arguments)


def test_bad_arguments_of_the_entry() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    with pytest.raises(ValueError, match=r"Expected `method` out of .*'rigl'"):
        kc.train_sparse(model, SCHEDULE, "rig")
    with pytest.raises(ValueError, match="Expected `distribution` out of"):
        kc.train_sparse(model, SCHEDULE, distribution="er")


def test_a_schedule_of_another_class_that_stays_is_taken() -> None:
    assert kc.SetPruner(kc.PolynomialDecay(0.5, 0.5, 0, 9, frequency=2)).schedule.final_value() == 0.5


def test_pending_says_that_it_is_sparse_already() -> None:
    pruner = kc.RigLPruner(kc.ConstantSparsity(0.5, 1, 3, 1))
    wrapper = t.wrapped([[1.0, 2.0, 3.0, 4.0]], pruner)
    start = "the zeros are those of the start, no weights were exchanged"
    assert pruner.pending() == f"{start}: no training step was made"
    t.train(wrapper)
    assert pruner.pending() == f"{start}: training stopped at step 1, its begin_step is 1"
    t.train(wrapper)
    assert pruner.pending() == "pruning stopped at step 2, before its end_step 3"
