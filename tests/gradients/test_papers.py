"""Each codec beside its paper: literal numbers worked out by hand, means, bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import keras_compress as kc
from keras_compress.gradients.codec import GradientCodec

FLOATS = st.floats(-100, 100, width=32)
VECTORS = hnp.arrays(np.float32, st.integers(1, 40), elements=FLOATS)


def sent(codec: GradientCodec, values: object, state: object = None) -> np.ndarray:
    """What others read of a gradient."""
    array = np.asarray(values, np.float32)
    shapes = {"w": array.shape}
    return codec.decode(codec.encode({"w": array}, state or codec.start(shapes)), shapes)["w"]


def size(codec: GradientCodec, count: int) -> int:
    shapes = {"w": (count,)}
    values = np.random.default_rng(0).normal(size=count).astype(np.float32)
    return len(codec.encode({"w": values}, codec.start(shapes)))


def mean_of(codec: GradientCodec, values: np.ndarray, times: int = 4000) -> np.ndarray:
    """The mean of many messages: of one gradient repeated, whose copies draw numbers of their own."""
    return sent(codec, np.tile(values, (times, 1))).mean(axis=0)


# float16


def test_float16_literal() -> None:
    found = sent(kc.Float16Codec(), [1.0, 1.0 + 2**-11, 1.0 + 3 * 2**-11, 1e9, -1e9, 2**-24])
    assert found.tolist() == [1.0, 1.0, 1.0 + 2**-9, 65504.0, -65504.0, 2**-24]
    assert size(kc.Float16Codec(), 1000) == 16 + 2000


# signSGD (Bernstein et al. 2018)


def test_sign_sgd_literal_and_vote() -> None:
    codec = kc.SignSGD()
    workers = [[3.0, -0.1, 0.0, 5.0], [-9.0, -2.0, 0.0, -1.0], [0.5, 7.0, -1.0, 0.0]]
    found = [{"w": sent(codec, each)} for each in workers]
    assert [each["w"].tolist() for each in found] == [[1, -1, 0, 1], [-1, -1, 0, -1], [1, 1, -1, 0]]
    assert codec.combine(found)["w"].tolist() == [1.0, -1.0, -1.0, 0.0]
    assert size(codec, 1000) == 16 + 4 + 125 + 3


def test_signum_literal() -> None:
    """m = 0.5 m + 0.5 g: 1 and -1, then (1 - 3) / 2 = -1 and (-1 + 4) / 2 = 1.5."""
    codec = kc.SignSGD(momentum=0.5)
    state = codec.start({"w": (2,)})
    assert sent(codec, [2.0, -2.0], state).tolist() == [1.0, -1.0]
    assert sent(codec, [-3.0, 4.0], state).tolist() == [-1.0, 1.0]
    assert state.arrays["momentum/w"].tolist() == [-1.0, 1.5]


# QSGD (Alistarh et al. 2017)


def test_qsgd_levels() -> None:
    """|v| = 5, three levels: shares 0.6 and 0.8 of 3 are 1.8 and 2.4, so levels 1 or 2, and 2 or 3, of 5 / 3."""
    found = sent(kc.QSGD(bits=3, bucket_size=2), np.tile([3.0, -4.0], 500)).reshape(-1, 2)
    assert set(np.round(found[:, 0] * 3 / 5, 4)) == {1.0, 2.0}
    assert set(np.round(found[:, 1] * 3 / 5, 4)) == {-2.0, -3.0}
    assert (found[:, 0] * 3 / 5).mean() == pytest.approx(1.8, abs=5 * 0.4 / 500**0.5)
    # Norms are float32: 16 + 500 * 4 + 1000 * 3 / 8
    assert size(kc.QSGD(bits=3, bucket_size=2), 1000) == 16 + 2000 + 376


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_qsgd_is_right_in_the_mean_and_within_lemma_3_1(bits: int) -> None:
    values = np.random.default_rng(1).normal(size=20).astype(np.float32)
    levels, norm = 2 ** (bits - 1) - 1, float(np.linalg.norm(values))
    found = sent(kc.QSGD(bits=bits, bucket_size=20), np.tile(values, 4000)).reshape(4000, 20)
    np.testing.assert_allclose(found.mean(axis=0), values, atol=5 * norm / (2 * levels) / 4000**0.5)
    variance = np.square(found - values).sum(axis=1).mean()
    assert 0.0 < variance <= min(20 / levels**2, 20**0.5 / levels) * norm**2


@given(VECTORS)
@settings(max_examples=40, deadline=None)
def test_qsgd_keeps_signs_and_stays_within_the_norm(values: np.ndarray) -> None:
    found = sent(kc.QSGD(bits=4, bucket_size=7), values)
    assert (found * values >= 0).all()
    padded = np.zeros(-(-len(values) // 7) * 7)
    padded[: len(values)] = values
    step = np.repeat(np.linalg.norm(padded.reshape(-1, 7), axis=1) / 7, 7)[: len(values)]
    assert (np.abs(found - values) <= step * (1 + 1e-5) + 1e-30).all()


# TernGrad (Wen et al. 2017)


def test_tern_grad_literal() -> None:
    found = sent(kc.TernGrad(clip_factor=None), np.tile([4.0, -1.0, 0.0, 2.0], (1000, 1)))
    assert set(found[:, 0]) == {4.0}
    assert set(found[:, 1]) == {-4.0, 0.0}
    assert set(found[:, 2]) == {0.0}
    assert set(found[:, 3]) == {4.0, 0.0}
    assert size(kc.TernGrad(), 1000) == 16 + 4 + 200


def test_tern_grad_clips_at_so_many_standard_deviations() -> None:
    """Of 0 fifteen times and 16: mean 1, variance 15, so 16 becomes 2.5 sqrt(15) = 9.6825."""
    values = np.zeros(16, np.float32)
    values[3] = 16.0
    found = sent(kc.TernGrad(), values)
    assert found[3] == pytest.approx(2.5 * 15**0.5, rel=1e-6)
    assert sent(kc.TernGrad(clip_factor=None), values)[3] == 16.0


def test_tern_grad_does_not_clip_what_is_almost_equal() -> None:
    """sigma is 0 of one value, and 0.05 of 3 and 3.1 about 3.05: 2.5 sigma is 0.125."""
    assert sent(kc.TernGrad(), [-0.5]).tolist() == [-0.5]
    assert sent(kc.TernGrad(), [0.0]).tolist() == [0.0]
    found = mean_of(kc.TernGrad(), np.array([3.0, 3.1, 3.0, 3.1], np.float32))
    np.testing.assert_allclose(found, [3.0, 3.1, 3.0, 3.1], atol=0.05)


def test_tern_grad_is_right_in_the_mean() -> None:
    values = np.array([1.0, -0.7, 0.3, 0.05, 0.0, -1.0], np.float32)
    np.testing.assert_allclose(mean_of(kc.TernGrad(clip_factor=None), values), values, atol=5 * 0.5 / 4000**0.5)


# 1-bit SGD (Seide et al. 2014)


def test_one_bit_sgd_literal() -> None:
    """Columns (1, 3, -2) and (-1, -5, 0): means 2 and -2, and 0 and -3. What was lost is added to the next gradient."""
    codec = kc.OneBitSGD()
    state = codec.start({"w": (3, 2)})
    found = sent(codec, [[1.0, -1.0], [3.0, -5.0], [-2.0, 0.0]], state)
    assert found.tolist() == [[2.0, -3.0], [2.0, -3.0], [-2.0, 0.0]]
    assert state.arrays["error/w"].tolist() == [[-1.0, 2.0], [1.0, -2.0], [0.0, 0.0]]
    # Zeros now: the error (-1, 1, 0) has the means 0.5 and -1, (2, -2, 0) the means 1 and -2.
    assert sent(codec, np.zeros((3, 2)), state).tolist() == [[-1.0, 1.0], [0.5, -2.0], [0.5, 1.0]]
    assert size(codec, 1000) == 16 + 8 + 125 + 3


@pytest.mark.parametrize("codec", [kc.OneBitSGD(), kc.DeepGradientCompression(0.8, momentum=0.0)])
def test_with_error_feedback_nothing_is_lost(codec: GradientCodec) -> None:
    """What was sent and what is kept are together all gradients."""
    draws = np.random.default_rng(0)
    state, total, arrived = codec.start({"w": (20, 4)}), np.zeros((20, 4)), np.zeros((20, 4))
    for _ in range(30):
        gradient = draws.normal(size=(20, 4)).astype(np.float32)
        total += gradient
        arrived += sent(codec, gradient, state)
    kept = next(state.arrays[f"{kind}/w"] for kind in ("error", "velocity") if f"{kind}/w" in state.arrays)
    np.testing.assert_allclose(arrived + kept, total, atol=1e-4)


# DoReFa-Net (Zhou et al. 2016)


def test_dorefa_literal() -> None:
    """2 bits, m = 3: levels -3, -1, 1, 3, and 0 between two of them, half the time each."""
    found = sent(kc.DoReFaCodec(bits=2), np.tile([3.0, -3.0, 1.0, 0.0], (1000, 1)))
    assert set(found[:, 0]) == {3.0}
    assert set(found[:, 1]) == {-3.0}
    np.testing.assert_allclose(sorted(set(found[:, 2])), [1.0], rtol=1e-6)
    np.testing.assert_allclose(sorted(set(found[:, 3])), [-1.0, 1.0], rtol=1e-6)
    assert size(kc.DoReFaCodec(bits=2), 1000) == 16 + 4 + 250 + 2


@pytest.mark.parametrize("bits", [1, 3])
def test_dorefa_is_right_in_the_mean(bits: int) -> None:
    values = np.array([1.0, -0.7, 0.3, 0.05, 0.0, -1.0], np.float32)
    tolerance = 5 / (2**bits - 1) / 4000**0.5
    np.testing.assert_allclose(mean_of(kc.DoReFaCodec(bits=bits), values), values, atol=tolerance)


# Deep Gradient Compression (Lin et al. 2018)


def test_deep_gradient_compression_literal() -> None:
    """Half of four values, momentum 0.5.

    Step 1, g = (4, -1, 3, 0): u = v = g; 4 and 3 are sent, there u and v become 0; u = v = (0, -1, 0, 0) is kept.
    Step 2, g = (1, -1, 0, 0.5): u = (1, -1.5, 0, 0.5), v = (1, -2.5, 0, 0.5); -2.5 and 1 are sent.
    Step 3, g = 0: u = v = (0, 0, 0, 0.25) + what is kept of v = 0.5: 0.75.
    """
    codec = kc.DeepGradientCompression(0.5, momentum=0.5)
    state = codec.start({"w": (4,)})
    assert sent(codec, [4.0, -1.0, 3.0, 0.0], state).tolist() == [4.0, 0.0, 3.0, 0.0]
    assert state.arrays["momentum/w"].tolist() == state.arrays["velocity/w"].tolist() == [0.0, -1.0, 0.0, 0.0]
    assert sent(codec, [1.0, -1.0, 0.0, 0.5], state).tolist() == [1.0, -2.5, 0.0, 0.0]
    assert sent(codec, [0.0, 0.0, 0.0, 0.0], state).tolist() == [0.0, 0.0, 0.0, 0.75]


def test_momentum_correction_equals_momentum_sgd_where_all_is_sent() -> None:
    """Without masking, a value that is sent each step would have u = m u + g; masked, it begins anew."""
    codec = kc.DeepGradientCompression(0.0, momentum=0.9)
    state = codec.start({"w": (3,)})
    for _ in range(3):
        assert sent(codec, [1.0, -2.0, 3.0], state).tolist() == [1.0, -2.0, 3.0]


def test_clipping_is_shared_among_workers() -> None:
    """The norm of (3, 4) and (0, 12) is 13; four workers clip at 6.5 / sqrt(4): a quarter of it."""
    codec = kc.DeepGradientCompression(0.0, momentum=0.0, clip_norm=6.5)
    shapes = {"a": (2,), "b": (2,)}
    given = {"a": np.array([3.0, 4.0], np.float32), "b": np.array([0.0, 12.0], np.float32)}
    found = codec.decode(codec.encode(given, codec.start(shapes, workers=4)), shapes)
    assert found["a"].tolist() == [0.75, 1.0]
    assert found["b"].tolist() == [0.0, 3.0]


def test_the_warm_up_is_the_paper_s() -> None:
    """75, 93.75, 98.4375, 99.6, then 99.9 % are not sent: of 10,000 values 2,500, 625, 157, 40 (rounded up) and 10."""
    codec = kc.DeepGradientCompression(0.999, momentum=0.0, warm_up_steps=4)
    state = codec.start({"w": (10_000,)})
    draws = np.random.default_rng(0)
    counts = [int(np.count_nonzero(sent(codec, draws.normal(size=10_000), state))) for _ in range(6)]
    assert counts == [2500, 625, 157, 40, 10, 10]


# SketchML (Jiang et al. 2018)


def test_sketch_ml_literal() -> None:
    """Four buckets, as many cells as keys: quantiles 1, 3, 5, 7, 9, whose middles are 2, 4, 6, 8."""
    values = np.zeros(1000, np.float32)
    values[[7, 100, 300, 301, 999]] = [1.0, 3.0, 5.0, 7.0, 9.0]
    values[500] = -2.0
    found = sent(kc.SketchML(buckets=4, groups=4, bins=1.0), values)
    assert found[[7, 100, 300, 301, 999]].tolist() == [2.0, 4.0, 6.0, 8.0, 8.0]
    assert found[500] == -2.0
    assert np.count_nonzero(found) == 6


@pytest.mark.parametrize("sketch", ["exact", "kll"])
def test_sketch_ml_only_decays_and_no_sign_changes(sketch: str) -> None:
    if sketch == "kll":
        pytest.importorskip("datasketches")
    draws = np.random.default_rng(0)
    values = draws.laplace(size=20_000).astype(np.float32) * (draws.random(20_000) < 0.1)
    codec = kc.SketchML(sketch=sketch)
    found = sent(codec, values)
    kept = values != 0
    np.testing.assert_array_equal(np.sign(found), np.sign(values))
    for sign in (1, -1):
        magnitudes = np.abs(values[values * sign > 0])
        if sketch == "exact":  # another sketch has other quantiles
            buckets, middles = codec.bucketed(magnitudes)
            assert (np.abs(found[values * sign > 0]) <= middles[buckets]).all()
            # ... by no more than the buckets of a group: 16.
            groups = buckets // 16 * 16
            assert (np.abs(found[values * sign > 0]) >= middles[groups]).all()
    assert 0.5 < np.abs(found[kept]).mean() / np.abs(values[kept]).mean() < 1.05


def test_bytes_of_sketch_ml() -> None:
    """One value of 20, 16 lists of keys: differences of 320 in the mean; exp(-256 / 320) = 0.45 take two bytes.

    So a key takes 1.45 bytes and 2 bits, its value 2 * 0.2 cells of 4 bits; beside them 128 middles for each sign.
    """
    draws = np.random.default_rng(0)
    values = (draws.normal(size=200_000) * (draws.random(200_000) < 0.05)).astype(np.float32)
    codec, count = kc.SketchML(), int(np.count_nonzero(values))
    message = len(codec.encode({"w": values}, codec.start({"w": values.shape})))
    assert (message - 8 * 128) / count == pytest.approx(1.45 + 0.25 + 0.2, abs=0.03)
    assert 8 * count / message > 3.9  # beside keys and values of 4 bytes each


@given(
    hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-1e4, 1e4, width=32)),
    st.sampled_from([(4, 1), (12, 3), (16, 16)]),
)
@settings(max_examples=40, deadline=None)
def test_sketch_ml_never_turns_a_sign_or_leaves_the_range(values: np.ndarray, sizes: tuple[int, int]) -> None:
    found = sent(kc.SketchML(buckets=sizes[0], groups=sizes[1], rows=2, bins=0.3), values)
    assert (found * values >= 0).all()
    assert (found[values == 0] == 0).all()
    assert (np.abs(found) <= np.abs(values).max()).all()


def test_more_rows_and_groups_decay_less() -> None:
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    lost = [
        float(np.abs(sent(kc.SketchML(groups=groups, rows=rows), values) - values).mean())
        for groups, rows in [(1, 1), (1, 3), (8, 3)]
    ]
    assert lost[0] > lost[1] > lost[2]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: kc.SketchML(buckets=10, groups=3), "a multiple of `groups`"),
        (lambda: kc.SketchML(bins=0.0), "0 < `bins` <= 1"),
        (lambda: kc.SketchML(sketch="tdigest"), "`sketch` out of"),
        (lambda: kc.QSGD(bits=1), "`bits` to be an integer from 2 to 8"),
        (lambda: kc.TernGrad(clip_factor=-1), "`clip_factor` > 0"),
        (lambda: kc.SignSGD(momentum=1.0), "0 <= `momentum` < 1"),
        (lambda: kc.DeepGradientCompression(1.0), "0 <= `sparsity` < 1"),
        (lambda: kc.DeepGradientCompression(clip_norm=0), "`clip_norm` > 0"),
        (lambda: kc.DoReFaCodec(bits=True), "`bits` to be an integer"),
    ],
)
def test_arguments_out_of_range_are_refused(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_kll_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasketches", None)
    with pytest.raises(ImportError, match=r"keras-compress\[sketches\]"):
        sent(kc.SketchML(sketch="kll"), [1.0, 2.0])


def test_bound_of_float16() -> None:
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    assert (np.abs(sent(kc.Float16Codec(), values) - values) <= np.maximum(2**-11 * np.abs(values), 2**-25)).all()
    assert math.isclose(float(sent(kc.Float16Codec(), [0.1])[0]), 0.0999755859375)
