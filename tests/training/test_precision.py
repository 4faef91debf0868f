"""Half-precision policies: the layers compute in 16 bits, masks, centroids, ranges and latent weights stay in 32."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from tests_training import (
    array,
    assert_moved,
    assert_pruned,
    data,
    fit,
    momentum,
    ours,
    pcqat,
    pruners,
    steps,
    variables,
)

import keras_compress as kc


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def policy(request):
    keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    keras.mixed_precision.set_global_policy("float32")


def mse(model: keras.Model) -> float:
    x, y = data(model)
    return float(np.mean((np.asarray(model.predict(x, verbose=0), np.float32) - y) ** 2))


def full_precision() -> keras.Model:
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("float32")
    try:
        return fit(pcqat("conv_bn_relu"))
    finally:
        keras.mixed_precision.set_global_policy(before)


def test_a_policy_trains_as_float32_does_but_for_16_bits(policy: str) -> None:
    model, start = pcqat("conv_bn_relu"), pcqat("conv_bn_relu")
    fit(model)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (policy == "mixed_float16")
    assert {layer.compute_dtype for layer in model.layers} >= {"float32", policy.removeprefix("mixed_")}
    assert steps(model) == ({8}, {8})
    assert {v.dtype for v in model.variables} == {"float32", "bool", "int64"}
    assert_moved(model, start)
    assert_pruned(model)
    expected = full_precision()
    assert mse(model) == pytest.approx(mse(expected), rel=0.03)
    for kind in ("centroids", "minimum", "maximum"):
        for variable, other in zip(ours(model)[kind], ours(expected)[kind], strict=True):
            np.testing.assert_allclose(array(variable), array(other), atol=0.05, err_msg=variable.path)


@pytest.mark.parametrize("settings", [{"run_eagerly": True}, {"jit_compile": True}], ids=["eager", "jit"])
def test_a_policy_with_other_ways_to_run(policy: str, settings: dict) -> None:
    model = fit(pcqat(), **settings)
    assert steps(model) == ({8}, {8})
    assert_pruned(model)


def test_a_step_that_the_loss_scale_skips_is_a_batch_all_the_same() -> None:
    """Gradients overflow at first: the optimizer leaves the weights, the schedule goes on."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = pcqat()
        start = array(model.trainable_variables[0])
        optimizer = keras.optimizers.LossScaleOptimizer(momentum(), initial_scale=2.0**60)
        fit(model, optimizer, epochs=1)
        np.testing.assert_array_equal(array(model.trainable_variables[0]), start)
        assert steps(model) == ({4}, {4})
        assert all(np.isfinite(array(v)).all() for v in variables(model))
        # Steps 0 and 2 have pruned.
        assert [p.sparsity() for p in pruners(model)] == pytest.approx([0.4815] * 2, abs=0.01)
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_a_pruned_float16_model_computes_in_float16(policy: str) -> None:
    model = fit(kc.prune_low_magnitude(pcqat_base(), kc.ConstantSparsity(0.5, 0)), epochs=1)
    outputs = model(np.ones((1, 24), np.float32))
    assert outputs.dtype == tf.as_dtype(policy.removeprefix("mixed_"))


def pcqat_base() -> keras.Model:
    return keras.Sequential([keras.Input((24,)), keras.layers.Dense(6, activation="relu"), keras.layers.Dense(2)])
