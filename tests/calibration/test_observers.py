from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.calibration import calibrate as calibrating
from keras_compress.calibration.calibrate import MeasuredRange, calibrate
from keras_compress.calibration.entropy import Entropy, divergence
from keras_compress.calibration.histogram import BINS, Histogram
from keras_compress.calibration.hodges_lehmann import HodgesLehmann, hodges_lehmann
from keras_compress.calibration.min_max import MinMax
from keras_compress.calibration.moving_average import MovingAverage
from keras_compress.calibration.mse import Mse
from keras_compress.calibration.observer import observer_of
from keras_compress.calibration.percentile import Percentile
from keras_compress.calibration.record import MOST_BATCHES, Record, together
from keras_compress.core.affine import QuantSpec
from keras_compress.core.registry import entries
from keras_compress.quantizers.activation import QuantizeActivation

INT8 = QuantSpec(bits=8, symmetric=False, narrow_range=False)
INT4 = QuantSpec(bits=4, symmetric=False, narrow_range=False)


def seen(*batches: object) -> Record:
    record = Record(counts=True)
    for batch in batches:
        values = np.asarray(batch, np.float64)
        record.add(float(values.min()), float(values.max()))
        record.histogram.add(values)
    return record


def test_the_hodges_lehmann_estimate_of_the_walsh_averages() -> None:
    """Of 1, 2, 6: averages 1, 1.5, 2, 3.5, 4, 6, with the median 2.75; the mean would be 3."""
    assert hodges_lehmann(np.array([1.0, 2.0, 6.0])) == 2.75
    assert hodges_lehmann(np.array([7.0])) == 7.0
    record = seen([-1, 1], [-2, 2], [-3, 3], [-100, 100])
    assert HodgesLehmann().range(record, INT8) == (-2.75, 2.75)


def test_one_spoilt_batch_in_five_hardly_moves_the_hodges_lehmann_estimate() -> None:
    usual = [[-1.0 - 0.01 * n, 1.0 + 0.01 * n] for n in range(8)]
    clean = HodgesLehmann().range(seen(*usual), INT8)[1]
    spoilt = HodgesLehmann().range(seen(*usual, [-1e6, 1e6], [-1e6, 1e6]), INT8)[1]
    assert clean == pytest.approx(1.035)
    assert spoilt < 1.08


def test_min_max_and_moving_average() -> None:
    """(0.9 * 0.1 * 1 + 0.1 * 2) / (1 - 0.81) = 0.29 / 0.19."""
    record = seen([-4, 1], [-8, 2])
    assert MinMax().range(record, INT8) == (-8, 2)
    low, high = MovingAverage().range(record, INT8)
    assert high == pytest.approx(0.29 / 0.19)
    assert low == pytest.approx(-(0.9 * 0.1 * 4 + 0.1 * 8) / 0.19)


def test_percentiles_are_numpys_within_a_bin() -> None:
    values = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    record = seen(values[:5_000], values[5_000:] * 1.0)
    low, high = Percentile(99.0).range(record, INT8)
    assert (low, high) == pytest.approx(tuple(np.percentile(values, [1, 99])), abs=2 * record.histogram.width)
    assert Percentile(100.0).range(record, INT8) == (values.min(), values.max())


def test_zeros_count_in_percentiles() -> None:
    """98 zeros, 1.0 and 9.0: under the 99th percentile lie 99 values."""
    low, high = Percentile(99.0).range(seen([0.0] * 98 + [1.0, 9.0]), INT8)
    assert low == 0.0
    assert 1.0 <= high < 1.1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_least_square_error_cuts_what_is_rare(scale: float) -> None:
    """4 bits over [0, 1] have steps of 1/15. Of 10,000 values one at 3 would make them three times as wide."""
    values = np.append(np.linspace(0, 1, 10_000), 3.0) * scale
    low, high = Mse().range(seen(values), INT4)
    tried = {end: _square_error(values, end * scale) for end in (1.0, 3.0)}
    assert tried[1.0] < tried[3.0]
    assert low == 0.0
    assert 0.9 * scale < high < 1.2 * scale


