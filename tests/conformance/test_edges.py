"""Arguments at the ends of their ranges: the last value that is taken, and the first that is refused by its name."""

from __future__ import annotations

from typing import Any

import keras
import pytest

import keras_compress as kc
from keras_compress.core.affine import QuantSpec
from keras_compress.core.schedule import resolve_step

SCHEDULE = kc.ConstantSparsity(0.5, begin_step=0)
ENDING = kc.ConstantSparsity(0.5, begin_step=0, end_step=9)
NOT_FINITE = (float("nan"), float("inf"), -float("inf"))
WIDE = {"symmetric": False, "narrow_range": False}
# Class, what it needs, argument, values that are taken, values that are refused.
ENDS: list[tuple[Any, dict[str, Any], str, tuple[Any, ...], tuple[Any, ...]]] = [
    (QuantSpec, WIDE, "bits", (1, 32), (0, 33, True, 8.0)),
    (kc.ConstantSparsity, {"begin_step": 0}, "target_sparsity", (0.0, 0.999), (-0.001, 1.0)),
    (kc.ConstantSparsity, {"target_sparsity": 0.5}, "begin_step", (0, 7), (-1, 0.5)),
    (kc.ConstantSparsity, {"target_sparsity": 0.5, "begin_step": 3}, "end_step", (-1, 3, 4), (-2, 2)),
    (kc.ConstantSparsity, {"target_sparsity": 0.5, "begin_step": 0}, "frequency", (1, 2), (0, 1.5)),
    (kc.PolynomialDecay, {"initial_sparsity": 0, "final_sparsity": 0.5, "begin_step": 3}, "end_step", (4,), (3, 2)),
    (
        kc.PolynomialDecay,
        {"initial_sparsity": 0, "final_sparsity": 0.5, "begin_step": 0, "end_step": 4},
        "power",
        (0.001, 1, 3),
        (0, -1, *NOT_FINITE),
    ),
    (kc.MagnitudePruner, {"schedule": SCHEDULE}, "block_size", ((1, 1), (1, 16)), ((0, 1), (1,), (1, 1.5), (1, 1, 1))),
    (kc.NMPruner, {"schedule": SCHEDULE}, "sparsity_m_by_n", ((1, 2), (3, 4)), ((0, 4), (4, 4), (2,), (1, 2.5))),
    (kc.ColumnCombining, {"schedule": SCHEDULE}, "alpha", (1, 8), (0, True, 1.5)),
    (kc.ColumnCombining, {"schedule": SCHEDULE}, "gamma", (0, 0.5), (-0.001,)),
    (kc.KernelPatternPruner, {"schedule": SCHEDULE}, "number_of_patterns", (1, 56), (0, 57, True, 4.0)),
    (kc.ThresholdPruner, {"schedule": SCHEDULE}, "quality", (0, 2.5), (-0.001, True)),
    (kc.RigLPruner, {"schedule": ENDING}, "drop_fraction", (0, 1.0), (-0.001, 1.001)),
    (kc.SetPruner, {"schedule": ENDING}, "seed", (0, 2**31 - 1), (-1, 2**31, True, 1.0)),
    (kc.RegularizedPruner, {"schedule": SCHEDULE}, "strength", (0.0, 2), (-0.001, float("inf"))),
    (kc.RegularizedPruner, {"schedule": SCHEDULE}, "rate", (0.001,), (0.0, -1.0)),
    (kc.RegularizedPruner, {"schedule": SCHEDULE}, "temperature", (0.001,), (0.0, -1.0)),
    (kc.RegularizedPruner, {"schedule": SCHEDULE}, "initial_probability", (0.001, 0.999), (0.0, 1.0)),
    (kc.L0Pruner, {}, "initial_drop_rate", (0.001, 0.999), (0.0, 1.0)),
    (kc.L0Pruner, {}, "rate", (0.001,), (0.0, -1.0)),
    (kc.L0Pruner, {}, "strength", (0.0, 1.0), (-0.001, float("nan"))),
    (kc.VariationalDropoutPruner, {}, "warm_up_steps", (0, 5), (-1, 1.5, True)),
    (kc.VariationalDropoutPruner, {}, "initial_log_sigma2", (-30, 2.5), (*NOT_FINITE, True)),
    (kc.StrPruner, {}, "initial_s", (-0.001, -3200), (0.0, 1.0, *NOT_FINITE)),
    (kc.StrPruner, {}, "weight_decay", (0.0, 1.0), (-0.001,)),
    (kc.PdpPruner, {"schedule": SCHEDULE}, "temperature", (1e-9,), (0.0, -1.0)),
    (kc.ContinuousSparsificationPruner, {}, "end_step", (1, 9), (0, True, 1.5)),
    (kc.ContinuousSparsificationPruner, {"end_step": 4}, "final_temperature", (1.0, 200), (0.999, *NOT_FINITE)),
    (kc.ContinuousSparsificationPruner, {"end_step": 4}, "initial_s", (-1, 0.5), (*NOT_FINITE, True)),
    (kc.CentroidClusterer, {}, "number_of_clusters", (2, 256), (1, 257, 4.0)),
    (kc.AnnealedClusterer, {}, "steps", (1, 9), (0, True, 1.5)),
    (kc.AnnealedClusterer, {"hard": 50.0}, "soft", (0.001, 49.9), (0.0, 50.0)),
    (kc.AnnealedClusterer, {}, "hard", (1.001, 1e6), (1.0, float("inf"))),
    (kc.EntropyClusterer, {}, "bits", (0.001, 8.0), (0.0, 8.001, True, float("nan"))),
    (kc.VectorClusterer, {}, "number_of_codewords", (2, 65_536), (1, 65_537, True, 4.0)),
    (kc.VectorClusterer, {}, "vector_size", (None, 2, 9), (1, True, 4.0)),
    (kc.VectorClusterer, {}, "number_of_codebooks", (1, 8), (0, 9, True)),
    (kc.UniformQuantizer, {}, "bits", (2, 8), (1, 9, True, 4.0)),
    (kc.TTQ, {}, "threshold", (0.0, 0.999), (-0.001, 1.0)),
    (kc.SteTern, {}, "threshold", (0.0, 0.999), (-0.001, 1.0)),
    (kc.LQNets, {}, "momentum", (0.0, 0.999), (-0.001, 1.0)),
    (kc.ABCNet, {}, "bases", (1, 8), (0, 9, True, 2.0)),
    (kc.ABCNetActivation, {}, "bases", (1, 8), (0, 9, True, 2.0)),
    (kc.RSign, {}, "channels", (None, 1, 7), (0, True, 2.0)),
    (kc.RPReLU, {}, "slope", (-1, 0.0, 2.5), NOT_FINITE),
    (kc.WRPN, {}, "bits", (2, 8), (1, 9, True, 4.0)),
    (kc.WRPNActivation, {}, "bits", (1, 8), (0, 9, True)),
    (kc.XnorPlusPlusScale, {}, "case", (1, 2, 3, 4), (0, 5, True)),
    (kc.BinaryConnect, {}, "seed", (0, 2**31 - 1), (-1, 2**31, True, 1.0)),
    (kc.TermQuantizer, {}, "terms", (1, 3), (0, True, 1.5)),
    (kc.TermQuantizer, {}, "group_size", (1, 4), (0, True, 1.5)),
    (kc.PWLQ, {}, "breakpoints", (1, 2, 3), (0, 4, True)),
    (kc.SwishSign, {}, "beta", (0.001, 5.0), (0.0, -1.0)),
    (kc.SwishSignActivation, {}, "beta", (0.001, 5.0), (0.0, -1.0)),
    (kc.WeightClip, {}, "clip_value", (0.001,), (0.0, -1.0)),
    (kc.DoReFaGradient, {}, "bits", (1, 8), (0, 9, True, 4.0)),
    (kc.DoReFaGradient, {}, "seed", (0,), (-1, True, 1.0)),
    (kc.XnorScale, {"kernel_size": 3}, "momentum", (0.001, 0.999), (0.0, 1.0)),
    (kc.Pact, {}, "alpha", (None, 0.001), (0.0, -1.0)),
    (kc.Pact, {}, "regularization", (0.0, 1.0), (-0.001,)),
    (kc.MovingAverageRange, {}, "decay", (0.001, 0.999), (0.0, 1.0)),
    (kc.MovingAverageRange, {}, "bits", (2, 8, 16), (1, 9, 15, True)),
    (kc.FixedGrid, {"zero_point": 0}, "scale", (1e-9,), (0.0, -1.0)),
    (kc.PCA, {}, "energy", (0.001, 1.0), (0.0, 1.001)),
    (kc.SInGE, {}, "steps", (0, 6), (-1, 1.5)),
    (kc.SInGE, {}, "mu", (0.001, 0.999), (0.0, 1.0)),
    (kc.Taylor, {}, "batch_size", (1,), (0, 1.5)),
    (kc.LeGR, {}, "macs", (0.001, 0.999), (0.0, 1.0)),
    (kc.LeGR, {}, "max_ratio", (0.001, 0.999), (0.0, 1.0)),
    (kc.LeGR, {}, "population", (1,), (0, 1.5)),
    (kc.LeGR, {}, "generations", (0,), (-1, 1.5)),
    (kc.LeGR, {}, "samples", (1,), (0, 1.5)),
    (kc.LeGR, {}, "mutation", (0.001, 1.0), (0.0, 1.001)),
    (kc.LeGR, {}, "sigma", (0.0, 2.0), (-0.001,)),
]


