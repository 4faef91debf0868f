"""What every weight transform must do. A new one is covered by being registered."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.core.transform import check_order
from keras_compress.graph.model import compressed_layers


def values(model: keras.Model) -> list[np.ndarray]:
    return [np.array(v) for v in model.variables]


def test_config_keys_are_the_constructors_arguments(transform, bench, arguments_of) -> None:
    made = transform.make()
    config = made.get_config()
    assert set(config) == arguments_of(transform.cls)
    assert type(made).from_config(config).get_config() == config
    # Built as well, and through Keras's serialisation.
    made = bench.wrapper(bench.with_transforms(transform)).transform_list[0]
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    assert type(again) is transform.cls
    assert again.get_config() == made.get_config()
    assert [(v.name, tuple(v.shape), v.dtype) for v in again.variables] == [
        (v.name, tuple(v.shape), v.dtype) for v in made.variables
    ]


def test_training_goes_on_bit_equal_after_saving_and_loading(trained_transform, bench, tmp_path) -> None:
    model = bench.fit(bench.with_transforms(trained_transform))
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    for old, new in zip(values(model), values(again), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(np.array(model(bench.x)), np.array(again(bench.x)))
    for old, new in zip(values(bench.fit(model)), values(bench.fit(again)), strict=True):
        np.testing.assert_array_equal(old, new)


def test_idempotent_where_declared(transform, bench) -> None:
    model = bench.with_transforms(transform)
    model(bench.x, training=True)
    made = bench.wrapper(model).transform_list[0]
    once = made(bench.wrapper(model).latent("kernel").value)
    if made.idempotent:
        np.testing.assert_allclose(np.array(made(once)), np.array(once), rtol=1e-6, atol=1e-7)
    assert once.shape == (6, 8)
    assert once.dtype == tf.float32


def test_integers_are_the_weight_and_no_more_than_the_bits_allow(transform, bench) -> None:
    model = bench.with_transforms(transform)
    model(bench.x, training=True)
    wrapper = bench.wrapper(model)
    found = wrapper.transform_list[0].integer_weight(wrapper.latent("kernel").value)
    if found is None:
        assert "grid" not in wrapper.transform_list[0].promises
        return
    np.testing.assert_array_equal(found.floats(), np.array(wrapper.weight("kernel")))
    assert found.integers.dtype == (np.int8 if found.bits <= 8 else np.int32)
    groups = found.integers.T if found.scale.size > 1 else [found.integers]
    assert max(len(np.unique(group)) for group in groups) <= 2**found.bits
    assert -(2 ** (found.bits - 1)) <= found.integers.min()
    assert found.integers.max() < 2 ** (found.bits - 1)
    assert np.abs(found.integers.astype(int)).max() <= 127 or found.bits > 8


def test_one_step_moves_what_it_should(transform, bench) -> None:
    model = bench.with_transforms(transform)
    wrapper = bench.wrapper(model)
    made = wrapper.transform_list[0]
    moved_by_update = {id(v) for v, _ in made.update(wrapper.latent("kernel").value)}
    before = {id(v): np.array(v) for v in wrapper.variables}
    if transform.is_constant:
        model(bench.x, training=True)
    else:
        bench.fit(model)
    moved = {id(v) for v in wrapper.variables if np.abs(np.array(v) * 1.0 - before[id(v)]).max() > 0}
    expected = {id(v) for v in made.trainable_variables}
    assert expected <= moved
    assert moved - {id(v) for v in wrapper.layer.variables} <= expected | moved_by_update
    if transform.is_constant:
        assert not moved
        assert not made.trainable_variables
    else:
        assert moved


def test_state_that_updates_is_not_averaged_over_replicas(transform, bench) -> None:
    made = bench.wrapper(bench.with_transforms(transform)).transform_list[0]
    for variable in made.non_trainable_variables:
        if variable.dtype != "float32":
            assert variable.aggregation in ("only_first_replica", "none")


def test_strip_leaves_the_outputs(transform, bench, recwarn) -> None:
    model = bench.with_transforms(transform)
    model(bench.x, training=True)
    plain = kc.strip(model)
    recwarn.clear()  # that a schedule has not ended
    np.testing.assert_array_equal(np.array(model(bench.x)), np.array(plain(bench.x)))
    assert not list(compressed_layers(plain))
    assert len(np.unique(np.array(plain(bench.x)))) > 1 or transform.is_constant


def test_promises_hold_for_its_output(transform, bench) -> None:
    model = bench.with_transforms(transform)
    model(bench.x, training=True)
    model(bench.x, training=True)
    made = bench.wrapper(model).transform_list[0]
    weight = np.array(bench.wrapper(model).weight("kernel"))
    if "zeros" in made.promises:
        model(bench.x, training=True)
        assert (weight == 0).any()
        assert (np.array(bench.wrapper(model).weight("kernel"))[weight == 0] == 0).all() or made.get_config()["regrow"]
    if "codebook" in made.promises:
        assert len(np.unique(weight)) <= made.number_of_clusters
    if "channel_codebook" in made.promises:
        assert max(len(np.unique(column)) for column in weight.T) <= made.number_of_clusters
    assert made.promises | made.preserves <= {"zeros", "channels", "codebook", "channel_codebook", "grid"}


@pytest.fixture
def uncompiled():
    """Operation by operation: to compile a program for each pair would take a minute."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def test_each_pair_keeps_its_promises_or_is_refused(transform, bench, all_transforms, uncompiled) -> None:
    """`transform` first, then every other: what the first promised holds behind the second."""
    refused = composed = 0
    first_only = bench.with_transforms(transform)
    first_only(bench.x, training=True)
    for second in all_transforms.values():
        promises = transform.make().promises
        if not promises <= second.make().preserves:
            refused += 1
            with pytest.raises(ValueError, match="keep each other's promises") as caught:
                check_order([transform.make(), second.make()])
            assert f"{second.cls.__name__} after {transform.cls.__name__}" in str(caught.value)
            continue
        check_order([transform.make(), second.make()])
        composed += 1
        if second.is_constant:
            continue
        model = kc.core.model.add_transforms(first_only, lambda *_, s=second: [s.make()], {}, filters="d")
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


@pytest.mark.parametrize("how", ["jit", "mixed_float16"])
def test_trains_compiled_and_in_float16(first_transform, bench, how: str) -> None:
    """Eager training is what the other tests do."""
    keras.mixed_precision.set_global_policy("mixed_float16" if how == "mixed_float16" else "float32")
    try:
        model = bench.with_transforms(first_transform)
        start = np.array(bench.wrapper(model).latent("kernel"))
        if how == "mixed_float16":
            # The scale that Keras begins with overflows in the few steps of a test.
            optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=16.0)
            model.compile(optimizer, "mse")
        bench.fit(model, jit_compile=how == "jit", run_eagerly=how == "mixed_float16")
    finally:
        keras.mixed_precision.set_global_policy("float32")
    wrapper = bench.wrapper(model)
    assert {v.dtype for v in wrapper.variables} <= {"float32", "bool", "int32", "int64"}
    weight = wrapper.weight("kernel")
    assert weight.dtype == tf.float32
    assert np.isfinite(np.array(weight)).all()
    assert np.abs(np.array(wrapper.latent("kernel")) - start).max() > 0


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
