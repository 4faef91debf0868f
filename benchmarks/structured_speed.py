"""Latency of large networks at half their multiply-accumulates, beside the unpruned ones in the same run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

import keras_compress as kc


@dataclass(frozen=True)
class Network:
    """A network of `keras.applications`, and how many times faster it has to be at half its MACs."""

    name: str
    goal: float
    size: int = 224


NETWORKS = (Network("VGG16", 1.9), Network("ResNet50", 1.8), Network("MobileNetV2", 1.6))
RUNS, WARMUP = 50, 3


def speed_row(network: Network, quick: bool) -> list[dict[str, Any]]:
    """Rows for float32 and int8: MACs, parameters, bytes and latency before and after.

    Weights are random: latency does not depend on them.
    """
    size = 64 if quick else network.size
    keras.utils.set_random_seed(0)
    build = getattr(keras.applications, network.name)
    model = build(weights=None, input_shape=(size, size, 3), classes=1000)
    pruned = kc.prune_channels(model, target=kc.Budget(macs=0.5), round_to=8)
    data = np.random.default_rng(0).normal(0, 1, (2, size, size, 3)).astype(np.float32)
    shared = {"network": network.name, "size": size, "goal": network.goal, **_sizes(model, pruned)}
    rows = []
    for mode, settings in (("float32", {"mode": "float32"}), ("int8", {"representative_dataset": data})):
        files = {name: kc.convert(each, **settings) for name, each in (("whole", model), ("pruned", pruned))}
        found = kc.measure_all(files, runs=RUNS, warmup=WARMUP, time_limit_s=1200.0)
        before, after = found["whole"].latency, found["pruned"].latency
        rows.append(
            {
                **shared,
                "mode": mode,
                "speedup": before.median_ms / after.median_ms,
                "latency_before": asdict(before),
                "latency_after": asdict(after),
                "bytes_before": found["whole"].raw_bytes,
                "bytes_after": found["pruned"].raw_bytes,
            }
        )
    return rows


def _sizes(model: keras.Model, pruned: keras.Model) -> dict[str, int]:
    return {
        "macs_before": kc.channel_graph(model).macs(),
        "macs_after": kc.channel_graph(pruned).macs(),
        "params_before": model.count_params(),
        "params_after": pruned.count_params(),
    }
