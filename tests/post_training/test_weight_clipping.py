from __future__ import annotations

import keras
import numpy as np
import pytest
from scipy.stats import laplace, norm

import keras_compress as kc
from keras_compress.post_training.record import record_of
from keras_compress.post_training.steps import stepped_weights
from keras_compress.post_training.weight_clipping import aciq_factor, by_distribution, by_square_error, clip_weights


@pytest.mark.parametrize(("distribution", "factors"), [("laplace", (2.83, 3.89, 5.03)), ("gauss", (1.71, 2.15, 2.55))])
def test_the_papers_factors(distribution: str, factors: tuple) -> None:
    """Banner et al. (2019), section 2.1: for 2, 3 and 4 bits."""
    assert [aciq_factor(bits, distribution) for bits in (2, 3, 4)] == pytest.approx(factors, abs=0.01)


def test_each_distribution_is_known_by_its_mean_magnitude() -> None:
    places = (np.arange(10_000) + 0.5) / 10_000
    weight = np.stack([laplace.ppf(places), norm.ppf(places)], axis=1).astype(np.float32)
    steps = by_distribution(weight, 4, 7, (0,))
    # The mean magnitude of a Laplace distribution is b = 1, sigma of the normal one 1.
    np.testing.assert_allclose(steps.ravel() * 7, [5.03, 2.55], rtol=5e-3)


def test_the_step_of_the_least_square_error() -> None:
    """Integers -2 .. 1 for 10 and five times 2: a step of 10 costs 5 * 4, one of 2 costs 64. 2 .. 10 are tried."""
    weight = np.array([[10.0], [2.0], [2.0], [2.0], [2.0], [2.0]])
    (step,) = by_square_error(weight, (-2, 1), np.array([[10.0]]), (0,))
    errors = {
        s / 10: np.square(np.clip(np.rint(weight / (s / 10)), -2, 1) * s / 10 - weight).sum() for s in range(20, 101)
    }
    assert errors[float(step[0].round(1))] == min(errors.values())


def normal_model(channels: int = 4) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((400,))
    model = keras.Model(inputs, keras.layers.Dense(channels, name="dense")(inputs))
    kernel = np.random.default_rng(0).normal(size=(400, channels)).astype(np.float32)
    kernel[:, -1] = 0.0
    model.get_layer("dense").kernel.assign(kernel)
    return model


@pytest.mark.parametrize("method", ["mse", "aciq"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_normal_weights_are_cut_and_dead_channels_keep_a_step(method: str, bits: int) -> None:
    model = normal_model()
    before = kc.quantize_model(model, weights=f"int{bits}", activations=None, preserve=None)
    after = clip_weights(before, method=method)
    effects = record_of(after).effects
    kernel = np.asarray(model.get_layer("dense").kernel)
    errors = [np.square(np.asarray(m.get_layer("dense").weight("kernel")) - kernel).sum() for m in (before, after)]
    assert errors[1] < 0.8 * errors[0]
    (weight,) = stepped_weights(after)
    assert (weight.step > 0).all()
    np.testing.assert_array_equal(weight.weight, kernel)
    assert [each.layer for each in effects] == ["dense"]


def test_one_scale_for_the_tensor_stays_one() -> None:
    model = kc.quantize_model(normal_model(), weights="int3", activations=None, per_channel=False, preserve=None)
    (weight,) = stepped_weights(clip_weights(model))
    assert weight.step.shape == (1, 1)


def test_what_cannot_be_clipped_is_refused() -> None:
    model = normal_model()
    with pytest.raises(ValueError, match="evenly spaced"):
        clip_weights(model)
    with pytest.raises(ValueError, match="method"):
        clip_weights(kc.quantize_model(model, preserve=None), method="median")
    with pytest.raises(ValueError, match="PWLQ has set its values"):
        clip_weights(kc.quantize_model(model, weights="pwlq4", preserve=None))
    with pytest.raises(ValueError, match="SteTern has levels of its own"):
        clip_weights(kc.quantize_model(model, weights="ste_tern", preserve=None))
