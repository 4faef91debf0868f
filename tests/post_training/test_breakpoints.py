from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.post_training.breakpoints import fit_breakpoints
from keras_compress.post_training.record import record_of

DRAW = np.random.default_rng(0)


def with_kernel(kernel: np.ndarray) -> keras.Model:
    inputs = keras.Input((kernel.shape[0],))
    model = keras.Model(inputs, keras.layers.Dense(kernel.shape[1], name="dense")(inputs))
    model.get_layer("dense").kernel.assign(kernel)
    return model


def shares_and_error(model: keras.Model, kernel: np.ndarray) -> tuple[np.ndarray, float]:
    pwlq, *_ = model.get_layer("dense").transforms["kernel"]
    return np.asarray(pwlq.shares), float(np.square(np.asarray(pwlq(kernel)) - kernel).sum())


def test_the_breakpoint_stands_where_the_values_change() -> None:
    """Steps of 0.1 to 0.4, then of 2 to 6.4: with the breakpoint at 0.4 of 6.4 nothing is rounded away."""
    inner, outer = np.arange(-4, 5) * 0.1, 0.4 + np.arange(1, 4) * 2
    kernel = np.concatenate([inner, inner, inner, outer, -outer]).astype(np.float32)[:, np.newaxis]
    quantized = kc.quantize_model(with_kernel(kernel), weights=kc.PWLQ(4), activations=None, grid=None, preserve=None)
    before = shares_and_error(quantized, kernel)[1]
    shares, after = shares_and_error(fit_breakpoints(quantized), kernel)
    assert shares.item() == pytest.approx(0.4 / 6.4, abs=0.0125)
    assert after < 0.02 * before


@pytest.mark.parametrize("breakpoints", [1, 2, 3])
@pytest.mark.parametrize("overlapping", [False, True])
def test_no_weight_gets_worse(breakpoints: int, overlapping: bool) -> None:
    """The deck's table: one, two and three breakpoints. Each channel is fitted by itself."""
    kernel = np.concatenate([DRAW.laplace(size=(300, 2)), DRAW.uniform(-1, 1, (300, 2))], axis=1).astype(np.float32)
    weights = kc.PWLQ(4, breakpoints=breakpoints, overlapping=overlapping)
    quantized = kc.quantize_model(with_kernel(kernel), weights=weights, activations=None)
    first, before = shares_and_error(quantized, kernel)
    fitted = fit_breakpoints(quantized)
    shares, after = shares_and_error(fitted, kernel)
    assert after < before
    assert (np.diff(np.concatenate([np.zeros_like(shares[:1]), shares, np.ones_like(shares[:1])]), axis=0) > 0).all()
    assert shares.shape == first.shape == (breakpoints, 1, 4)
    assert [each.layer for each in record_of(fitted).effects] == ["dense"]


def test_a_dead_channel_keeps_its_breakpoints() -> None:
    kernel = np.stack([DRAW.laplace(size=100), np.zeros(100)], axis=1).astype(np.float32)
    quantized = kc.quantize_model(with_kernel(kernel), weights="pwlq4", activations=None, preserve=None)
    first, _ = shares_and_error(quantized, kernel)
    shares, _ = shares_and_error(fit_breakpoints(quantized), kernel)
    assert shares[0, 0, 1] == first[0, 0, 1]


def test_a_model_without_breakpoints_is_refused() -> None:
    with pytest.raises(ValueError, match="PWLQ"):
        fit_breakpoints(kc.quantize_model(with_kernel(np.eye(3, dtype=np.float32)), preserve=None))
