from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import norm

import keras_compress as kc
from keras_compress.quantizers.pwlq import breakpoints_of, expected_error, gaussian_breakpoint, share_of_steps


def built(kernel: np.ndarray, *arguments: object, **more: object) -> tuple[kc.WeightTransform, tf.Tensor]:
    quantizer = kc.PWLQ(*arguments, **more)
    weight = tf.constant(kernel, tf.float32)
    quantizer.prepare(weight.shape, (1,))
    quantizer.initialize(weight)
    return quantizer, weight


def normal(seed: int, shape: tuple = (20_000, 1)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def error_of(quantizer: kc.WeightTransform, kernel: np.ndarray) -> float:
    weight = tf.constant(kernel)
    quantizer.prepare(weight.shape, (1,))
    quantizer.initialize(weight)
    return float(np.square(quantizer(weight) - kernel).mean())


def test_forward_literal() -> None:
    """4 bits: 4 steps of 0.5 to the breakpoint 2, 3 steps of 2 from there to 8."""
    kernel = [8.0, 0.26, -0.24, 1.9, 2.0, -2.9, 3.1, -6.9, 7.1, 0.0]
    quantizer, weight = built(np.float32(kernel).reshape(-1, 1))
    quantizer.shares.assign([[[0.25]]])
    assert quantizer(weight).numpy().ravel().tolist() == [8, 0.5, -0.0, 2, 2, -2, 4, -6, 8, 0]


def test_forward_overlapping_literal() -> None:
    """6 bits, 16 steps of 0.125 to 2; 15 steps of 1 to 15, from 0."""
    kernel = [15.0, 0.07, -0.05, 1.9, 2.2, -2.4, 2.6, -6.9]
    quantizer, weight = built(np.float32(kernel).reshape(-1, 1), 6, overlapping=True)
    quantizer.shares.assign([[[2 / 15]]])
    np.testing.assert_allclose(np.ravel(quantizer(weight)), [15, 0.125, 0, 1.875, 2, -2, 3, -7], rtol=1e-6, atol=1e-7)


def test_steps_are_shared() -> None:
    assert share_of_steps(4, 2) == (4, 3)
    assert share_of_steps(6, 2) == (16, 15)
    assert share_of_steps(4, 4) == (2, 2, 2, 1)
    assert share_of_steps(8, 4) == (32, 32, 32, 31)
    for bits in range(3, 9):
        for regions in (2, 3, 4):
            assert 2 * sum(share_of_steps(bits, regions)) + 1 == 2**bits - 1


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("breakpoints", [1, 2, 3])
@pytest.mark.parametrize("bits", [4, 6])
def test_no_more_levels_than_codes(bits: int, breakpoints: int, overlapping: bool) -> None:
    quantizer, weight = built(normal(0), bits, breakpoints=breakpoints, overlapping=overlapping)
    largest = np.abs(weight).max()
    weight = tf.constant(np.linspace(-largest, largest, 20_001, dtype=np.float32)[:, np.newaxis])
    y = np.ravel(quantizer(weight))
    assert 2 ** (bits - 2) < len(np.unique(y)) <= 2**bits - 1
    assert 0.0 in y
    assert np.abs(y).max() == pytest.approx(float(largest), rel=1e-6)
    if not overlapping:
        assert len(np.unique(y)) == 2**bits - 1
        np.testing.assert_allclose(quantizer(quantizer(weight)), quantizer(weight), rtol=1e-5, atol=1e-6)


def test_the_breakpoint_of_the_paper_literal() -> None:
    """p = ln(0.8614 m + 0.6079), in standard deviations."""
    for largest, expected in [(1.0, 0.384786), (3.0, 1.160679), (4.0, 1.399581), (10.0, 2.221581)]:
        assert float(gaussian_breakpoint(np.array(largest))) == pytest.approx(expected, abs=1e-5)


def test_the_breakpoint_of_the_paper_is_near_the_best_one() -> None:
    """Two regions of as many steps: (m - p)^2 + m (2p - m)(2F(p) - 1), as the paper writes its error."""
    for largest in (3.0, 4.0, 5.0):
        grid = np.linspace(0.2, 0.9, 701) * largest
        form = (largest - grid) ** 2 + largest * (2 * grid - largest) * (2 * norm.cdf(grid) - 1)
        ours = [expected_error([p], largest, [4, 4], overlapping=False) * 12 * 16 for p in grid]
        np.testing.assert_allclose(ours, form - (largest - grid) ** 2 * 2 * norm.sf(largest), atol=1e-9)
        assert grid[form.argmin()] == pytest.approx(float(gaussian_breakpoint(np.array(largest))), abs=0.06)


@pytest.mark.parametrize(("count", "overlapping"), [(1, True), (2, False), (3, False), (2, True), (3, True)])
def test_breakpoints_make_the_expected_error_smallest(count: int, overlapping: bool) -> None:
    largest, steps = 4.0, share_of_steps(6, count + 1)
    found = breakpoints_of(np.array(largest), 6, count, overlapping) * largest
    assert list(found) == sorted(found)
    assert found.shape == (count,)
    assert found[0] > 0
    assert found[-1] < largest
    best = expected_error(list(found), largest, steps, overlapping)
    for index in range(count):
        for change in (-0.1, 0.1):
            moved = found + change * np.eye(count)[index]
            assert expected_error(list(moved), largest, steps, overlapping) > best


@pytest.mark.parametrize("bits", [4, 6])
@pytest.mark.parametrize("seed", [0, 1])
def test_error_is_below_that_of_the_uniform_grid(bits: int, seed: int) -> None:
    kernel = normal(seed)
    uniform = error_of(kc.UniformQuantizer(bits), kernel)
    one, two, three = (error_of(kc.PWLQ(bits, breakpoints=count), kernel) for count in (1, 2, 3))
    assert one < 0.75 * uniform
    assert two < one
    assert three < two
    overlapping = error_of(kc.PWLQ(bits, overlapping=True), kernel)
    assert 0.95 * uniform < overlapping < 1.2 * uniform


def test_measured_error_is_the_expected_one() -> None:
    kernel = normal(2, (200_000, 1))
    quantizer, weight = built(kernel, 6)
    largest = float(np.abs(kernel).max())
    expected = expected_error([float(quantizer.shares[0, 0, 0]) * largest], largest, [16, 15], overlapping=False)
    assert float(np.square(quantizer(weight) - kernel).mean()) == pytest.approx(expected, rel=0.02)


def test_breakpoints_of_channels_follow_their_weights() -> None:
    kernel = normal(0, (4000, 3)) * np.float32([1.0, 10.0, 0.0])
    quantizer, weight = built(kernel)
    shares = np.ravel(quantizer.shares)
    for channel in range(2):
        ratio = np.abs(kernel[:, channel]).max() / np.sqrt(np.square(kernel[:, channel]).mean())
        assert shares[channel] == pytest.approx(math.log(0.8614 * ratio + 0.6079) / ratio, rel=1e-4)
    y = quantizer(weight).numpy()
    assert y[:, 2].tolist() == [0.0] * 4000
    assert quantizer.shares.shape == (1, 1, 3)
    assert built(kernel, breakpoints=3, per_channel=False)[0].shares.shape == (3, 1, 1)


def test_gradient_goes_straight_through() -> None:
    quantizer, weight = built(np.float32([[1.0, -8.0], [0.4, 5.0]]))
    upstream = np.float32([[1, 2], [3, 4]])
    with tf.GradientTape() as tape:
        tape.watch(weight)
        loss = tf.reduce_sum(quantizer(weight, training=True) * upstream)
    assert tape.gradient(loss, weight).numpy().tolist() == upstream.tolist()


def test_levels_are_free() -> None:
    quantizer, weight = built(normal(0, (50, 2)))
    assert (quantizer.promises, quantizer.number_of_clusters) == ({"channel_codebook"}, 16)
    assert quantizer.integer_weight(weight) is None
    assert quantizer.idempotent
    assert not kc.PWLQ(overlapping=True).idempotent


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="Expected `bits` to be an integer from 3 to 8. Received: bits=2"):
        kc.PWLQ(2)
    for breakpoints in (0, 4, True):
        with pytest.raises(ValueError, match=f"to be 1, 2 or 3. Received: breakpoints={breakpoints}"):
            kc.PWLQ(breakpoints=breakpoints)
    with pytest.raises(ValueError, match="4 or more for 3 breakpoints. Received: bits=3, breakpoints=3"):
        kc.PWLQ(3, breakpoints=3)
    assert kc.PWLQ(3, breakpoints=2).breakpoints == 2
