from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_compress.core import affine
from keras_compress.core.affine import QuantSpec

pytestmark = pytest.mark.xla

ACTIVATION_INT8 = QuantSpec(bits=8, symmetric=False, narrow_range=False)


@pytest.mark.parametrize(
    ("spec", "limits"),
    [
        (QuantSpec(bits=8), (-127, 127)),
        (QuantSpec(bits=8, symmetric=False, narrow_range=False), (-128, 127)),
        (QuantSpec(bits=4, signed=False, symmetric=False, narrow_range=False), (0, 15)),
        (QuantSpec(bits=4, signed=False, symmetric=False, narrow_range=True), (1, 15)),
        (QuantSpec(bits=2), (-1, 1)),
        (QuantSpec(bits=32), (-2147483647, 2147483647)),
    ],
)
def test_limits(spec: QuantSpec, limits: tuple[int, int]) -> None:
    assert (spec.minimum, spec.maximum) == limits


@pytest.mark.parametrize("bits", [0, 33, 8.0, True, "8"])
def test_bits_out_of_range(bits: object) -> None:
    with pytest.raises(ValueError, match=r"Expected `bits` to be an integer from 1 to 32. Received: bits="):
        QuantSpec(bits=bits)


def test_one_bit_is_zero_and_one_other_value() -> None:
    spec = QuantSpec(bits=1, symmetric=False, narrow_range=False)
    assert (spec.minimum, spec.maximum) == (-1, 0)
    with pytest.raises(ValueError, match="one bit has no sign"):
        QuantSpec(bits=1)


def test_unsigned_symmetric_is_refused() -> None:
    with pytest.raises(ValueError, match="signed=True"):
        QuantSpec(signed=False)


def test_ties_to_even_and_saturation() -> None:
    values = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 1e9, -1e9], np.float32)
    integers = affine.quantize_to_int(values, 1.0, 0.0, ACTIVATION_INT8)
    assert np.asarray(integers).tolist() == [-2, -2, 0, 0, 2, 2, 127, -128]
    assert np.asarray(affine.quantize_to_int(values, 1.0, 0.0, QuantSpec(bits=8)))[-1] == -127


def test_round_half_away_from_zero() -> None:
    values = ops.array([-2.5, -1.5, -0.5, -0.4998, 0.0, 0.4998, 0.5, 1.5, 2.49995])
    assert affine.round_half_away(values).numpy().tolist() == [-3, -2, -1, 0, 0, 0, 1, 2, 3]


def test_dequantize_is_scale_times_integer_minus_zero_point() -> None:
    real = affine.dequantize(np.array([-128.0, -3.0, 127.0], np.float32), 0.5, -3.0)
    assert real.tolist() == [-62.5, 0.0, 65.0]
    fake = affine.fake_quantize(np.array([-0.6, 0.24, 0.26, 3.0], np.float32), 0.5, 1.0, QuantSpec(bits=2))
    assert np.asarray(fake).tolist() == [-0.5, 0.0, 0.0, 0.0]  # integers -1..1, less the zero point


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero_point"),
    [
        (-1.0, 1.55, 0.01, -28),
        (0.0, 2.55, 0.01, -128),
        (1.0, 2.55, 0.01, -128),  # widened down to 0
        (-2.55, -1.0, 0.01, 127),  # widened up to 0
        (0.0, 0.0, 1.0, -128),  # a scale is never 0
    ],
)
def test_affine_parameters(low: float, high: float, scale: float, zero_point: int) -> None:
    found_scale, found_zero = affine.affine_parameters(np.float32(low), np.float32(high), ACTIVATION_INT8)
    assert float(found_scale) == pytest.approx(scale, rel=1e-6)
    assert float(found_zero) == zero_point
    zero = affine.fake_quantize(np.zeros(1, np.float32), found_scale, found_zero, ACTIVATION_INT8)
    assert np.asarray(zero).tolist() == [0.0]


def test_symmetric_parameters_take_the_larger_end() -> None:
    spec = QuantSpec(bits=16)
    scale, zero_point = affine.affine_parameters(-3.0, 6.5534, spec)
    assert float(scale) == pytest.approx(0.0002, rel=1e-6)
    assert float(zero_point) == 0.0
    scale, zero_point = affine.affine_parameters(-6.5534, 3.0, spec)
    assert float(scale) == pytest.approx(0.0002, rel=1e-6)
    assert float(zero_point) == 0.0
    scale, _ = affine.affine_parameters(0.0, 0.0, spec)
    assert float(scale) == 1.0


