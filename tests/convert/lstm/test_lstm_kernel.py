"""What the runtimes compute for one operator, and what is computed for it here: equal integers."""

from __future__ import annotations

import numpy as np
import pytest
from tests_lstm_file import file_of

from keras_compress.convert.lstm.kernel import LstmKernel
from keras_compress.runtime.litert import LiteRT
from keras_compress.runtime.tflm import TFLM
from keras_compress.tflite.lstm.integers import LstmIntegers, cell_exponent, lstm_integers, overflows
from keras_compress.tflite.lstm.tables import sigmoid_table, tanh_table

TARGETS = {"builtin": LiteRT("builtin"), "reference": LiteRT("reference"), "tflm": TFLM()}
RUNTIMES = {"builtin": "litert", "reference": "litert", "tflm": "tflm"}


def random_lstm(seed: int) -> tuple[LstmIntegers, int]:
    """Any size, grids with zero points of both signs, from tiny weights to gates that are always full."""
    rng = np.random.default_rng(seed)
    units, inputs, steps = (int(rng.integers(low, high)) for low, high in ((3, 65), (1, 40), (1, 50)))
    kernel = rng.normal(size=(inputs, 4 * units)) * 10.0 ** rng.uniform(-2, 1)
    recurrent = rng.normal(size=(units, 4 * units)) * 10.0 ** rng.uniform(-1.5, 0.7)
    bias = rng.normal(size=4 * units) * 10.0 ** rng.uniform(-2, 1) if seed % 5 else None
    source = float(np.float32(10.0 ** rng.uniform(-3, -0.5))), int(rng.integers(-128, 128))
    target = float(np.float32(10.0 ** rng.uniform(-3, -2))), int(rng.integers(-128, 128))
    return lstm_integers(kernel, recurrent, bias, source, target, 10.0 ** rng.uniform(-1, 2)), steps


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(8))
def test_the_runtime_computes_the_same_integers(target: str, seed: int) -> None:
    lstm, steps = random_lstm(seed)
    sequences = np.random.default_rng(seed).integers(-128, 128, (3, steps, len(lstm.kernel)), dtype=np.int8)
    (found,) = TARGETS[target].run(file_of(lstm, steps), [sequences])
    expected = LstmKernel(lstm, RUNTIMES[target])(sequences.astype(np.int64)).numpy()
    assert found.std() > 1
    np.testing.assert_array_equal(found, expected)


def test_a_planted_error_of_one_step_is_seen() -> None:
    lstm, steps = random_lstm(1)
    sequences = np.random.default_rng(1).integers(-128, 128, (3, steps, len(lstm.kernel)), dtype=np.int8)
    content = file_of(lstm, steps)
    lstm.kernel[0, 0] += 1
    (found,) = TARGETS["tflm"].run(content, [sequences])
    assert (found != LstmKernel(lstm, "tflm")(sequences.astype(np.int64)).numpy()).any()


def test_each_sample_starts_from_states_of_zero() -> None:
    lstm, steps = random_lstm(2)
    sequence = np.random.default_rng(2).integers(-128, 128, (1, steps, len(lstm.kernel)), dtype=np.int8)
    for target in TARGETS.values():
        (found,) = target.run(file_of(lstm, steps), [np.repeat(sequence, 3, axis=0)])
        np.testing.assert_array_equal(found[1:], found[:1].repeat(2, axis=0))


@pytest.mark.parametrize(("runtime", "steps"), [("litert", 12.1), ("tflm", 3.2)])
def test_tables_are_near_the_functions(runtime: str, steps: float) -> None:
    inputs = np.arange(-32768, 32768)
    assert np.abs(sigmoid_table(runtime) - 32768 / (1 + np.exp(-inputs / 4096))).max() < steps
    for bits in range(7):
        assert np.abs(tanh_table(runtime, bits) - 32768 * np.tanh(inputs * 2.0 ** (bits - 15))).max() < steps


def test_tables_by_hand() -> None:
    # Of TFLite-Micro's 256 samples the second is 33451, and 1.0 lies on the 25th, 47911: (47911 + 1) // 2.
    assert sigmoid_table("tflm")[[32768, 32768 + 4096]].tolist() == [16384, 23956]
    assert tanh_table("tflm", 3)[32768 + 2048] == 47911 - 32768
    # e^-8 is 11 of 32768 in gemmlowp's 16 bits.
    assert sigmoid_table("litert")[0] == 11


def test_the_cell_takes_the_power_of_two_above_its_range() -> None:
    assert [cell_exponent(x) for x in (0.0, 1.0, 1.01, 2.0, 33.0, 64.0, 65.0)] == [-15, -15, -14, -14, -9, -9, -9]


def test_weights_by_hand() -> None:
    kernel = np.array([[1.0, 0.0, 0.5, 2.0], [-0.5, 0.0, 0.25, -1.0]])
    bias = np.array([0.1, 0.2, 0.0, -1.0])
    lstm = lstm_integers(kernel, np.ones((1, 4)), bias, (0.5, 3), (1 / 128, 0), 3.0)
    assert lstm.kernel.tolist() == [[127, 0, 127, 127], [-64, 0, 64, -64]]
    np.testing.assert_allclose(lstm.kernel_scale[[0, 2, 3]] * 127, [1.0, 0.5, 2.0], rtol=1e-6)
    # 0.1 / (0.5 / 127) and -1 / (0.5 * 2 / 127); the gate of zeros has a scale that leaves its bias 28 bits.
    assert lstm.bias[[0, 2, 3]].tolist() == [25, 0, -127]
    assert abs(int(lstm.bias[1]) - 2**28) < 32
    assert lstm.cell_exponent == -13


def test_bytes_hold_all_of_it() -> None:
    lstm, _ = random_lstm(3)
    again = LstmIntegers.unpacked(lstm.packed())
    assert again.packed() == lstm.packed()
    assert (again.input_grid, again.output_grid, again.cell_exponent) == (
        lstm.input_grid,
        lstm.output_grid,
        lstm.cell_exponent,
    )
    np.testing.assert_array_equal(again.recurrent_kernel, lstm.recurrent_kernel)


def test_sums_beyond_32_bits_are_told() -> None:
    # Steps of 1.0 are 2^12 of those of a gate's sums, 13 bits to the left: 255 * 127 * 9 fit, times 2^13 they do not.
    kernel = np.full((9, 4), 127.0)
    assert overflows(lstm_integers(kernel, np.ones((1, 4)), None, (1.0, 0), (1 / 128, 0), 1.0))
    assert not overflows(lstm_integers(kernel / 4096, np.ones((1, 4)), None, (1.0, 0), (1 / 128, 0), 1.0))
    assert not any(overflows(random_lstm(seed)[0]) for seed in range(8))
