from __future__ import annotations

import math

import keras
import numpy as np
import pytest

import keras_compress as kc

KERNEL = [[-3.0], [0.6], [0.25], [0.9], [1.5], [5.0]]


def test_forward_and_gradients_literal(prepare, gradients) -> None:
    """Equations 1 to 3 and 5 with s = 0.5, Qn = 4, Qp = 3: w / s = -6, 1.2, 0.5, 1.8, 3, 10."""
    quantizer = kc.LSQ(3)
    weight = prepare(quantizer, KERNEL)
    quantizer.set_step([[0.5]])
    assert quantizer(weight).numpy().ravel().tolist() == [-2, 0.5, 0, 1, 1.5, 1.5]
    found = quantizer.integer_weight(weight)
    assert (found.integers.ravel().tolist(), found.scale.tolist(), found.bits) == ([-4, 1, 0, 2, 3, 3], [[0.5]], 3)
    of_weight, of_step = gradients(quantizer, weight, [[1], [2], [3], [4], [5], [6]])
    assert of_weight.ravel().tolist() == [0, 2, 3, 4, 0, 0]  # w / s = Qp is outside already
    summed = 1 * -4 + 2 * (1 - 1.2) + 3 * (0 - 0.5) + 4 * (2 - 1.8) + 5 * 3 + 6 * 3
    np.testing.assert_allclose(of_step, [[summed / math.sqrt(6 * 3) / 0.5]], rtol=1e-6)


def test_a_step_for_each_channel_counts_the_weights_that_share_it(prepare, gradients) -> None:
    quantizer = kc.LSQ(2, per_channel=True)
    weight = prepare(quantizer, [[4.0, 0.3], [-9.0, 0.1]])
    quantizer.set_step([[2.0, 1.0]])
    assert quantizer(weight).numpy().tolist() == [[2, 0], [-4, 0]]  # w / s = 2, -4.5 and 0.3, 0.1; Qn = 2, Qp = 1
    of_weight, of_step = gradients(quantizer, weight, [[1, 10], [100, 1000]])
    assert of_weight.tolist() == [[0, 10], [0, 1000]]
    expected = [[(1 * 1 + 100 * -2) / math.sqrt(2 * 1) / 2, (10 * -0.3 + 1000 * -0.1) / math.sqrt(2 * 1)]]
    np.testing.assert_allclose(of_step, expected, rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_first_step(bits: int, prepare) -> None:
    """Section 2.1: 2 <|v|> / sqrt(Qp). A channel of zeros takes the largest."""
    kernel = [[1.0, -8.0, 0.0], [0.5, 2.0, 0.0]]
    root = math.sqrt(2 ** (bits - 1) - 1)
    quantizer = kc.LSQ(bits)
    prepare(quantizer, kernel)
    np.testing.assert_allclose(quantizer.step, [[2 * (11.5 / 6) / root]], rtol=1e-6)
    quantizer = kc.LSQ(bits, per_channel=True)
    prepare(quantizer, kernel)
    np.testing.assert_allclose(quantizer.step, [[2 * 0.75 / root, 2 * 5 / root, 2 * 5 / root]], rtol=1e-6)


def test_eight_bits_are_narrow(prepare) -> None:
    for bits, lowest in ((7, -64), (8, -127)):
        quantizer = kc.LSQ(bits)
        weight = prepare(quantizer, [[-1.0], [1.0]])
        quantizer.set_step([[0.001]])
        assert quantizer.integer_weight(weight).integers.ravel().tolist() == [lowest, 2 ** (bits - 1) - 1]


def test_a_step_below_zero_still_computes_and_comes_back(prepare, gradients) -> None:
    quantizer = kc.LSQ(4)
    weight = prepare(quantizer, [[1.0], [-1.0], [0.0]])
    quantizer.set_step([[1.0]])
    quantizer.learned.assign([[-1.0]])
    np.testing.assert_allclose(quantizer(weight), [[7e-8], [-8e-8], [0]], rtol=1e-6)
    assert (quantizer.integer_weight(weight).scale > 0).all()
    # The weights are larger than what comes out: a loss pulls the outputs outwards, and that raises the step.
    _, of_step = gradients(quantizer, weight, [[-1], [1], [0]])
    np.testing.assert_allclose(of_step, [[-(7 + 8) / math.sqrt(3 * 7)]], rtol=1e-6)


@pytest.mark.parametrize("asked", [False, True])
def test_steps_follow_the_codebooks(asked: bool, prepare) -> None:
    for made, shape in ((["codebook"], (1, 1)), (["channel_codebook"], (1, 2))):
        quantizer = kc.LSQ(4, per_channel=asked)
        prepare(quantizer, [[1.0, -8.0], [0.5, 2.0]], made=made)
        assert tuple(quantizer.learned.shape) == shape
        assert quantizer.learned.trainable


@pytest.mark.parametrize("bits", [1, 9])
def test_bad_bits(bits: int) -> None:
    with pytest.raises(ValueError, match=f"Expected `bits` to be an integer from 2 to 8. Received: bits={bits}"):
        kc.LSQ(bits)


def test_sgd_moves_the_step_as_in_the_paper_and_adam_by_a_share_of_itself(prepare, gradients) -> None:
    """`s -= rate * g * dL/ds`, whatever the first step; Adam's first step is `rate` of the first value."""
    for optimizer, moved in ((keras.optimizers.SGD(0.1), None), (keras.optimizers.Adam(0.1), 0.9 * 0.01)):
        quantizer = kc.LSQ(3)
        weight = prepare(quantizer, [[0.011], [0.026], [-0.014]])
        quantizer.set_step([[0.01]])
        upstream = [[0.01], [0.02], [0.03]]
        _, gradient = gradients(quantizer, weight, upstream)
        optimizer.apply([gradient], [quantizer.learned])
        of_step = (0.01 * (1 - 1.1) + 0.02 * (3 - 2.6) + 0.03 * (-1 + 1.4)) / math.sqrt(3 * 3)
        expected = 0.01 - 0.1 * of_step if moved is None else moved
        np.testing.assert_allclose(quantizer.step, [[expected]], rtol=1e-4)