def test_symmetric_scale_per_tensor_and_per_channel() -> None:
    weight = np.array([[0.5, -12.7], [-1.27, 1.0]], np.float32)
    per_tensor = affine.symmetric_scale(weight, QuantSpec(bits=8))
    assert np.asarray(per_tensor) == pytest.approx(np.array([[0.1]]))
    per_channel = affine.symmetric_scale(weight, QuantSpec(bits=8, axis=(1,)))
    assert np.asarray(per_channel) == pytest.approx(np.array([[0.01, 0.1]]))
    per_row = affine.symmetric_scale(weight, QuantSpec(bits=4, axis=(0,)))
    assert np.asarray(per_row) == pytest.approx(np.array([[12.7 / 7], [1.27 / 7]]))


def test_a_channel_of_zeros_takes_the_largest_scale() -> None:
    weight = np.array([[0.0, 1.27, 2.54], [0.0, 0.0, 0.0]], np.float32)
    spec = QuantSpec(bits=8, axis=(1,))
    scale = affine.symmetric_scale(weight, spec)
    assert np.asarray(scale) == pytest.approx(np.array([[0.02, 0.01, 0.02]]))
    assert np.asarray(affine.quantize_to_int(weight, scale, 0.0, spec))[:, 0].tolist() == [0, 0]
    zeros = affine.symmetric_scale(np.zeros((2, 3), np.float32), spec)
    assert np.asarray(zeros).tolist() == [[1.0, 1.0, 1.0]]


def test_compiled_and_eager_scales_are_equal_to_the_last_bit() -> None:
    """Training is compiled, freezing is not. XLA divides by a constant with its reciprocal."""
    weight = np.random.default_rng(0).normal(size=(50, 200)).astype(np.float32)
    for bits in (4, 8):
        spec = QuantSpec(bits=bits, axis=(1,))
        program = tf.function(lambda w, spec=spec: affine.symmetric_scale(w, spec), jit_compile=True)
        np.testing.assert_array_equal(program(weight).numpy(), np.asarray(affine.symmetric_scale(weight, spec)))
    asymmetric = QuantSpec(bits=7, symmetric=False, narrow_range=False)
    program = tf.function(lambda a, b: affine.affine_parameters(a, b, asymmetric), jit_compile=True)
    for low, high in zip(weight.min(axis=0)[:20], weight.max(axis=0)[:20]):
        eager = affine.affine_parameters(low, high, asymmetric)
        assert [float(v) for v in program(low, high)] == [float(v) for v in eager]


def test_reduction_axes() -> None:
    assert affine.reduction_axes(4, (-2, -1)) == (0, 1)
    assert affine.reduction_axes(3, None) == (0, 1, 2)


def test_integers_survive_the_way_to_reals_and_back() -> None:
    integers = np.arange(-127, 128, dtype=np.float32)
    for scale in (0.1, 0.003921569, 1 / 3):
        real = affine.dequantize(integers, np.float32(scale), 0.0)
        again = affine.quantize_to_int(real, np.float32(scale), 0.0, QuantSpec(bits=8))
        assert np.asarray(again).tolist() == integers.tolist()


@pytest.mark.parametrize("spec", [ACTIVATION_INT8, QuantSpec(bits=4, symmetric=False), QuantSpec(bits=16)])
def test_numpy_finds_the_parameters_of_a_range_that_tensorflow_finds(spec) -> None:
    ends = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32) * np.float32([[1.0, 30.0]])
    for low, high in [*np.sort(ends), np.float32([0.0, 0.0])]:
        found = affine.affine_parameters(low, high, spec)
        wanted = affine.affine_parameters(ops.convert_to_tensor(low), ops.convert_to_tensor(high), spec)
        assert [n.dtype for n in found] == [np.float32] * 2
        assert [float(n) for n in found] == [float(n) for n in wanted]


def test_numpy_rounds_as_tensorflow_does() -> None:
    values = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    values[:300] = (np.arange(300) - 150 + 0.5) * np.float32(0.03)
    for spec in (QuantSpec(8), QuantSpec(4, symmetric=False, narrow_range=False)):
        found = affine.fake_quantize(values, 0.03, 3.0, spec)
        assert isinstance(found, np.ndarray)
        by_tensorflow = affine.fake_quantize(tf.constant(values), 0.03, 3.0, spec)
        np.testing.assert_array_equal(found, by_tensorflow.numpy())