def _square_error(values: np.ndarray, end: float) -> float:
    step = end / 15
    return float(np.square(np.clip(np.rint(values / step), 0, 15) * step - values).sum())


def test_nothing_is_cut_of_even_values() -> None:
    values = np.linspace(-2, 2, 4_001)
    low, high = Mse().range(seen(values), INT8)
    assert (low, high) == pytest.approx((-2, 2), abs=0.05)


def test_the_divergence_of_the_tensorrt_example() -> None:
    """Eight bins on two levels: means of 1 0 2 3 are 2 2 2, those of 5 3 1 7 are 4 4 4 4."""
    counts = np.array([1.0, 0, 2, 3, 5, 3, 1, 7])
    p, q = counts / 22, np.array([2.0, 0, 2, 2, 4, 4, 4, 4]) / 22
    expected = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a)
    assert divergence(counts, 8, 2) == pytest.approx(expected)


def test_entropy_cuts_a_long_tail_and_keeps_even_values() -> None:
    draw = np.random.default_rng(0)
    tail = np.append(draw.normal(size=50_000), [60.0, -60.0])
    assert Entropy().range(seen(tail), INT8)[1] < 10
    even = draw.uniform(0, 1, 50_000)
    assert Entropy().range(seen(even), INT8)[1] > 0.9


def test_a_histogram_counts_the_same_in_whatever_order_values_come() -> None:
    values = np.random.default_rng(0).standard_cauchy(3_000).astype(np.float32)
    whole, pieces = Histogram(), Histogram()
    whole.add(values)
    for value in np.array_split(values[np.argsort(np.abs(values))], 30):
        pieces.add(value)
    assert pieces.width == whole.width
    assert pieces.counts.tolist() == whole.counts.tolist()
    assert whole.counts.sum() == 3_000
    edges = (np.arange(2 * BINS + 1) - BINS) * whole.width
    assert whole.counts.tolist() == np.histogram(values.astype(np.float64), edges)[0].tolist()


def test_of_what_is_not_finite_nothing_is_counted() -> None:
    found = Histogram()
    found.add(np.array([np.nan, np.inf, -np.inf, 0.0, 1.0]))
    assert (found.total, found.zeros) == (2, 1)


def test_points_that_share_a_range_are_put_together() -> None:
    both = together([seen([-1, 5]), seen([-7, 2])])
    assert (both.low, both.high, both.histogram.total) == (-7, 5, 4)


def test_extremes_of_many_batches_take_bounded_room() -> None:
    record = Record()
    for number in range(10 * MOST_BATCHES):
        record.add(-1.0, float(number))
    assert MOST_BATCHES // 2 <= len(record.highs) <= MOST_BATCHES
    assert record.high == 10 * MOST_BATCHES - 1
    assert np.ptp(np.diff(record.highs)) == 0


@pytest.mark.parametrize("name", sorted(entries("observer")))
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_each_observer_gives_a_range_within_the_extremes(name: str, bits: int) -> None:
    wide = bits == 16
    spec = QuantSpec(bits=bits, symmetric=wide, narrow_range=wide)
    record = seen(*np.random.default_rng(0).normal(size=(5, 200)))
    made = observer_of(name)
    low, high = made.range(record, spec)
    assert record.low <= low < -0.5
    assert 0.5 < high <= record.high
    assert type(made)(**made.get_config()).range(record, spec) == (low, high)
    if wide and made.counts:
        assert (low, high) == (record.low, record.high)
    assert made.range(seen([0.0, 0.0]), spec) == (0, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Percentile(50.0), "percentile"),
        (lambda: MovingAverage(1.0), "decay"),
        (lambda: Entropy(1), "candidates"),
        (lambda: observer_of("median"), "observer"),
        (lambda: observer_of(3), "observer"),
    ],
)
def test_what_is_no_observer_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def pointed(size: int = 4) -> keras.Model:
    """x, and x times 2 without what is negative."""
    inputs = keras.Input((size, size, 1))
    first = QuantizeActivation(MeasuredRange(8), name="first")(inputs)
    doubled = keras.layers.Dense(1, use_bias=False, kernel_initializer=keras.initializers.Constant(2.0))(first)
    last = QuantizeActivation(MeasuredRange(8), name="last")(keras.layers.ReLU()(doubled))
    return keras.Model(inputs, last)


