"""What every weight transform must do. A new one is covered by being registered."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.core.transform import check_order
from keras_compress.testing.sample import samples_of
from keras_compress.testing.weight_transforms import CHECKS, a_step_moves_what_it_should, integers_are_the_weight


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_transform(transform, check) -> None:
    check(transform)


@pytest.mark.xla
@pytest.mark.parametrize("check", [a_step_moves_what_it_should, integers_are_the_weight], ids=lambda c: c.__name__)
def test_its_compiled_programs(first_transform, check) -> None:
    check(first_transform)


@pytest.fixture
def uncompiled():
    """Operation by operation: to compile a program for each pair would take a minute."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def test_each_pair_keeps_its_promises_or_is_refused(transform, bench, all_transforms, uncompiled) -> None:
    """`transform` first, then every other: what the first promised holds behind the second.

    Of each class, its first sample is trained with the first of each other; the order is checked for all pairs.
    """
    refused = composed = 0
    trains = transform.arguments == samples_of(transform.cls)[0].arguments
    first_only = bench.with_transforms(transform)
    first_only(bench.x, training=True)
    for name, second in all_transforms.items():
        promises = transform.make().promises
        if not promises <= second.make().preserves:
            refused += 1
            with pytest.raises(ValueError, match="keep each other's promises") as caught:
                check_order([transform.make(), second.make()])
            assert f"{second.cls.__name__} after {transform.cls.__name__}" in str(caught.value)
            continue
        check_order([transform.make(), second.make()])
        composed += 1
        if not (trains and second.cls.trains and name.endswith("-0")):
            continue
        model = kc.graph.model.add_transforms(first_only, lambda *_, s=second: [s.make()], {}, filters="d")
        wrapper = bench.wrapper(model)
        before = np.array(wrapper.weight("kernel", stop_before=wrapper.transform_list[1]))
        after = np.array(wrapper.weight("kernel"))
        if "zeros" in promises:
            assert (after[before == 0] == 0).all()
        if "codebook" in promises:
            assert len(np.unique(after)) <= len(np.unique(before)) + ("zeros" in second.make().promises)
        if "channel_codebook" in promises:
            for old, new in zip(before.T, after.T):
                assert len(np.unique(new)) <= len(np.unique(old))
    assert refused + composed == len(all_transforms)


def trained(wrapper: kc.Compressed) -> keras.Variable:
    """What training moves: the latent weight, or what codes that stay look up."""
    transform = wrapper.transform_list[0]
    codes = [v for v in transform.non_trainable_variables if v.name in ("codes", "assignments")]
    return transform.trainable_variables[0] if codes else wrapper.latent("kernel")


def assert_trained(wrapper: kc.Compressed, start: np.ndarray) -> None:
    assert {v.dtype for v in wrapper.variables} <= {"float32", "bool", "int32", "int64"}, wrapper.name
    weight = wrapper.weight("kernel")
    assert weight.dtype == tf.float32
    assert np.isfinite(np.array(weight)).all(), wrapper.name
    assert np.abs(np.array(trained(wrapper)) - start).max() > 0, wrapper.name


def test_trains_in_float16(first_transform, bench) -> None:
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = bench.with_transforms(first_transform)
        start = np.array(trained(bench.wrapper(model)))
        # The scale that Keras begins with overflows in the few steps of a test.
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=16.0)
        model.compile(optimizer, "mse")
        bench.fit(model, run_eagerly=True)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert_trained(bench.wrapper(model), start)


def test_all_train_in_one_compiled_step(all_transforms, bench) -> None:
    """A model with a branch for each class: XLA takes as long for it as for a few of them alone."""
    x, branches = keras.Input((6,)), []
    for name, sample in all_transforms.items():
        if sample.cls.trains and name.endswith("-0"):
            model = bench.with_transforms(sample)
            wrapper = bench.wrapper(model)
            wrapper.name = sample.cls.__name__
            branches.append(wrapper)
    model = keras.Model(x, keras.layers.Dense(3)(keras.layers.Concatenate()([branch(x) for branch in branches])))
    starts = [np.array(trained(branch)) for branch in branches]
    bench.fit(model, run_eagerly=False, jit_compile=True)
    for branch, start in zip(branches, starts, strict=True):
        assert_trained(branch, start)


def test_an_exact_kernel_gives_the_same_bits_compiled(transform, bench) -> None:
    """So that it does not matter which of its programs training and freezing run."""
    wrapper = bench.wrapper(bench.with_transforms(transform))
    made = wrapper.transform_list[0]
    bound = made.kernel() if type(made).call is kc.WeightTransform.call else None
    if bound is None or not bound[0].exact:
        pytest.skip("compiled always")
    kernel, state = bound
    state = kernel.prepare(*state) if kernel.prepare else state
    for scale in (0.01, 1.0, 30.0):
        shape = wrapper.latent("kernel").shape
        weight = tf.constant(scale * np.random.default_rng(0).normal(size=shape).astype(np.float32))
        plain = kernel.forward(weight, *state)
        compiled = tf.function(kernel.forward, jit_compile=True)(weight, *state)
        np.testing.assert_array_equal(np.array(plain), np.array(compiled))
        if kernel.any_shape:
            signature = [tf.TensorSpec([None] * len(each.shape), each.dtype) for each in (weight, *state)]
            unknown = tf.function(kernel.forward, input_signature=signature)(weight, *state)
            np.testing.assert_array_equal(np.array(plain), np.array(unknown))