@pytest.mark.parametrize("row", ENDS, ids=lambda row: f"{row[0].__name__}-{row[2]}")
def test_ends_of_a_range(row) -> None:
    cls, needed, name, taken, refused = row
    for value in taken:
        cls(**needed, **{name: value})
    for value in refused:
        with pytest.raises(ValueError, match="Expected .*Received: "):
            cls(**needed, **{name: value})


def test_ends_of_points_in_time() -> None:
    assert [resolve_step(value, None, 10, "end_step") for value in (0, 0.04, 0.06, 1)] == [0, 0, 1, 9]
    assert resolve_step(-1, None, None, "end_step") == -1
    for value in (-0.001, 1.001):
        with pytest.raises(ValueError, match="in \\[0, 1\\] of `total_steps`"):
            resolve_step(value, None, 10, "end_step")
    with pytest.raises(ValueError, match="Expected one of `steps_per_epoch` and `total_steps`"):
        resolve_step(0.5, 10, 10, "end_step")


def test_ends_of_ranges_of_functions() -> None:
    x = keras.Input((6,))
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.Dense(8, name="a", activation="relu")(x)))
    for value in (0.0, 1.0, -0.5):
        with pytest.raises(ValueError, match="Expected .*Received: "):
            kc.prune_channels(model, value)
    assert kc.prune_channels(model, 0.001, round_to=1).get_layer("a").units == 8
    with pytest.raises(ValueError, match="Received: round_to=0"):
        kc.prune_channels(model, 0.5, round_to=0)