def images(count: int) -> Iterator[np.ndarray]:
    draw = np.random.default_rng(0)
    for _ in range(count // 50):
        yield draw.normal(size=(50, 16, 16, 1)).astype(np.float32)


@pytest.mark.parametrize("observer", ["mse", "hodges_lehmann", "auto"])
def test_a_hundred_times_the_data_takes_no_more_memory(monkeypatch: pytest.MonkeyPatch, observer: str) -> None:
    """Values of 10,000 images at the points are 20 MB; what is kept of a point are 33 kB of counts.

    Both are traced, which takes memory once.
    """
    monkeypatch.setattr(calibrating, "PIECES_UNTRACED", 0)
    peaks = []
    for count in (100, 100, 10_000):
        model = pointed(16)
        tracemalloc.start()
        assert calibrate(model, images(count), observer=observer) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 2_000_000


@pytest.mark.parametrize("observer", sorted(entries("observer")))
def test_calibration_with_each_observer(observer: str) -> None:
    """The range of the second point is that of twice the values, run eagerly and traced (20 pieces)."""
    model = pointed()
    values = np.random.default_rng(0).normal(size=(20 * 64, 4, 4, 1)).astype(np.float32)
    calibrate(model, values, observer=observer)
    ranges = [model.get_layer(name).quantizer.range() for name in ("first", "last")]
    cut = np.array_split(values, 20)
    expected = observer_of(observer).range(seen(*cut), INT8)
    assert tuple(map(float, ranges[0])) == pytest.approx(expected, rel=1e-6)
    behind = observer_of(observer).range(seen(*[np.maximum(2 * each, 0) for each in cut]), INT8)
    assert tuple(map(float, ranges[1])) == pytest.approx(behind, rel=1e-6)


def test_auto_takes_for_each_point_what_its_reader_bears_best() -> None:
    """One value in 3,000 is 400 times as large: with it in the range most others would be rounded to 0."""
    inputs = keras.Input((10,))
    point = QuantizeActivation(MeasuredRange(4), name="point")(inputs)
    model = keras.Model(inputs, keras.layers.Lambda(keras.ops.tanh, output_shape=(10,))(point))
    values = np.random.default_rng(0).normal(size=(300, 10)).astype(np.float32)
    values[7, 3] = 400.0
    calibrate(model, values, observer="auto")
    low, high = map(float, model.get_layer("point").quantizer.range())
    assert high < 10
    assert low > -10


def test_auto_leaves_room_at_outputs() -> None:
    """Of values with long tails the largest of some hundred are not the largest there are."""
    inputs = keras.Input((10,))
    model = keras.Model(inputs, QuantizeActivation(MeasuredRange(8), name="point")(inputs))
    values = np.random.default_rng(0).laplace(size=(100, 10)).astype(np.float32)
    calibrate(model, values, observer="auto")
    low, high = map(float, model.get_layer("point").quantizer.range())
    assert low < 1.02 * values.min()
    assert high > 1.02 * values.max()


def test_auto_is_no_further_from_the_float_model_than_the_extremes() -> None:
    inputs = keras.Input((16,))
    x = keras.layers.Dense(32, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(4)(x))
    values = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
    errors = []
    for observer in ("min_max", "auto"):
        quantized = kc.quantize_model(model, weights=None, activations="int4")
        calibrate(quantized, values, observer=observer)
        errors.append(float(np.square(quantized(values) - model(values)).mean()))
    assert errors[1] <= errors[0]
