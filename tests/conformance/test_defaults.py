"""What a constructor takes where it is not told: another default is another result for everybody who did not say."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import pytest

import keras_compress  # noqa: F401, it registers its classes
import keras_compress.structured.channel_mask  # noqa: F401

DEFAULTS: dict[str, dict[str, Any]] = {
    "ABCNet": {"bases": 3, "per_channel": False},
    "ABCNetActivation": {"bases": 3},
    "AlternatingSparsity": {"frequency": 100},
    "APoT": {"bits": 4, "per_channel": False},
    "AnnealedClusterer": {
        "number_of_clusters": 16,
        "steps": 1000,
        "soft": 1.0,
        "hard": 1000.0,
        "cluster_centroids_init": "optimal",
        "preserve_sparsity": False,
        "seed": 0,
    },
    "EntropyClusterer": {"number_of_clusters": 64, "bits": 2.0, "preserve_sparsity": False},
    "VectorClusterer": {"number_of_codewords": 256, "vector_size": None, "number_of_codebooks": 1, "seed": 0},
    "AsymmetricQuantizer": {"bits": 8, "per_channel": True},
    "BWN": {"per_channel": True},
    "BinaryConnect": {"stochastic": True, "seed": 0},
    "CentroidClusterer": {
        "cluster_centroids_init": "optimal",
        "preserve_sparsity": False,
        "cluster_per_channel": False,
        "fixed_assignments": False,
        "seed": 0,
    },
    "ChannelMask": {
        "units": None,
        "pools": None,
        "axis": -1,
        "role": "out",
        "scored": True,
        "criterion": "l1",
        "group": None,
        "scope": "local",
        "round_to": 1,
        "regrow": False,
    },
    "ColumnCombining": {"regrow": False, "alpha": 8, "gamma": 0.5},
    "ConstantSparsity": {"end_step": -1, "frequency": 100},
    "ContinuousSparsificationPruner": {"strength": 1e-6, "rate": 1.0, "initial_s": 0.0, "final_temperature": 200.0},
    "CosineDecay": {"frequency": 100},
    "DoReFa": {"bits": 2},
    "DoReFaActivation": {"bits": 2},
    "DoReFaGradient": {"bits": 6, "seed": 0},
    "FixedGrid": {"bits": 8, "lowest": None, "rounding": "half_even"},
    "HalfWaveGaussian": {"bits": 2},
    "KernelPatternPruner": {"number_of_patterns": 8, "regrow": False},
    "L0Pruner": {"strength": 1e-5, "rate": 10.0, "initial_drop_rate": 0.2, "seed": 0},
    "LQNets": {"bits": 2, "per_channel": True, "momentum": 0.9},
    "LSQ": {"bits": 4, "per_channel": False},
    "LSQActivation": {"bits": 4, "signed": False},
    "LeGR": {
        "macs": 0.5,
        "population": 8,
        "generations": 32,
        "samples": 4,
        "mutation": 0.1,
        "sigma": 1.0,
        "max_ratio": 0.9,
        "seed": 0,
    },
    "LearnedClip": {"bits": 4, "per_channel": False},
    "LearnedRange": {"bits": 8},
    "Log2": {"bits": 4, "per_channel": True},
    "MagnitudePruner": {"regrow": False, "group": None, "block_size": (1, 1), "block_pooling_type": "AVG"},
    "MovingAverageRange": {"bits": 8, "decay": 0.99},
    "NMPruner": {"regrow": False},
    "PCA": {"energy": 0.99},
    "PWLQ": {"bits": 4, "per_channel": True, "breakpoints": 1, "overlapping": False},
    "Pact": {"bits": 4, "alpha": None, "regularization": 0.0002},
    "PdpPruner": {"temperature": 1e-4},
    "PolynomialDecay": {"power": 3.0, "frequency": 100},
    "RPReLU": {"slope": 0.25},
    "RSign": {"channels": None},
    "Random": {"seed": 0},
    "RegularizedPruner": {
        "strength": 100.0,
        "rate": 100.0,
        "temperature": 1.0,
        "initial_probability": 0.9,
        "seed": 0,
    },
    "RigLPruner": {"drop_fraction": 0.3, "first_mask": "random", "seed": 0},
    "SInGE": {"steps": 6, "mu": 0.7},
    "SetPruner": {"drop_fraction": 0.3, "first_mask": "random", "seed": 0},
    "SteTern": {"threshold": 0.05},
    "StrPruner": {"weight_decay": 1e-2, "rate": 10.0, "initial_s": -8.0},
    "SwishSign": {"beta": 5.0},
    "SwishSignActivation": {"beta": 5.0},
    "TTQ": {"threshold": 0.05, "per_channel": False},
    "TWN": {"per_channel": True},
    "ThresholdPruner": {"quality": 1.0, "regrow": False},
    "Taylor": {"batch_size": 8},
    "TermQuantizer": {"terms": 16, "group_size": 8, "per_channel": True},
    "UniformQuantizer": {"bits": 8, "per_channel": True},
    "VariationalDropoutPruner": {"strength": 2e-5, "warm_up_steps": 0, "initial_log_sigma2": -10.0, "seed": 0},
    "WRPN": {"bits": 4},
    "WRPNActivation": {"bits": 4},
    "WeightClip": {"clip_value": 1.0},
    "XnorPlusPlus": {"per_channel": True},
    "XnorPlusPlusScale": {"case": 4},
    "XnorScale": {"strides": 1, "padding": "valid", "constant": False, "momentum": 0.99},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults(name: str) -> None:
    cls = keras.saving.get_registered_object(f"keras_compress>{name}")
    found: dict[str, Any] = {}
    for parent in cls.__mro__:
        if parent.__module__.startswith("keras_compress.") and "__init__" in vars(parent):
            parameters = inspect.signature(parent.__init__).parameters.values()
            found = {p.name: p.default for p in parameters} | found
    assert {argument: found[argument] for argument in DEFAULTS[name]} == DEFAULTS[name]
